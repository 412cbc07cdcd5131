"""What a sweep is asked for, axes that are crossed, and the runs that this makes; all is checked before any begins.

Trained models may be evaluated on what they were not trained on, new classes or other datasets: such an evaluation is a
run that lies below the one whose weights it uses, in `evaluation/<dataset>_<classes>/`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.config.labels import KEY as LABEL
from xcoop.config.merge import as_pairs, concerns, merge_pairs, method_files, method_names, read_config_tree
from xcoop.config.plugins import get_cfg, trainer_names, trains
from xcoop.engine.config import flatten
from xcoop.results.folder import check_free
from xcoop.results.record import Origin
from xcoop.runs.plan import ALL_SHOTS, KEY, TAKEN, Plan, check_labels, plan_methods, shot_number
from xcoop.sweep.job import Job, group_of, training
from xcoop.utils.console import UserError, numbers, shown, unknown
from xcoop.utils.reading import read_yaml

if TYPE_CHECKING:
    from yacs.config import CfgNode

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
        if "all" in self.trainers and len(self.trainers) > 1:
            raise UserError("trainers: `all` stands alone")
        of_variants = dict(itertools.chain(*self.variants))
        for key in (*of_variants, *dict(self.keys)):
            if key in TAKEN:
                raise UserError(
                    f"{key} is set by `xcoop sweep` itself (datasets, trainers, shots, seeds, --data, --out)"
                )
            if key == SUBSAMPLE and self.setting != FEW_SHOT:
                raise UserError(f"{SUBSAMPLE} is set by --setting {self.setting} itself")
        for key in of_variants.keys() & dict(self.keys):
            raise UserError(
                f"{key} stands in a variant ({of_variants[key]}), and by itself, too (grid file or command line); keep "
                "it in one place: in the variants to change it with them alone, by itself to cross it with all of them"
            )
        first: dict[str, str] = {}
        for target in self.targets:
            if (other := first.setdefault(Path(target).stem, target)) != target:
                raise UserError(
                    f"--targets: {other} and {target} would share the folder evaluation/{Path(target).stem}_all"
                )
        nodes = get_cfg().TRAINER
        for trainer in trainer_names() if "all" in self.trainers else self.trainers:
            for variant in self.variants:
                for key in (key for key, _ in variant if not concerns(key, trainer, nodes)):
                    raise UserError(  # it would be run once more for nothing
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
        if name == VARIANTS:
            if not isinstance(value, list) or not value:
                raise UserError(f"--grid {path}: {SHAPE}, not {shown(value)}")
            read = (_variant(one, f"--grid {path}: variant {number}") for number, one in enumerate(value, 1))
            axes[VARIANTS] = tuple(dict.fromkeys(read))
        elif value in (None, []) or (name in AXES and not str(value).strip()):
            raise UserError(f"--grid {path}: {name} names none; leave it out, or name one")
    return axes


def _variant(value: Any, where: str) -> Variant:
    """Config keys that change together."""
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


def spelled(variant: Variant) -> str:
    """A variant as it stands in a grid file."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in variant) + "}"


def make_grid(axes: Mapping[str, Any], data: str, out: str) -> Grid:
    """The grid of these axes.

    Args:
        axes: of `AXES`, and config keys; each a value or a list of them; `variants` as `read_grid_file` gives them.
        data: the data root.
        out: the output root.

    Raises:
        UserError: a number is none, or no dataset is given.
    """
    given: dict[str, Any] = {
        name: tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)
        for name, value in axes.items()
        if name != VARIANTS
    }
    if not given.get("datasets"):
        raise UserError("no dataset is given: xcoop sweep <dataset[,dataset]>, or `datasets:` in the grid file")
    keys = tuple((name, given.pop(name)) for name in list(given) if name not in AXES)
    if "shots" in given:
        given["shots"] = tuple(dict.fromkeys(map(shot_number, given["shots"])))
    if "seeds" in given:
        given["seeds"] = tuple(numbers(" ".join(given["seeds"]), "seeds"))
    if "setting" in given:
        given["setting"] = given["setting"][0]
    return Grid(**given, keys=keys, variants=axes.get(VARIANTS, ((),)), data=data, out=out)


# The runs.


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
            trained = training(plan, seed, f"{plan.label}: {plan.title(seed)}")
            found += [trained, *(_evaluation(other, seed, trained) for other in evaluations)]
    return found


def left_out(grid: Grid, found: Sequence[Job]) -> list[str]:
    """What a reader must know that the jobs do not tell: methods without an evaluation on new classes.

    Args:
        grid: the axes.
        found: what `jobs` makes of them.
    """
    if grid.setting != BASE_TO_NEW:
        return []
    alone = sorted({job.cfg.TRAINER.NAME for job in found if job.cfg and not job.after and not transfers(job.cfg)})
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
                places = other.merged.DATASET.PATH, plan.merged.DATASET.PATH
                for one, two in ((other.dataset, dataset), (other.cfg, plan.cfg), places):
                    if one != two:  # a folder only tells the names of files and places
                        how = "give one of the files another name"
                        if one != other.cfg:
                            how += f", or one of the datasets a name of its own ({LABEL})"
                        raise UserError(f"{one} and {two} would share the folder {plan.folder}: {how}")
                if its_variant != variant:  # e.g. since one of them sets a key to what it is anyway
                    raise UserError(
                        f"the variants {spelled(its_variant)} and {spelled(variant)} are the same run of "
                        f"{plan.trainer} ({plan.folder}): leave one out"
                    )
    made = [plan for plan, _ in found.values()]
    check_labels(made)
    return made


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
    found: list[Plan] = []
    for target in grid.targets:
        other = replace(plan, dataset=target, pairs=_with(_with(plan.pairs, "DATASET.PATH"), LABEL))
        names = class_names(other.merged)
        if own and names and own != names:  # what is not known yet is compared when it runs
            if not same_classes(own, names):
                raise UserError(
                    f"--setting cross: {target} has the classes {', '.join(names)}, and {plan.dataset} has "
                    f"{', '.join(own)}. The names must be the same; DATASET.TASK chooses another task"
                )
            other = replace(other, pairs=_with(other.pairs, "DATASET.CLASSES", str(list(own))))
        if same := [one for one in found if one.label == other.label]:
            raise UserError(f"--targets: {same[0].dataset} and {target} are both called {other.label} ({LABEL})")
        found.append(other)
    return found


def _with(pairs: Sequence[str], key: str, *value: str) -> tuple[str, ...]:
    """KEY VALUE pairs in which a key has another value, or, without one, is not set."""
    others = tuple(word for pair in as_pairs(pairs) if pair[0] != key for word in pair)
    return (*others, key, *value) if value else others


def _evaluation(plan: Plan, seed: int, trained: Job) -> Job:
    """The evaluation of one trained model; UserError if its folder holds a run with other settings."""
    classes, dataset = plan.merged.DATASET.SUBSAMPLE_CLASSES, plan.label
    folder = trained.folder / "evaluation" / f"{dataset}_{classes}"
    cfg = plan.config(seed, folder)
    model = str(trained.folder) if trains(cfg.TRAINER.NAME) else ""
    check_free(folder, cfg, Origin(evaluated_from=model or None))
    words = ("--eval-only", *(("--model-dir", model) if model else ()), *plan.words(seed, folder))
    title = f"{trained.title}, on {f'{classes} classes' if classes != 'all' else dataset}"
    return Job(words, folder, title, group_of(cfg), after=trained.folder, cfg=cfg)
