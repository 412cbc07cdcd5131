"""Trains and evaluates, with the flags of CoOp's `train.py`: see `python train.py --help`.

The library of this checkout is used. The checkout itself is not searched for modules: its folder `datasets` would
hide the well-known library of that name.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent / "src")

from xcoop.runs.train import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
