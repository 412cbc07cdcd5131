"""The training engine behind `import dassl`: the real Dassl, mended, or the compatible engine of this package.

`install` is called by `import xcoop`. It imports nothing heavy; torch comes with the first `import dassl.<module>`
that needs it. The rest of the library writes `from dassl.engine import TrainerX` and never asks which one it gets.
"""

from __future__ import annotations


def install() -> None:
    """Makes `import dassl` work from here on; calling it again changes nothing."""
    from xcoop.engine.finder import install as install_finder

    install_finder()
