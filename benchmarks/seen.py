"""Is it true that an image shows what a report says is seen? On phantoms, whose concepts are known.

    python benchmarks/seen.py --data DATA [--split test] [--out output-seen]
    python benchmarks/seen.py --data DATA --split val --variances 1 3 10 30 100    how the variance was chosen

XCoOp is trained at 16 shots with seeds 1 2 3. Its report turns the score of each concept into a probability by a
logistic curve that is fitted to the 16 labelled images a class (`xcoop.explain.exact.Seeing`); here these are held
against the truth in a whole split: by the AUC of each concept, and by the calibration error of the probabilities, of
all concepts together (pooled) and of each (mean). In few images a perfect curve has an error, too: "by chance" is what
labels drawn from the probabilities themselves give. A phantom's figures are no clinical results.

Expected, in a minute on two cores; AUC, pooled error, mean error (by chance), share decided, share of these right:

    phantom, test:        0.986 | 0.010 | 0.032 (0.018) | 94.6% | 97.5%
    phantom_chest, test:  0.986 | 0.016 | 0.050 (0.042) | 91.1% | 97.4%
    phantom, val:         0.985 | 0.011 | 0.034 (0.024) | 94.6% | 97.6%
    phantom_chest, val:   0.984 | 0.026 | 0.068 (0.049) | 89.7% | 96.7%

The variance was chosen on validation images: 1, 3, 10, 30 and 100 have pooled errors of 0.064, 0.033, 0.015, 0.011 and
0.014 on the phantom, and 0.067, 0.041, 0.028, 0.026 and 0.030 on the chest phantom.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import xcoop
from xcoop.explain.content import SURE
from xcoop.explain.exact import SLOPE_VARIANCE, Seeing
from xcoop.explain.ground_truth import truth_of
from xcoop.explain.trained import TrainedModel
from xcoop.explain.trust import calibration_error
from xcoop.utils.console import say

SETS = ("phantom", "phantom_chest")
DRAWS = 20  # of labels, for the error by chance
Floats = NDArray[np.float64]


def trained(name: str, shots: int, seeds: Sequence[int], args: argparse.Namespace) -> list[TrainedModel]:
    """Finished runs of XCoOp; what is missing is trained."""
    words = ["run", name, str(shots), "XCoOp", args.cfg, "--data", args.data, "--out", args.out]
    command = [sys.executable, "-m", "xcoop.cli", *words, "--seeds", " ".join(map(str, seeds))]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONSAFEPATH": "1"}, stdout=subprocess.DEVNULL)  # noqa: S603
    folder = Path(args.out, name, "XCoOp", f"{args.cfg}_{shots}shots")
    return [xcoop.load_run(folder / f"seed{seed}") for seed in seeds]


def dataset_of(run: TrainedModel) -> Any:
    """Its training images, and the whole of the other splits."""
    from dassl.data.datasets import build_dataset

    cfg = run.cfg.clone()
    cfg.defrost()
    cfg.DATASET.VAL_SHOTS = -1
    with redirect_stdout(io.StringIO()):
        return build_dataset(cfg)


class Asked(NamedTuple):
    """Scores and labels of the J concepts of a run, (N, J), in its training images and in a split."""

    concepts: Sequence[str]
    scores: Floats
    labels: Floats
    split_scores: Floats
    split_labels: Floats


def asked(run: TrainedModel, split: str) -> Asked:
    """What a run scores, and what its dataset knows."""
    dataset = dataset_of(run)
    truth, concepts = truth_of(dataset, run.bank), run.concepts
    if truth is None or concepts is None or not truth.labels:
        raise ValueError(f"{run.folder}: nobody knows what the images of {run.cfg.DATASET.NAME} show; try the phantoms")
    found = []
    for items in (dataset.train_x, getattr(dataset, split)):
        paths = [item.impath for item in items]
        found.append(run.concept_scores(run.features(paths)).double().cpu().numpy())
        found.append(truth.table(paths, concepts.texts))
    return Asked(concepts.texts, *found)


class Row(NamedTuple):
    """What is measured of one concept in one run, or of the mean."""

    auc: float
    error: float
    by_chance: float


class Judged(NamedTuple):
    """Of one run: each concept's row, the pooled error, and the shares that are decided and of these right."""

    rows: dict[str, Row]
    pooled: float
    decided: float
    right: float


def judge(one: Asked, variance: float) -> Judged:
    """Holds the probabilities of a run against the truth; concepts that training images lack one way have none."""
    from sklearn.metrics import roc_auc_score

    given, rng = Seeing.fit(one.scores, one.labels, variance).probabilities(one.split_scores), np.random.default_rng(0)
    known = ~np.isnan(given) & ~np.isnan(one.split_labels)
    rows = {}
    for j, text in enumerate(one.concepts):
        chance, shown = given[known[:, j], j], one.split_labels[known[:, j], j]
        if 0 < shown.mean() < 1 if len(shown) else False:
            drawn = [calibration_error(chance, rng.random(len(chance)) < chance) for _ in range(DRAWS)]
            rows[text] = Row(roc_auc_score(shown, chance), calibration_error(chance, shown), float(np.mean(drawn)))
    chance, shown = given[known], one.split_labels[known]
    sure = (chance >= SURE) | (chance <= 1 - SURE)
    right = float(((chance > 0.5) == shown)[sure].mean()) if sure.any() else math.nan
    return Judged(rows, calibration_error(chance, shown), float(sure.mean()), right)


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=SETS)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--variances", type=float, nargs="+", default=(SLOPE_VARIANCE,), help="of the slope's prior")
    parser.add_argument("--cfg", default="phantom", help="the configuration, which names the backbone")
    parser.add_argument("--data", default="data")
    parser.add_argument("--out", default="output-seen")
    args = parser.parse_args()
    for name in args.datasets:
        runs = [asked(run, args.split) for run in trained(name, args.shots, args.seeds, args)]
        found = {variance: [judge(run, variance) for run in runs] for variance in args.variances}
        say(f"\n{name}, {args.split}: {len(runs[0].split_labels)} images, {args.shots} shots, {len(runs)} seeds")
        if len(found) == 1:
            (judged,) = found.values()
            say("| concept | AUC | calibration error | by chance |", "|---|---|---|---|")
            for text in runs[0].concepts:
                if rows := [one.rows[text] for one in judged if text in one.rows]:
                    say("| {} | {:.3f} | {:.3f} | {:.3f} |".format(text, *np.mean(rows, axis=0)))
        say("| variance | AUC | pooled error | mean error (by chance) | decided | right |", "|---|---|---|---|---|---|")
        for variance, judged in found.items():
            auc, error, chance = np.mean([np.mean(list(one.rows.values()), axis=0) for one in judged], axis=0)
            pooled, decided, right = np.mean([one[1:] for one in judged], axis=0)
            shares = f"{decided:.1%} | {right:.1%}"
            say(f"| {variance:g} | {auc:.3f} | {pooled:.3f} | {error:.3f} ({chance:.3f}) | {shares} |")


if __name__ == "__main__":
    main()
