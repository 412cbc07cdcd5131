"""What a sweep runs: every combination of datasets, trainers, shots, seeds, configurations, keys and variants."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xcoop.results.folder import check_free
from xcoop.results.record import Origin
from xcoop.runs.plan import ALL_SHOTS, TAKEN, Plan, plan_methods
from xcoop.sweep.backbones import configurations
from xcoop.sweep.jobs import Job
from xcoop.sweep.transfer import (
    BASE_TO_NEW,
    CROSS,
    FEW_SHOT,
    FULL,
    SETTINGS,
    SUBSAMPLE,
    evaluation_job,
    evaluations,
)
from xcoop.sweep.variants import Variant, require_readers, spelled
from xcoop.utils.console import UserError
from xcoop.utils.suggest import unknown


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep, which are crossed.

    Attributes:
        datasets: short names or paths.
        trainers: names; or `all` alone.
        shots: training images a class.
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


def plans(grid: Grid) -> list[Plan]:
    """The trainings of a grid, each folder once.

    Raises:
        UserError: a name, key or value is wrong; everything is checked before anything is started.
    """
    _check(grid)
    shots = (ALL_SHOTS,) if grid.setting == FULL else grid.shots
    found: dict[Path, Plan] = {}
    of: dict[Path, Variant] = {}
    crossed = itertools.product(grid.datasets, shots, grid.trainers, _crossed(grid), grid.variants)
    for dataset, number, trainer, pairs, variant in crossed:
        words = (*pairs, *itertools.chain(*variant))
        for cfg, own in configurations(trainer, dataset, grid.cfgs, grid.backbones):
            for plan in plan_methods(dataset, number, trainer, cfg, (*own, *words), grid.data, grid.out, grid.seeds):
                _require_own_folder(plan.folder, found.setdefault(plan.folder, plan), plan)
                _require_own_variant(plan, of.setdefault(plan.folder, variant), variant)
    return list(found.values())


def jobs(grid: Grid) -> list[Job]:
    """The runs of a grid: trainings, each followed by the evaluations that build on it.

    Raises:
        UserError: a name, key or value is wrong, class names do not match, or a folder holds a run with other
            settings.
    """
    made = [(plan, plan.config(plan.seeds[0])) for plan in plans(grid)]
    further = [evaluations(grid.setting, grid.targets, plan, cfg) for plan, cfg in made]
    found = []
    for (plan, cfg), others in zip(made, further, strict=True):
        for seed in plan.seeds:
            trained = _training(plan, cfg, seed)
            found += [trained, *(evaluation_job(one, c, seed, trained, group_of(c)) for one, c in others)]
    return found


def left_out(grid: Grid, found: Sequence[Job]) -> list[str]:
    """What a reader must know that the jobs do not tell: methods without an evaluation on new classes."""
    if grid.setting != BASE_TO_NEW:
        return []
    followed = {job.after for job in found}
    alone = sorted({plan.trainer for plan in plans(grid) if plan.seed_folder(plan.seeds[0]) not in followed})
    return [f"{name}: what it learns belongs to its classes, so it is not evaluated on new ones" for name in alone]


def _require_own_folder(folder: Path, one: Plan, two: Plan) -> None:
    """UserError if two plans would write into one folder, which only tells the names of their files."""
    for a, b in ((one.dataset, two.dataset), (one.cfg, two.cfg)):
        if a != b:
            raise UserError(f"{a} and {b} would share the folder {folder}: give one of the files another name")


def _require_own_variant(plan: Plan, one: Variant, two: Variant) -> None:
    """UserError if two variants make one run, e.g. since one of them sets a key to what it is anyway."""
    if one != two:
        raise UserError(
            f"the variants {spelled(one)} and {spelled(two)} are the same run of {plan.trainer} ({plan.folder}): "
            "leave one out"
        )


def _training(plan: Plan, cfg: Any, seed: int) -> Job:
    folder = plan.seed_folder(seed)
    check_free(folder, cfg, Origin())  # the seed is no part of what is compared
    return Job(tuple(plan.words(seed)), folder, f"{Path(plan.dataset).stem}: {plan.title(seed)}", group_of(cfg))


def group_of(cfg: Any) -> str:
    """What runs must have in common to share what they load: backbone, dataset, input size."""
    backbone, dataset = cfg.MODEL.BACKBONE, cfg.DATASET
    parts = [backbone.NAME, backbone.get("PATH", ""), dataset.NAME, dataset.get("SET", ""), dataset.get("PATH", ""),
             "x".join(map(str, cfg.INPUT.SIZE))]  # fmt: skip
    return " ".join(str(part) for part in parts if part)


def _check(grid: Grid) -> None:
    """UserError for what is wrong in the grid itself."""
    if grid.setting not in SETTINGS:
        raise UserError(unknown("setting", grid.setting, SETTINGS))
    if bool(grid.targets) != (grid.setting == CROSS):
        raise UserError("--setting cross and --targets belong together: `--setting cross --targets <dataset,...>`")
    for key in [key for key, _ in (*grid.keys, *itertools.chain(*grid.variants))]:
        if key in TAKEN:
            raise UserError(f"{key} is set by `xcoop sweep` itself (datasets, trainers, shots, seeds, --data, --out)")
        if key == SUBSAMPLE and grid.setting != FEW_SHOT:
            raise UserError(f"{SUBSAMPLE} is set by --setting {grid.setting} itself")
    for name, values in (("datasets", grid.datasets), ("trainers", grid.trainers), ("seeds", grid.seeds)):
        if not values:
            raise UserError(f"a sweep needs {name}: none are given")
    if "all" in grid.trainers and len(grid.trainers) > 1:
        raise UserError("trainers: `all` stands alone")
    require_readers(grid.variants, grid.trainers)


def _crossed(grid: Grid) -> Iterator[tuple[str, ...]]:
    """Every choice of values of the keys, as flat KEY VALUE pairs."""
    fixed: Sequence[str] = (SUBSAMPLE, "base") if grid.setting == BASE_TO_NEW else ()
    for values in itertools.product(*(values for _, values in grid.keys)):
        names = (key for key, _ in grid.keys)
        yield (*fixed, *(word for pair in zip(names, values, strict=True) for word in pair))
