"""The same budget of choices for every method, on whole validation splits, once per backbone: successive halving.

    python benchmarks/tune.py --data DATA [--trainers "CoOp KgCoOp"] [--out output-tune]

Round 1 tries every optimiser and rate of `OPTIMISERS` with each length of `EPOCHS`, and the shipped configuration, at
4 shots with one seed. Round 2 takes the three best of these to 1 and 16 shots and two seeds, alone and with each of the
method's own weights (`OWN`) at half and at twice its shipped value, and the shipped configuration again. What counts is
the mean of balanced accuracy and macro-AUC over sets, shots and seeds, of trials that are below the shipped
configuration in neither; it stays where there are none. No test image is seen (`TEST.SPLIT val DATASET.VAL_SHOTS -1`).
The tables name all that was tried. Methods that take no steps (Tip-Adapter, LP++, the linear probe) search by
themselves what they search, and are not here. A phantom's figures are no clinical results.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from xcoop.results.record import read_run
from xcoop.runs import train
from xcoop.sweep.grid import jobs, make_grid, read_grid_file
from xcoop.utils.console import say

SETS = ("phantom", "phantom_chest", "pneumonia", "pneumoniamnist")
OPTIMISERS = (("sgd", 0.002), ("sgd", 0.02), ("sgd", 0.2), ("adam", 0.0005), ("adam", 0.002), ("adam", 0.01))
EPOCHS = (50, 200)
OWN = {  # one or two weights of the method's own; what has none gets no more trials
    "BiomedCoOp": ("KDSP_LAMBDA",),  # SCCM_LAMBDA stands for each set, as in its release
    "CLIPAdapter": ("RATIO",),
    "KgCoOp": ("W",),
    "LASP": ("LASP_LOSS_WEIGHT",),
    "LaBo": ("INIT",),
    "ProGrad": ("LAMBDA",),
    "PromptSRC": ("TEXT_LOSS_WEIGHT",),  # IMAGE_LOSS_WEIGHT as in its release: its trials are the dearest of all
    "TaskRes": ("RESIDUAL_SCALE",),
    "XCoOp": ("OFFSET_SPREAD", "CONTRAST_WEIGHT"),
    "XCoOpPublished": ("PROMPT_WEIGHT", "TOKEN_WEIGHT"),
}
METHODS = (
    "BiomedCoOp CLIPAdapter CLIPLoRA CoCoOp CoOp KgCoOp LASP LaBo MaPLe ProGrad PromptSRC TaskRes XCoOp XCoOpPublished"
)
SHARES = ("CLIPADAPTER.RATIO", "PROGRAD.LAMBDA")  # of these, values in [0, 1]
KEPT = 3  # trials of round 1 that go on to round 2
SPLIT = {"TEST.SPLIT": "val", "DATASET.VAL_SHOTS": "-1"}

Trial = dict[str, Any]  # config keys and values that differ from the shipped configuration; {} is that


class Score(NamedTuple):
    """In percent, over sets, shots and seeds."""

    balanced_accuracy: float
    macro_auc: float

    @property
    def mean(self) -> float:
        """What trials are ordered by."""
        return (self.balanced_accuracy + self.macro_auc) / 2


def shipped(trainer: str, cfg: str) -> dict[str, Any]:
    """The values that trials change, as the shipped configuration has them."""
    words = ["--trainer", trainer, "--config-file", cfg, "--dataset-config-file", SETS[0]]
    merged = train.merged(train.parser().parse_args(words))
    values = {f"OPTIM.{key}": merged.OPTIM[key] for key in ("NAME", "LR", "MAX_EPOCH")}
    node = f"TRAINER.{trainer.upper()}"
    return values | {f"{node}.{key}": merged.TRAINER[trainer.upper()][key] for key in OWN.get(trainer, ())}


def first_trials(own: dict[str, Any]) -> list[Trial]:
    """The shipped configuration, and every optimiser with every length."""
    settings = [
        {"OPTIM.NAME": name, "OPTIM.LR": rate, "OPTIM.MAX_EPOCH": epochs}
        for (name, rate), epochs in product(OPTIMISERS, EPOCHS)
    ]
    return distinct([{}, *settings], own)


def second_trials(best: Sequence[Trial], own: dict[str, Any]) -> list[Trial]:
    """The best of round 1, alone and with each own weight halved and doubled; and the shipped configuration."""
    weights = [key for key in own if key.startswith("TRAINER.")]
    most = {key: 1.0 if key.endswith(SHARES) else float("inf") for key in weights}
    changes = [{key: min(factor * own[key], most[key])} for key in weights for factor in (0.5, 2.0)]
    return distinct([{}, *best, *({**one, **change} for one in best for change in changes)], own)


def distinct(trials: Sequence[Trial], own: dict[str, Any]) -> list[Trial]:
    """What differs from the shipped configuration, each once, in order."""
    changed = [tuple((key, value) for key, value in trial.items() if value != own[key]) for trial in trials]
    return [dict(one) for one in dict.fromkeys(changed)]


def scores(
    trainer: str, trials: Sequence[Trial], shots: Sequence[int], seeds: Sequence[int], args: argparse.Namespace
) -> list[Score]:
    """What each trial reaches on the validation splits."""
    file = Path(args.out, f"{trainer}_{len(shots)}x{len(seeds)}.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    axes = {"datasets": list(args.datasets), "trainers": [trainer], "shots": list(shots), "seeds": list(seeds)}
    axes |= {"cfgs": [args.cfg], **{key: [value] for key, value in SPLIT.items()}, "variants": list(trials)}
    file.write_text(yaml.safe_dump(axes, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "xcoop.cli", "sweep", "--grid", str(file), "--data", args.data, "--out", args.out]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONSAFEPATH": "1"}, stdout=subprocess.DEVNULL)  # noqa: S603
    found = []
    for trial in trials:
        one = read_grid_file(file) | {"variants": (tuple(sorted((key, str(value)) for key, value in trial.items())),)}
        records = [read_run(job.folder) for job in jobs(make_grid(one, args.data, args.out))]
        metrics = [record["metrics"] for record in records if record]
        found.append(Score(*(100 * statistics.fmean(m[key] for m in metrics) for key in Score._fields)))
    return found


def tune(trainer: str, args: argparse.Namespace) -> None:
    """Both rounds of one method, and their tables."""
    own = shipped(trainer, args.cfg)
    trials = first_trials(own)
    first = scores(trainer, trials, [4], [1], args)
    say(f"\n{trainer}, round 1 (4 shots, one seed): {len(trials)} trials", *rows(trials, first, own))
    ordered = sorted(range(len(trials)), key=lambda i: -first[i].mean)
    trials = second_trials([trials[i] for i in ordered[:KEPT]], own)
    second = scores(trainer, trials, [1, 16], [1, 2], args)
    say(f"\n{trainer}, round 2 (1 and 16 shots, two seeds): {len(trials)} trials", *rows(trials, second, own))
    say(f"chosen: {chosen(trials, second) or 'as shipped'}")


def chosen(trials: Sequence[Trial], found: Sequence[Score]) -> Trial:
    """The best mean of those that are below the shipped configuration, the first trial, in neither figure."""
    fair = [(one.mean, -i) for i, one in enumerate(found) if all(a >= b for a, b in zip(one, found[0], strict=True))]
    return trials[-max(fair)[1]]


def rows(trials: Sequence[Trial], found: Sequence[Score], own: dict[str, Any]) -> list[str]:
    """A table of trials, the best first."""
    order = sorted(range(len(trials)), key=lambda i: -found[i].mean)
    said = [", ".join(f"{key} {value}" for key, value in trial.items()) for trial in trials]
    usual = ", ".join(f"{key} {value}" for key, value in own.items())
    lines = [f"| {said[i] or f'as shipped ({usual})'} | {found[i][0]:.2f} | {found[i][1]:.2f} |" for i in order]
    return ["| changed | balanced accuracy | macro-AUC |", "|---|---|---|", *lines]


def main() -> None:
    """Tunes the methods one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", default=METHODS)
    parser.add_argument("--datasets", nargs="+", default=SETS)
    parser.add_argument("--cfg", default="phantom", help="the configuration, which names the backbone")
    parser.add_argument("--data", default="data")
    parser.add_argument("--out", default="output-tune")
    args = parser.parse_args()
    for trainer in args.trainers.replace(",", " ").split():
        tune(trainer, args)


if __name__ == "__main__":
    main()
