"""A run in a process that has run others is the run that train.py makes alone: byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_jobs

from xcoop.sweep.jobs import write_jobs

METHODS = ("CoOp", "XCoOp", "CoCoOp", "ZeroshotCLIP")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child that has run nothing is made by fork")
@pytest.mark.usefixtures("tiny_environment")
def test_runs_that_share_a_process_are_those_made_alone(
    tiny_data: Path, tiny_weights_file: Path, tmp_path: Path
) -> None:
    def job(name: str, trainer: str, *pairs: object) -> tiny_jobs.Job:
        return tiny_jobs.job(trainer, tiny_data, tiny_weights_file, tmp_path / "alone" / name, *pairs)

    tuned = ("TRAINER.XCOOP.TUNE_NORMS", True, "OPTIM.LR", 0.1)
    jobs = [
        job("tuned", "XCoOp", *tuned),  # changes the image tower of its backbone
        *(job(name, name) for name in METHODS),
        job("bad-crash", "XCoOp", *tuned, "OPTIM.LR", 1e30),  # changes it, and crashes half-way
        *(job(f"{name}-again", name, "SEED", 2) for name in METHODS[:2]),
        job("augmented", "CoOp", "INPUT.TRANSFORMS", ["random_flip", "normalize"]),  # draws random numbers
    ]
    write_jobs(tmp_path / "jobs.json", jobs)
    driver = [sys.executable, tiny_jobs.__file__, "identical", str(tmp_path / "jobs.json"), str(tmp_path / "shared")]
    done = subprocess.run(driver, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("bad-crash") == ["failed"]
    assert told == {one.title: ["finished"] for one in jobs if one.title != "bad-crash"}

    logs = {one.title: (tmp_path / "shared" / one.title / "log.txt").read_text() for one in jobs}
    assert "FloatingPointError" in logs["bad-crash"]
    for title, log in logs.items():
        assert log.count("** Config **") == 1, "each run has a log of its own"
        assert f"shared/{title}\n" in log
    results = {one.title: json.loads((tmp_path / "shared" / one.title / "results.json").read_text()) for one in jobs
               if one.title != "bad-crash"}  # fmt: skip
    assert results["CoOp"]["backbone_sha256"] == results["CoOp-again"]["backbone_sha256"]
