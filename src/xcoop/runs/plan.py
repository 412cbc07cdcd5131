"""What `xcoop run` is asked to do: which methods, configurations and seeds, and in which folders.

<OUT>/<dataset>/<trainer>/<cfg>_<shots>shots[_<overrides>]/seed<k>/

<dataset> is its label (`DATASET.LABEL`), which own images always have; of all others the name of the configuration.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.config import labels
from xcoop.config.merge import as_pairs, config_file, config_names, method_names, settings
from xcoop.utils.console import UserError, shown, unknown

if TYPE_CHECKING:
    from yacs.config import CfgNode

DEFAULT_TRAINER = "XCoOp"
DEFAULT_CFG = "vit_b16"
ALL_SHOTS = -1  # NUM_SHOTS of a run on all training images
# What `xcoop run` sets itself, and how it is told to.
TAKEN = {
    "DATASET.NUM_SHOTS": "the number of shots is the second argument",
    "DATASET.ROOT": "set DATA= (or --data)",
    "OUTPUT_DIR": "set OUT= (or --out)",
    "SEED": "set SEEDS= (or --seeds)",
    "TRAINER.NAME": "the trainer is the third argument",
}
KEY = re.compile(r"[A-Z0-9_]+(\.[A-Z0-9_]+)+|OUTPUT_DIR|RESUME|SEED|USE_CUDA|VERBOSE")
RESULTS_FOLDER = "results"  # below the output root: what `xcoop results` makes
LONGEST_TAG = 120  # characters of a folder's name


@dataclass(frozen=True)
class Plan:
    """Runs that differ in nothing but the seed.

    Attributes:
        dataset: short name of the dataset's configuration, or the path of one.
        shots: training images a class, `ALL_SHOTS` for all; None for a method that trains nothing.
        trainer: the method.
        cfg: short name of the method's configuration, or the path of one.
        pairs: KEY VALUE pairs, flat.
        seeds: to run.
        data: the data root.
        out: the output root.
    """

    dataset: str
    shots: int | None
    trainer: str
    cfg: str
    pairs: tuple[str, ...]
    seeds: tuple[int, ...]
    data: str
    out: str

    @property
    def label(self) -> str:
        """The dataset's name in folders, tables and pages."""
        return self.merged.DATASET.LABEL or Path(self.dataset).stem

    @property
    def dataset_folder(self) -> Path:
        """`<OUT>/<dataset>`."""
        return Path(self.out, self.label)

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the seeds' folders; `xcoop.results.benchmark` reads its name."""
        name = Path(self.cfg).stem
        if self.shots is None:  # two underscores, since no number of shots parts the names
            return self.dataset_folder / self.trainer / "__".join(filter(None, [name, self.tag]))
        return self.dataset_folder / self.trainer / "_".join(filter(None, [name, f"{self.shots}shots", self.tag]))

    def seed_folder(self, seed: int) -> Path:
        """The folder of one run."""
        return self.folder / f"seed{seed}"

    def title(self, seed: int) -> str:
        """A run's name in messages."""
        amount = "all training images" if self.shots == ALL_SHOTS else f"{self.shots} shots"
        shots = [] if self.shots is None else [amount, f"seed {seed}"]
        return ", ".join([f"{self.trainer} {Path(self.cfg).stem}", *filter(None, [self.tag]), *shots])

    def words(self, seed: int, folder: Path | None = None) -> list[str]:
        """The arguments of `train.py` for one seed; `folder` is where its results go, if not in `seed_folder`."""
        flags = {
            "--root": str(Path(self.data).expanduser().absolute()),
            "--seed": str(seed),
            "--trainer": self.trainer,
            "--dataset-config-file": self.dataset,
            "--config-file": self.cfg,
            "--output-dir": str(folder or self.seed_folder(seed)),
        }
        shots = [] if self.shots is None else ["DATASET.NUM_SHOTS", str(self.shots)]
        return [word for flag in flags.items() for word in flag] + shots + list(self.pairs)

    @cached_property
    def merged(self) -> CfgNode:
        """The config of the first seed, frozen, but for its folder: that is not known before the config is."""
        from xcoop.runs import train

        return train.merged(train.parser().parse_intermixed_args(self.words(self.seeds[0], Path(self.out))))

    def config(self, seed: int, folder: Path | None = None) -> CfgNode:
        """The merged config of one seed, frozen."""
        cfg = self.merged.clone()
        cfg.defrost()
        cfg.SEED, cfg.OUTPUT_DIR = seed, str(folder or self.seed_folder(seed))
        cfg.freeze()
        return cfg

    @cached_property
    def tag(self) -> str:
        """The overrides that change the result, as a part of a folder's name; "" if there are none."""
        if not self.pairs:
            return ""
        plain, changed = settings(replace(self, pairs=()).merged), settings(self.merged)
        if self.merged.DATASET.LABEL:  # tells the place already
            plain.pop("DATASET.PATH")
            changed.pop("DATASET.PATH")
        return override_tag(plain, changed)


def override_tag(plain: Mapping[str, Any], changed: Mapping[str, Any]) -> str:
    """A folder name's part that tells what differs, e.g. `n_ctx-8_lr-0.01`; "" if nothing does.

    Of more than `LONGEST_TAG` characters only the first differences are told; a hash of all stands for the rest.

    Args:
        plain: the settings without overrides, by dotted key.
        changed: the settings with them.
    """
    leaves = [key.rpartition(".")[2] for key in plain]
    differing = {key: changed[key] for key in sorted(changed) if changed[key] != plain.get(key)}
    parts = []
    for key, value in differing.items():
        path = key.split(".")
        name = path[-1] if leaves.count(path[-1]) == 1 else "_".join(path[-2:])
        spelled = re.sub(r"[^A-Za-z0-9.+-]+", "-", str(value)).strip("-") or "none"
        parts.append(f"{name}-{spelled}".lower())
    if len("_".join(parts)) <= LONGEST_TAG:
        return "_".join(parts)
    digest = hashlib.sha256(json.dumps(differing, sort_keys=True, default=str).encode()).hexdigest()[:12]
    while parts and len("_".join([*parts, digest])) > LONGEST_TAG:
        parts.pop()
    return "_".join([*parts, digest])


def make_plans(words: Sequence[str], data: str, out: str, seeds: Sequence[int]) -> list[Plan]:
    """The plans that `<dataset> <shots> [trainer|all] [cfg] [KEY VALUE ...]` asks for.

    Raises:
        UserError: a name, key or number is wrong; the message says which, and what is near.
    """
    names, pairs = split_words(words)
    if len(names) not in (2, 3, 4):
        raise UserError(f"expected <dataset> <shots> [trainer|all] [cfg] [KEY VALUE ...], got {' '.join(words)!r}")
    if not all(name.strip() for name in names):
        raise UserError(f"one of {list(names)} names none; leave it out, or name one")
    for key, _ in as_pairs(pairs):
        if key in TAKEN:
            raise UserError(f"{key} is set by `xcoop run` itself: {TAKEN[key]}")
    asked = names[2] if len(names) > 2 else DEFAULT_TRAINER
    plans = plan_methods(
        names[0], shot_number(names[1]), asked, names[3] if len(names) > 3 else "", pairs, data, out, seeds
    )
    check_labels(plans)
    return plans


def plan_methods(
    dataset: str, shots: int, asked: str, cfg: str, pairs: Sequence[str], data: str, out: str, seeds: Sequence[int]
) -> list[Plan]:
    """The plans of one trainer, or of all of them (`asked` is "all"), on a dataset; a `cfg` of "" is the default.

    Raises:
        UserError: a name, key or value is wrong; the message says which, and what is near.
    """
    cfg = cfg or ("phantom" if dataset.startswith("phantom") else DEFAULT_CFG)
    config_file(dataset)
    plans = [
        Plan(dataset, shots if trains else None, trainer, cfg, (*extra, *pairs),
             tuple(seeds) if trains else (1,), data, out)
        for trainer, trains, extra in _trainers(asked, cfg)
    ]  # fmt: skip
    for plan in plans:
        plan.config(plan.seeds[0])  # keys and types are checked before anything is started
    return list({plan.folder: plan for plan in plans}.values())


def check_labels(plans: Iterable[Plan]) -> None:
    """UserError where the name of a dataset belongs to other images: of another configuration, or run there before."""
    from xcoop.results.folder import check_data

    for plan in {plan.dataset_folder: plan for plan in plans}.values():
        dataset = plan.merged.DATASET
        if not dataset.LABEL:
            if dataset.NAME == labels.OWN and dataset.PATH and plan.label.lower() == labels.OWN.lower():
                raise UserError(
                    f"DATASET.PATH {dataset.PATH}: its name cannot name results; add {labels.KEY} and a name of "
                    "letters and digits"
                )
            continue
        taken = {*config_names(), RESULTS_FOLDER} - {Path(plan.dataset).stem}
        if plan.label.lower() in taken:
            raise UserError(
                f"{plan.label} cannot name these images, since results of something else are called so: add "
                f"{labels.KEY} and another name, such as my_{plan.label}"
            )
        check_data(plan.dataset_folder, plan.merged)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names, and the KEY VALUE pairs that begin with the first word that is spelled like a config key."""
    first = next((number for number, word in enumerate(words) if KEY.fullmatch(word.partition("=")[0])), len(words))
    return list(words[:first]), list(words[first:])


def shot_number(text: str) -> int:
    """Training images a class; UserError for anything but a whole number above 0."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise UserError(f"<shots> must be a whole number above 0 (such as 1, 2, 4, 8 or 16), not {shown(text)}")
    return int(text)


def _trainers(asked: str, cfg: str) -> list[tuple[str, bool, tuple[str, ...]]]:
    """(name, whether it trains, KEY VALUE pairs of its variant); `all`: ours, zero-shot first, with their variants.

    A trainer class may say `trains = False`, and `variants`, the pairs under which `all` runs it.
    """
    from dassl.engine import TRAINER_REGISTRY

    from xcoop.config.plugins import trainer_names, trains
    from xcoop.runs.train import check_trainer

    if asked != "all":
        try:
            check_trainer(asked)
        except UserError:
            known = [*TRAINER_REGISTRY.registered_names(), "all"]
            raise UserError(unknown("trainer", asked, known)) from None
        return [(asked, trains(asked), ())]
    able = [name for name in trainer_names() if Path(cfg).is_file() or cfg in method_names(name)]
    if not able:
        raise UserError(f"no trainer has a configuration {cfg!r}")
    ordered = sorted(able, key=lambda name: (trains(name), name))
    return [
        (name, trains(name), tuple(pairs))
        for name in ordered
        for pairs in getattr(TRAINER_REGISTRY.get(name), "variants", ((),))
    ]
