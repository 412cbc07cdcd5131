"""The training engine behind `import dassl`: the real Dassl, patched, or the compatible engine of this package.

`install` is called by `import xcoop`. It imports nothing heavy; torch comes with the first `import dassl.<module>`
that needs it. The rest of the library writes `from dassl.engine import TrainerX` and never asks which one it gets.
"""

from __future__ import annotations


def install() -> None:
    """Makes `import dassl` work from here on; calling it again changes nothing."""
    from xcoop.engine.imports import install as install_finder

    install_finder()


def needs_dassl(what: str) -> str:
    """What is said of a part of Dassl that this engine does not have, with the remedy."""
    return (
        f"{what} needs Dassl itself, of which xcoop's own engine has what prompt learners use. With a checkout of "
        "https://github.com/KaiyangZhou/Dassl.pytorch on PYTHONPATH, or installed, xcoop runs on it"
    )
