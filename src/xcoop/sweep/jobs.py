"""The runs of a sweep: one by one, and all that a grid asks for.

Trained models may be evaluated on what they were not trained on, new classes or other datasets: such an evaluation is a
run that lies below the one whose weights it uses, in `evaluation/<dataset>_<classes>/`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from xcoop.config.merge import as_pairs, method_files, method_names, read_config_tree
from xcoop.results.folder import busy, check_free
from xcoop.results.record import Origin, read_run
from xcoop.runs.plan import ALL_SHOTS, Plan, plan_methods
from xcoop.sweep.grid import BASE_TO_NEW, CROSS, FULL, SUBSAMPLE, Grid, Variant, spelled
from xcoop.utils.console import UserError, unknown

if TYPE_CHECKING:
    from yacs.config import CfgNode

FINISHED, FOUND, BUSY, FAILED = "finished", "found", "busy", "failed"  # how an attempt at a job ends
DONE, RUNNING = "done", "running"  # what is known of a job before it is started; or "damaged", "begun", "to do"


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        words: the arguments of `train.py`, `--output-dir` among them.
        folder: where its results go; the same as `--output-dir`.
        title: its name in messages.
        group: backbone, dataset and input size; jobs of one group share what they load.
        after: the folder of a run that must be done first (the one whose weights are evaluated), if there is one.
        cfg: its merged config.
    """

    words: tuple[str, ...]
    folder: Path
    title: str
    group: str
    after: Path | None = None
    cfg: CfgNode | None = field(default=None, compare=False, repr=False)

    @property
    def log(self) -> Path:
        """The run's log."""
        return self.folder / "log.txt"

    def done(self) -> bool:
        """Whether its `results.json` is whole.

        Raises:
            ValueError: the record is damaged; the message names the file.
        """
        return read_run(self.folder) is not None

    def state(self) -> str:
        """What is known of it before it is started."""
        try:
            if self.done():
                return DONE
        except ValueError:
            return "damaged"
        if busy(self.folder):
            return RUNNING
        return "begun" if any(self.folder.glob("*/model*.pth.tar*")) else "to do"


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a job ended.

    Attributes:
        state: FINISHED (by us, now), FOUND (it was done before), BUSY (another process is at it), FAILED.
        seconds: wall time.
        message: why it failed, or what is busy; a line or more.
        again: whether a failed run may be tried once more (not where the user has to change something first).
    """

    state: str
    seconds: float = 0.0
    message: str = ""
    again: bool = True


def training(plan: Plan, seed: int, title: str = "") -> Job:
    """The run of one seed.

    Raises:
        UserError: its folder holds a run with other settings.
    """
    folder, cfg = plan.seed_folder(seed), plan.config(seed)
    check_free(folder, cfg, Origin())
    return Job(tuple(plan.words(seed)), folder, title or plan.title(seed), _group(cfg), cfg=cfg)


def _group(cfg: CfgNode) -> str:
    backbone, dataset = cfg.MODEL.BACKBONE, cfg.DATASET
    parts = [backbone.NAME, backbone.get("PATH", ""), dataset.NAME, dataset.get("SET", ""), dataset.get("PATH", ""),
             "x".join(map(str, cfg.INPUT.SIZE))]  # fmt: skip
    return " ".join(str(part) for part in parts if part)


def jobs(grid: Grid) -> list[Job]:
    """The runs of a grid: trainings, each followed by the evaluations that build on it.

    Raises:
        UserError: a name, key or value is wrong, class names do not match, or a folder holds a run with other
            settings.
    """
    further = {plan: _evaluation_plans(grid, plan) for plan in plans(grid)}
    found = []
    for plan, evaluations in further.items():
        for seed in plan.seeds:
            trained = training(plan, seed, f"{Path(plan.dataset).stem}: {plan.title(seed)}")
            found += [trained, *(_evaluation_job(other, seed, trained) for other in evaluations)]
    return found


def left_out(grid: Grid) -> list[str]:
    """What a reader must know that the jobs do not tell: methods without an evaluation on new classes."""
    if grid.setting != BASE_TO_NEW:
        return []
    alone = sorted({plan.trainer for plan in plans(grid) if not transfers(plan.merged)})
    return [f"{name}: what it learns belongs to its classes, so it is not evaluated on new ones" for name in alone]


def plans(grid: Grid) -> list[Plan]:
    """The trainings of a grid, each folder once.

    Raises:
        UserError: a name, key or value is wrong; everything is checked before anything is started.
    """
    grid.check()
    shots = (ALL_SHOTS,) if grid.setting == FULL else grid.shots
    fixed = (SUBSAMPLE, "base") if grid.setting == BASE_TO_NEW else ()
    choices = [[(key, value) for value in values] for key, values in grid.keys]
    found: dict[Path, tuple[Plan, Variant]] = {}
    for dataset, number, trainer, pairs, variant in itertools.product(
        grid.datasets, shots, grid.trainers, itertools.product(*choices), grid.variants
    ):
        words = (*fixed, *itertools.chain(*pairs), *itertools.chain(*variant))
        for cfg, own in _configurations(trainer, grid.cfgs, grid.backbones):
            for plan in plan_methods(dataset, number, trainer, cfg, (*own, *words), grid.data, grid.out, grid.seeds):
                other, its_variant = found.setdefault(plan.folder, (plan, variant))
                for one, two in ((other.dataset, dataset), (other.cfg, plan.cfg)):
                    if one != two:  # a folder only tells the names of their files
                        raise UserError(
                            f"{one} and {two} would share the folder {plan.folder}: give one of the files another name"
                        )
                if its_variant != variant:  # e.g. since one of them sets a key to what it is anyway
                    raise UserError(
                        f"the variants {spelled(its_variant)} and {spelled(variant)} are the same run of "
                        f"{plan.trainer} ({plan.folder}): leave one out"
                    )
    return [plan for plan, _ in found.values()]


def _configurations(
    trainer: str, cfgs: Sequence[str], backbones: Sequence[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The configurations of a trainer ("" is the default one), each with KEY VALUE pairs.

    A backbone stands for the configuration that names it; one that none names is set in the given (or the default)
    configurations.
    """
    if not backbones:
        yield from ((cfg, ()) for cfg in cfgs or ("",))
        return
    from xcoop.backbones import backbone_names
    from xcoop.config.plugins import trainer_names

    # The trainer with most configurations stands for all of them.
    example = max(trainer_names(), key=lambda name: len(method_names(name))) if trainer == "all" else trainer
    own = _by_backbone(example)
    for name in backbones:
        if name in own and not cfgs:
            yield own[name], ()
        elif name in backbone_names():
            yield from ((cfg, ("MODEL.BACKBONE.NAME", name)) for cfg in cfgs or ("",))
        else:
            raise UserError(unknown("backbone", name, backbone_names()))


@cache
def _by_backbone(trainer: str) -> dict[str, str]:
    """Backbone name -> the short name of the (first) configuration that has it."""
    found: dict[str, str] = {}
    for cfg in method_names(trainer):
        for path in method_files(cfg, trainer):
            if name := read_config_tree(path).get("MODEL.BACKBONE.NAME"):
                found.setdefault(str(name), cfg)
    return found


def transfers(cfg: CfgNode) -> bool:
    """Whether what a method learns can be used for classes that it was not trained on."""
    from dassl.engine import TRAINER_REGISTRY

    of_classes = getattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "learns_classes", None)  # another programme's has none
    return of_classes is None or not of_classes(cfg)


def _evaluation_plans(grid: Grid, plan: Plan) -> list[Plan]:
    """What the trained models of a plan are evaluated on besides their own test images.

    Raises:
        UserError: the class names of a target are not those of the training, or a half has a single class.
    """
    from xcoop.data.dataset import class_names, same_classes

    if grid.setting not in (BASE_TO_NEW, CROSS):
        return []
    own = class_names(plan.merged)
    if grid.setting == BASE_TO_NEW:
        if own is not None and len(own) < 4:
            raise UserError(
                f"--setting base-to-new: {plan.merged.DATASET.NAME} has {len(own)} classes ({', '.join(own)}); with "
                "fewer than 4, one of the halves has a single class, and nothing to tell apart. DATASET.TASK may offer "
                "more"
            )
        return [replace(plan, pairs=_with(plan.pairs, SUBSAMPLE, "new"))] if transfers(plan.merged) else []
    found = []
    for target in grid.targets:
        other = replace(plan, dataset=target, pairs=_with(plan.pairs, "DATASET.PATH"))
        names = class_names(other.merged)
        if own and names and own != names:  # what is not known yet is compared when it runs
            if not same_classes(own, names):
                raise UserError(
                    f"--setting cross: {target} has the classes {', '.join(names)}, and {plan.dataset} has "
                    f"{', '.join(own)}. The names must be the same; DATASET.TASK chooses another task"
                )
            other = replace(other, pairs=_with(other.pairs, "DATASET.CLASSES", str(list(own))))
        found.append(other)
    return found


def _with(pairs: Sequence[str], key: str, *value: str) -> tuple[str, ...]:
    """KEY VALUE pairs in which a key has another value, or, without one, is not set."""
    others = tuple(word for pair in as_pairs(pairs) if pair[0] != key for word in pair)
    return (*others, key, *value) if value else others


def _evaluation_job(plan: Plan, seed: int, trained: Job) -> Job:
    """The evaluation of one trained model; UserError if its folder holds a run with other settings."""
    from xcoop.config.plugins import trains

    classes, dataset = plan.merged.DATASET.SUBSAMPLE_CLASSES, Path(plan.dataset).stem
    folder = trained.folder / "evaluation" / f"{dataset}_{classes}"
    cfg = plan.config(seed, folder)
    model = str(trained.folder) if trains(cfg.TRAINER.NAME) else ""
    check_free(folder, cfg, Origin(evaluated_from=model or None))
    words = ("--eval-only", *(("--model-dir", model) if model else ()), *plan.words(seed, folder))
    title = f"{trained.title}, on {f'{classes} classes' if classes != 'all' else dataset}"
    return Job(words, folder, title, _group(cfg), trained.folder, cfg)
