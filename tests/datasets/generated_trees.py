"""Every tiny dataset tree in its official layout: what the modules `trees_<family>.py` beside this file offer.

Such a module holds `LAYOUTS`, by the name of the config file how its tree is made and what is in it, and `DAMAGES`, by
the same names ways to damage it and what the error must say. A new dataset adds one module and touches no other.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from tree_tools import Damages, Layout

LAYOUTS: dict[str, Layout] = {}
DAMAGES: dict[str, Damages] = {}

for path in sorted(Path(__file__).parent.glob("trees_*.py")):
    module = importlib.import_module(path.stem)
    LAYOUTS |= module.LAYOUTS
    DAMAGES |= module.DAMAGES
