"""Evaluations of a trained model on what it was not trained on: new classes, or other datasets.

They lie below the run whose weights they use, in `evaluation/<dataset>_<classes>/`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from xcoop.config.merge import as_pairs
from xcoop.results.folder import check_free
from xcoop.results.record import Origin
from xcoop.runs.plan import Plan
from xcoop.sweep.jobs import Job
from xcoop.utils.console import UserError

FEW_SHOT, FULL, BASE_TO_NEW, CROSS = "few-shot", "full", "base-to-new", "cross"
SETTINGS = (FEW_SHOT, FULL, BASE_TO_NEW, CROSS)
SUBSAMPLE = "DATASET.SUBSAMPLE_CLASSES"


def evaluations(setting: str, targets: tuple[str, ...], plan: Plan, cfg: Any) -> list[tuple[Plan, Any]]:
    """What the trained models of a plan are evaluated on besides their own test images, as plans and configs.

    Args:
        setting: one of `SETTINGS`; only `base-to-new` and `cross` have evaluations.
        targets: datasets, for `cross`.
        plan: of the trainings.
        cfg: its merged config.

    Raises:
        UserError: the class names of a target are not those of the training, or a half has a single class.
    """
    if setting == BASE_TO_NEW:
        _require_two_a_half(cfg)
        wanted = [replace(plan, pairs=_with(plan.pairs, SUBSAMPLE, "new"))] if transfers(cfg) else []
    elif setting == CROSS:
        wanted = [replace(plan, dataset=target, pairs=_without(plan.pairs, "DATASET.PATH")) for target in targets]
        _require_own_names(targets)
    else:
        wanted = []
    found = [(one, one.config(plan.seeds[0])) for one in wanted]
    return [_in_order(plan.dataset, cfg, *one) for one in found] if setting == CROSS else found


def evaluation_job(plan: Plan, cfg: Any, seed: int, trained: Job, group: str) -> Job:
    """The evaluation of one trained model.

    Args:
        plan: of the evaluation.
        cfg: its merged config.
        seed: of the training.
        trained: the training.
        group: of the evaluation.

    Raises:
        UserError: its folder holds a run with other settings.
    """
    from xcoop.config.plugins import trains

    classes = cfg.DATASET.SUBSAMPLE_CLASSES
    dataset = Path(plan.dataset).stem
    folder = trained.folder / "evaluation" / f"{dataset}_{classes}"
    model = str(trained.folder) if trains(cfg.TRAINER.NAME) else ""
    check_free(folder, cfg, Origin(evaluated_from=model or None))
    flags = ("--eval-only", *(("--model-dir", model) if model else ()))
    what = f"{classes} classes" if classes != "all" else dataset
    words = (*flags, *plan.words(seed, folder=folder))
    return Job(words, folder, f"{trained.title}, on {what}", group, after=trained.folder)


def transfers(cfg: Any) -> bool:
    """Whether what a method learns can be used for classes that it was not trained on."""
    from dassl.engine import TRAINER_REGISTRY

    of_classes = getattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "learns_classes", None)
    return of_classes is None or not of_classes(cfg)


def _in_order(source: str, cfg: Any, plan: Plan, other: Any) -> tuple[Plan, Any]:
    """The evaluation on a target, told to have its classes in the order of the training."""
    from xcoop.data.dataset import class_names, same_classes

    one, two = class_names(cfg), class_names(other)
    if one is None or two is None or one == two:  # what is not known yet is compared when it runs
        return plan, other
    if not same_classes(one, two):
        raise UserError(
            f"--setting cross: {plan.dataset} has the classes {', '.join(two)}, and {source} has {', '.join(one)}. "
            "The names must be the same; DATASET.TASK chooses another task"
        )
    told = replace(plan, pairs=_with(plan.pairs, "DATASET.CLASSES", str(list(one))))
    return told, told.config(plan.seeds[0])


def _require_own_names(targets: tuple[str, ...]) -> None:
    first: dict[str, str] = {}
    for target in targets:
        other = first.setdefault(Path(target).stem, target)
        if other != target:
            raise UserError(
                f"--targets: {other} and {target} would share the folder evaluation/{Path(target).stem}_all"
            )


def _require_two_a_half(cfg: Any) -> None:
    from xcoop.data.dataset import class_names

    names = class_names(cfg)
    if names is not None and len(names) < 4:
        raise UserError(
            f"--setting base-to-new: {cfg.DATASET.NAME} has {len(names)} classes ({', '.join(names)}); with fewer "
            "than 4, one of the halves has a single class, and nothing to tell apart. DATASET.TASK may offer more"
        )


def _with(pairs: tuple[str, ...], key: str, value: str) -> tuple[str, ...]:
    return (*_without(pairs, key), key, value)


def _without(pairs: tuple[str, ...], key: str) -> tuple[str, ...]:
    return tuple(word for pair in as_pairs(pairs) if pair[0] != key for word in pair)
