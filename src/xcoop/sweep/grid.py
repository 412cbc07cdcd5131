"""What a sweep is asked for: the axes on the command line and in a grid file, which are crossed; all of it checked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xcoop.config.merge import concerns, merge_pairs
from xcoop.config.plugins import get_cfg, trainer_names
from xcoop.engine.config import flatten
from xcoop.runs.plan import KEY, TAKEN, shot_number
from xcoop.utils.console import UserError, numbers, shown, unknown
from xcoop.utils.reading import read_yaml

FEW_SHOT = "few-shot"  # on `shots` training images a class
FULL = "full"  # on all training images, once, whatever `shots` says
BASE_TO_NEW = "base-to-new"  # on the first half of the classes; tested on these, and then on the other half
CROSS = "cross"  # as few-shot; tested on the datasets of `targets`, too
SETTINGS = (FEW_SHOT, FULL, BASE_TO_NEW, CROSS)
SUBSAMPLE = "DATASET.SUBSAMPLE_CLASSES"
VARIANTS = "variants"
AXES = ("datasets", "trainers", "shots", "seeds", "cfgs", "backbones", "setting", "targets", VARIANTS)
SHAPE = "`variants:` takes a list of mappings such as [{}, {TRAINER.XCOOP.LOCAL_WEIGHT: 0.0}]"

Variant = tuple[tuple[str, str], ...]  # (KEY, value) each; () is the method as it is


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep, which are crossed.

    Attributes:
        datasets: short names or paths.
        trainers: names; or `all` alone.
        shots: training images a class; not used by `full`.
        seeds: to run.
        cfgs: configurations of the methods; () for the default of each dataset.
        backbones: names such as "ViT-B/16"; () for those of the configurations.
        keys: (KEY, values) each; a single value is the same for all runs.
        variants: (KEY, value) pairs each, which change together; () is the method as it is.
        setting: one of `SETTINGS`.
        targets: of `cross`: the datasets that each trained model is tested on, too.
        data: the data root.
        out: the output root.
    """

    datasets: tuple[str, ...]
    trainers: tuple[str, ...] = ("XCoOp",)
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: tuple[int, ...] = (1, 2, 3)
    cfgs: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    keys: tuple[tuple[str, tuple[str, ...]], ...] = ()
    variants: tuple[Variant, ...] = ((),)
    setting: str = FEW_SHOT
    targets: tuple[str, ...] = ()
    data: str = "data"
    out: str = "output"

    def check(self) -> None:
        """UserError for what is wrong in the grid itself."""
        if self.setting not in SETTINGS:
            raise UserError(unknown("setting", self.setting, SETTINGS))
        if bool(self.targets) != (self.setting == CROSS):
            raise UserError("--setting cross and --targets belong together: `--setting cross --targets <dataset,...>`")
        for key, _ in (*self.keys, *itertools.chain(*self.variants)):
            if key in TAKEN:
                raise UserError(
                    f"{key} is set by `xcoop sweep` itself (datasets, trainers, shots, seeds, --data, --out)"
                )
            if key == SUBSAMPLE and self.setting != FEW_SHOT:
                raise UserError(f"{SUBSAMPLE} is set by --setting {self.setting} itself")
        for name, values in (("datasets", self.datasets), ("trainers", self.trainers), ("seeds", self.seeds)):
            if not values:
                raise UserError(f"a sweep needs {name}: none are given")
        if "all" in self.trainers and len(self.trainers) > 1:
            raise UserError("trainers: `all` stands alone")
        first: dict[str, str] = {}
        for target in self.targets:
            if (other := first.setdefault(Path(target).stem, target)) != target:
                raise UserError(
                    f"--targets: {other} and {target} would share the folder evaluation/{Path(target).stem}_all"
                )
        self._check_readers()

    def _check_readers(self) -> None:
        """UserError if a trainer would not see a key of a variant, and be run once more for nothing."""
        nodes = get_cfg().TRAINER
        for trainer in trainer_names() if "all" in self.trainers else self.trainers:
            for variant in self.variants:
                for key, _ in variant:
                    if not concerns(key, trainer, nodes):
                        raise UserError(
                            f"the variant {spelled(variant)} changes nothing in {trainer}, which does not read {key}: "
                            f"give {trainer} a grid of its own"
                        )


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
    axes = {str(name): value for name, value in tree.items()}
    for name, value in axes.items():
        if name not in AXES and not KEY.fullmatch(name):
            raise UserError(f"--grid {path}: {unknown('axis', name, AXES)} Config keys are written as A.B: [values].")
        if name != VARIANTS and (value in (None, []) or (name in AXES and not str(value).strip())):
            raise UserError(f"--grid {path}: {name} names none; leave it out, or name one")
    if VARIANTS in axes:
        axes[VARIANTS] = _read_variants(axes[VARIANTS], f"--grid {path}")
        _require_apart(axes[VARIANTS], axes, f"--grid {path}")
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
    lists = {
        name: tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)
        for name, value in axes.items()
        if name != VARIANTS
    }
    variants = axes.get(VARIANTS, ((),))
    _require_apart(variants, lists, "grid file and command line")
    if not lists.get("datasets"):
        raise UserError("no dataset is given: xcoop sweep <dataset[,dataset]>, or `datasets:` in the grid file")
    given: dict[str, Any] = {name: values for name, values in lists.items() if name in AXES and values}
    if "shots" in given:
        given["shots"] = tuple(dict.fromkeys(shot_number(text) for text in given["shots"]))
    if "seeds" in given:
        given["seeds"] = tuple(numbers(" ".join(given["seeds"]), "seeds"))
    if "setting" in given:
        given["setting"] = given["setting"][0]
    keys = tuple((name, values) for name, values in lists.items() if name not in AXES)
    return Grid(**given, keys=keys, variants=variants, data=data, out=out)


# The axis `variants:`: config keys that change together, one choice after the other, not crossed with each other.


def _read_variants(value: Any, where: str) -> tuple[Variant, ...]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: {SHAPE}, not {shown(value)}")
    found = tuple(_variant(one, f"{where}: variant {number}") for number, one in enumerate(value, 1))
    for number, one in enumerate(found):
        if one in found[:number]:
            first = found.index(one) + 1
            raise UserError(f"{where}: variants {first} and {number + 1} are the same ({spelled(one)}): keep one")
    return found


def _variant(value: Any, where: str) -> Variant:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {SHAPE}; this one is {shown(value)}")
    defaults = get_cfg()
    for key, setting in value.items():
        if not KEY.fullmatch(str(key)):
            near = unknown("key", str(key), flatten(defaults)).partition(" Known:")[0]
            raise UserError(f"{where}: {near} Config keys are written as A.B: value.")
        if setting is None or isinstance(setting, dict):
            raise UserError(f"{where}: {key} takes one value, not {shown(setting)}")
    pairs = tuple(sorted((str(key), str(setting)) for key, setting in value.items()))
    try:
        merge_pairs(defaults, list(itertools.chain(*pairs)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return pairs


def _require_apart(variants: Iterable[Variant], given: Iterable[str], where: str) -> None:
    """UserError if a key belongs to a variant and is given by itself, too: which of the two were to win?"""
    alone = set(given)
    for key, value in itertools.chain(*variants):
        if key in alone:
            raise UserError(
                f"{where}: {key} stands in a variant ({value}), and by itself, too; keep it in one place: in the "
                "variants to change it with them alone, by itself to cross it with all of them"
            )


def spelled(variant: Variant) -> str:
    """A variant as it stands in a grid file."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in variant) + "}"
