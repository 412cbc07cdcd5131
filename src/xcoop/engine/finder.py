"""How `import dassl` is answered: by the real Dassl, mended as it is loaded, or by our facade.

A finder stands first on `sys.meta_path` and looks only at `dassl` and what is below it, and at copies of CLIP. It asks
the other finders; if one of them knows a Dassl, each of its modules is mended right after it ran. If none does, our own
modules answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from xcoop.engine.facade import MODULES, Facade, fill

CLIPS = ("clip.clip", "xcoop._clip.clip")  # a checkout's copy, or the installed one as we import it


class FacadeLoader(Loader):
    """Makes the modules of our own engine."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module of the name asked for."""
        return Facade(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Gives it its documentation and its list of names."""
        fill(module)


class DasslFinder(MetaPathFinder):
    """Finds `dassl` and its modules, and the modules of CLIP; leaves every other name to the other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The real module's spec with the mend attached, ours if there is no real one, or None."""
        if fullname in CLIPS:
            spec = _other_spec(self, fullname, path, target)
            return spec and _mended(spec)
        if fullname.partition(".")[0] != "dassl":
            return None
        top = sys.modules.get("dassl")
        if isinstance(top, Facade):
            return _own_spec(fullname)
        spec = _other_spec(self, fullname, path, target)
        if spec is not None:
            return _mended(spec)
        return _own_spec(fullname) if fullname == "dassl" else None


def install() -> None:
    """Puts the finder in its place, once, and mends what is already imported of a real Dassl."""
    if not any(isinstance(finder, DasslFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, DasslFinder())
    if "dassl" in sys.modules and not isinstance(sys.modules["dassl"], Facade):
        from xcoop.engine.mends import mend_loaded

        mend_loaded()


def _own_spec(name: str) -> ModuleSpec | None:
    """A spec of our facade, or None for a module that we do not have."""
    if name not in MODULES:
        return None
    is_package = any(other.startswith(f"{name}.") for other in MODULES)
    return ModuleSpec(name, FacadeLoader(), origin="xcoop.engine", is_package=is_package)


def _other_spec(
    own: MetaPathFinder, name: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    """What the other finders say. A bare folder named `dassl` (no loader, or a namespace) is no Dassl."""
    for finder in sys.meta_path:
        if finder is own or not hasattr(finder, "find_spec"):
            continue
        spec = finder.find_spec(name, path, target)
        if spec is not None and (spec.origin is not None or name != "dassl"):
            return spec
    return None


def _mended(spec: ModuleSpec) -> ModuleSpec:
    """The spec, whose loader will mend the module around its execution."""
    loader: Any = spec.loader
    if loader is not None:
        # On the instance, not the class: each spec has a loader of its own, and it keeps its type.
        loader.exec_module = _around(loader.exec_module)
    return spec


def _around(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_and_mend(module: ModuleType) -> None:
        from xcoop.engine.mends import mending

        with mending(module):
            execute(module)

    return execute_and_mend
