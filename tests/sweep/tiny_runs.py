"""Real trainings in a second, on a node: the pictures and settings of `tests/trainers/tiny_run.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from xcoop.sweep.jobs import Job, Outcome
from xcoop.sweep.worker import Runner

sys.path.append(str(Path(__file__).parents[1] / "trainers"))

import tiny_run  # registers its dataset

draw = tiny_run.draw


def make_job(folder: Path, data: Path, weights: Path, epochs: int) -> Job:
    """A training of CoOp."""
    cfg = tiny_run.config("CoOp", data, weights, folder, "OPTIM.MAX_EPOCH", epochs)
    settings = folder.with_suffix(".yaml")
    settings.write_text(cfg.dump())
    words = ("--trainer", "CoOp", "--config-file", str(settings), "--output-dir", str(folder), "--seed", "1")
    return Job(words, folder, folder.name, "tiny")


def run(job: Job) -> Outcome:
    """Runs it with `train.py`'s own code."""
    return Runner()(job)
