"""The packages stand on one another: imports point down, so that each can be read with what is below it alone."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xcoop.moved import MOVED

ROOT = Path(__file__).resolve().parents[1]
# From the ground up; each may import those that stand before it.
LAYERS = (
    *("version", "moved", "utils", "page", "engine", "config", "backbones", "concepts", "evaluation", "results"),
    *(
        "data",
        "methods",
        "training",
        "runs",
        "explain",
        "sweep",
        "phantom",
        "commands",
        "cli",
        "__main__",
        "trainers",
        "datasets",
    ),
)
FOLDERS = {"xcoop": ROOT / "src" / "xcoop", "xcoop.trainers": ROOT / "trainers", "xcoop.datasets": ROOT / "datasets"}
MODULES = {
    ".".join((name, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
    for name, folder in FOLDERS.items()
    for path in folder.rglob("*.py")
}


def layer(module: str) -> str:
    """The package or top-level module below `xcoop`; "" is `xcoop` itself."""
    return [*module.split("."), ""][1]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each module of ours that a file imports, wherever in it and for whatever purpose."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name in MODULES and name != "xcoop")


@pytest.mark.parametrize("old", sorted(MOVED))
def test_plug_ins_find_a_module_by_its_old_name(old: str) -> None:
    assert f"xcoop.{old}" not in MODULES
    with pytest.warns(DeprecationWarning, match=f"xcoop.{old} is xcoop.{MOVED[old]} now"):
        module = importlib.import_module(f"xcoop.{old}")
    assert module is importlib.import_module(f"xcoop.{MOVED[old]}")
    del sys.modules[f"xcoop.{old}"]


def test_an_old_module_takes_no_functions_place() -> None:
    """Python makes an imported module an attribute of its package, and the module of that name may have a function."""
    with pytest.warns(DeprecationWarning, match="is xcoop.explain.tower now"):
        old = importlib.import_module("xcoop.explain.visual.trace")
    assert old.trace is not old
    assert old.trace.__name__ == "trace"


def test_every_package_has_its_layer() -> None:
    assert {layer(module) for module in MODULES} == {*LAYERS, ""}


@pytest.mark.parametrize("package", LAYERS)
def test_imports_point_down(package: str) -> None:
    allowed = LAYERS[: LAYERS.index(package) + 1]
    upwards = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for module, path in MODULES.items()
        if layer(module) == package
        for line, name in imported(path)
        if layer(name) not in allowed
    ]
    assert not upwards
