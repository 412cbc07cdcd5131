"""Trainings of a second on the tiny dataset of the trainers' tests, and the programmes that run them.

tiny_jobs.py launch DATA WEIGHTS OUT      a launcher of `three`, on two workers
tiny_jobs.py beside DATA WEIGHTS OUT      the same of three seeds of one method, one of which diverges; how each ended
tiny_jobs.py identical DATA WEIGHTS OUT   runs `mixed` alone and together, see `test_sharing.py`
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "trainers"))

import tiny_run  # registers its dataset

from xcoop.sweep.job import FINISHED, Job, Outcome, Runner

draw = tiny_run.draw


def job(trainer: str, data: Path, weights: Path, folder: Path, *pairs: Any) -> Job:
    """A job; its settings stand in a YAML file beside its folder."""
    cfg = tiny_run.config(trainer, data, weights, folder, *pairs)
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(cfg.dump())
    words = ("--config-file", str(path), "--trainer", trainer, "--output-dir", str(folder), "--seed", str(cfg.SEED))
    return Job(words, folder, folder.name, "tiny")


def run(one: Job) -> Outcome:
    """Runs it with `train.py`'s own code."""
    return Runner()(one)


def three(data: Path, weights: Path, out: Path) -> list[Job]:
    """One that takes a while, one that diverges, and one that does not."""
    jobs = []
    for number, (epochs, rate) in enumerate([(150, 0.01), (10, 1e30), (10, 0.01)]):
        pairs = ("OPTIM.MAX_EPOCH", epochs, "OPTIM.LR", rate, "TRAIN.CHECKPOINT_FREQ", 10)
        jobs.append(job("CoOp", data, weights, out / "data/T/cfg" / str(number), *pairs))
    return jobs


def mixed(data: Path, weights: Path, out: Path) -> list[Job]:
    """What might get into each other's way in one process."""
    tuned = ("TRAINER.XCOOP.TUNE_NORMS", True, "OPTIM.LR", 0.1)
    wanted: list[tuple[Any, ...]] = [
        ("tuned", "XCoOp", *tuned),  # changes the image tower of its backbone
        *((name, name) for name in ("CoOp", "XCoOp", "CoCoOp", "ZeroshotCLIP")),
        ("bad-crash", "XCoOp", *tuned, "OPTIM.LR", 1e30),  # changes it, and crashes half-way
        ("CoOp-again", "CoOp", "SEED", 2),
        ("augmented", "CoOp", "INPUT.TRANSFORMS", ["random_flip", "normalize"]),  # draws random numbers
    ]
    return [job(trainer, data, weights, out / name, *pairs) for name, trainer, *pairs in wanted]


def identical(alone: list[Job], shared: list[Job]) -> dict[str, list[str]]:
    """Runs jobs alone, and then all together; how each ended, and the files in which both differ, by title."""
    import torch.utils.tensorboard  # noqa: F401 - what a run imports, before any fork

    import xcoop.results.record  # noqa: F401
    from xcoop.runs.train import main as train

    console, told, runner = sys.stdout, {}, Runner()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for one in alone:  # in a child that has imported everything and run nothing
            if (child := os.fork()) == 0:
                os._exit(train(list(one.words)))
            _, status = os.waitpid(child, 0)
            assert (status == 0) == (one.title != "bad-crash"), f"{one.title} alone: {status}"
        for one, other in zip(shared, alone, strict=True):
            outcome = runner(one)
            assert sys.stdout is nowhere
            told[one.title] = [outcome.state]
            if outcome.state == FINISHED:
                told[one.title] += differing(one.folder, other.folder)
    sys.stdout = console
    return told


def differing(one: Path, two: Path) -> list[str]:
    """Which results of two runs are not equal byte for byte; the weights count by their values."""
    import torch

    names = ["predictions.csv"]
    found = [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()]
    for path in sorted(one.glob("prompt_learner/model.pth.tar-*")):
        a, b = (torch.load(p, weights_only=True) for p in (path, two / "prompt_learner" / path.name))
        if any(not torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"]):
            found.append(path.name)
    return found


if __name__ == "__main__":
    data, weights, out = map(Path, sys.argv[2:])
    if sys.argv[1] == "identical":
        told = identical(mixed(data, weights, out / "alone"), mixed(data, weights, out / "shared"))
        sys.stdout.write(json.dumps(told) + "\n")
    elif sys.argv[1] == "beside":
        from xcoop.results.record import read_run
        from xcoop.sweep import launcher

        launcher.FEWEST = 2
        choices = [("SEED", 1), ("SEED", 2), ("SEED", 3, "OPTIM.LR", 1e30)]
        jobs = [
            replace(job("CoOp", data, weights, out / str(n), *pairs), together="CoOp")
            for n, pairs in enumerate(choices)
        ]
        ends = launcher.Launcher(jobs, launcher.make_slots(1, (), cores=1), str(out)).run()
        told = [(ends[one.folder].state, (read_run(one.folder) or {}).get("runs_at_once")) for one in jobs]
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        from xcoop.sweep.launcher import Launcher, make_slots

        Launcher(three(data, weights, out), make_slots(2, (), cores=2), str(out)).run()
