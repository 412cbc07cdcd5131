"""The axes of a sweep as plain lists: from a YAML file, the command line, or both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xcoop.runs.plan import KEY, shot_number
from xcoop.sweep.grid import Grid
from xcoop.sweep.variants import read_variants, require_apart
from xcoop.utils.console import UserError, numbers
from xcoop.utils.reading import read_yaml
from xcoop.utils.suggest import unknown

AXES = ("datasets", "trainers", "shots", "seeds", "cfgs", "backbones", "setting", "targets", "variants")
VARIANTS = "variants"


def read_grid_file(path: Path) -> dict[str, Any]:
    """The content of a grid file: axes and config keys, each with a value or a list of them; `variants` are checked.

    Raises:
        UserError: there is no such file, it is no YAML, it has a name that is neither, or its variants are wrong; the
            message names it.
    """
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise UserError(f"--grid {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--grid {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"--grid {path} must hold axes such as `datasets: [phantom]`, not a {type(tree).__name__}")
    for name in tree:
        if name not in AXES and not KEY.fullmatch(str(name)):
            raise UserError(
                f"--grid {path}: {unknown('axis', str(name), AXES)} Config keys are written as A.B: [values]."
            )
        if name != VARIANTS and (tree[name] in (None, []) or (name in AXES and not str(tree[name]).strip())):
            raise UserError(f"--grid {path}: {name} names none; leave it out, or name one")
    axes = {str(name): value for name, value in tree.items()}
    if VARIANTS in axes:
        axes[VARIANTS] = read_variants(axes[VARIANTS], f"--grid {path}")
        require_apart(axes[VARIANTS], axes, f"--grid {path}")
    return axes


def make_grid(axes: Mapping[str, Any], data: str, out: str) -> Grid:
    """The grid of these axes.

    Args:
        axes: of `AXES`, and config keys; each a value or a list of them; `variants` as `read_grid_file` gives them.
        data: the data root.
        out: the output root.

    Raises:
        UserError: a number is none, no dataset is given, or a key stands in a variant and by itself.
    """
    lists = {name: _texts(value) for name, value in axes.items() if name != VARIANTS}
    variants = axes.get(VARIANTS, ((),))
    require_apart(variants, lists, "grid file and command line")
    if not lists.get("datasets"):
        raise UserError("no dataset is given: xcoop sweep <dataset[,dataset]>, or `datasets:` in the grid file")
    given: dict[str, Any] = {name: lists[name] for name in ("datasets", "trainers", "cfgs", "backbones", "targets")
                             if lists.get(name)}  # fmt: skip
    if lists.get("shots"):
        given["shots"] = tuple(dict.fromkeys(shot_number(text) for text in lists["shots"]))
    if lists.get("seeds"):
        given["seeds"] = tuple(numbers(" ".join(lists["seeds"]), "seeds"))
    if lists.get("setting"):
        given["setting"] = lists["setting"][0]
    keys = tuple((name, values) for name, values in lists.items() if name not in AXES)
    return Grid(**given, keys=keys, variants=variants, data=data, out=out)


def _texts(value: Any) -> tuple[str, ...]:
    """A value or a list of values as texts."""
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)
