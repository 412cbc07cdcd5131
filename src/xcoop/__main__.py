"""`python -m xcoop`: the command, where its programme is not on the PATH."""

import sys

from xcoop.cli import main

if __name__ == "__main__":
    sys.exit(main())
