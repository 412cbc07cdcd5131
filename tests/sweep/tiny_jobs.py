"""Jobs on the tiny dataset of the trainers' tests, and the programmes that run them.

    tiny_jobs.py --serve --journal F     a worker of the sweep, which knows the tiny dataset
    tiny_jobs.py identical JOBS SHARED   see `test_identical.py`

Run from a process whose path holds the folder of `tiny_run`.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny_run  # registers the dataset

from xcoop.sweep.jobs import FINISHED, Job, read_jobs
from xcoop.sweep.worker import Runner, main


def job(trainer: str, data: Path, weights: Path, folder: Path, *pairs: Any) -> Job:
    """A job on the tiny dataset; its settings stand in a YAML file beside its folder."""
    cfg = tiny_run.config(trainer, data, weights, folder, *pairs)
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(cfg.dump())
    words = ("--config-file", str(path), "--trainer", trainer, "--output-dir", str(folder))
    return Job(words, folder, folder.name, "tiny")


def alone(one: Job) -> None:
    """Runs a job as train.py does, in a child that has imported everything and run nothing."""
    from xcoop.runs.train import main as train

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                code = train(list(one.words))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"{one.title} failed alone"


def identical(jobs: list[Job], shared: Path) -> dict[str, list[str]]:
    """Runs good jobs alone, and then all together; the files in which both differ, and how each ended, by title."""
    import torch.utils.tensorboard  # noqa: F401 - what a run imports, before any fork

    import xcoop.results.record
    import xcoop.sweep.isolation  # noqa: F401

    good = [one for one in jobs if not one.title.startswith("bad")]
    for one in good:
        alone(one)
    runner, told = Runner(), {}
    console = sys.stdout
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for one in jobs:
            folder = shared / one.folder.name
            words = [str(folder) if word == str(one.folder) else word for word in one.words]
            outcome = runner(replace(one, words=tuple(words), folder=folder))
            assert sys.stdout is nowhere
            told[one.title] = [outcome.state]
            if outcome.state == FINISHED:
                told[one.title] += differing(one.folder, folder)
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
    if sys.argv[1] == "identical":
        sys.stdout.write(json.dumps(identical(read_jobs(Path(sys.argv[2])), Path(sys.argv[3]))) + "\n")
    else:
        sys.exit(main(sys.argv[1:]))
