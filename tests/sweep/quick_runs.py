"""Runs that take a second and compute a chain of hashes, with checkpoints; for tests of who runs what, and how often.

A job's words: the number of steps, seconds a step, and optionally what goes wrong: "error", "transient" (fails the
first time), "die" (kills its process after each step), "hold" (goes on after HOLD steps only if it was interrupted),
"fork" (has a child process that ought not to answer signals).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

from xcoop.results.folder import BusyError, locked
from xcoop.results.record import SCHEMA, checksum
from xcoop.sweep.jobs import BUSY, FAILED, FINISHED, Job, Outcome
from xcoop.utils.files import atomic_write_text, sha256_file

HOLD = 3


def make_job(folder: Path, title: str, steps: int = 5, seconds: float = 0.05, trouble: str = "", **more: object) -> Job:
    words = (str(steps), str(seconds), trouble)
    return Job(words, folder / title, title, str(more.get("group", "all")), after=more.get("after"))  # type: ignore[arg-type]


def run(job: Job) -> Outcome:
    """Runs a job; what it does stands in the file `events` of its folder, a line each."""
    steps, seconds, trouble = int(job.words[0]), float(job.words[1]), job.words[2]
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(job.folder):
            note(job.folder, "begin", pid=os.getpid(), task=os.environ.get("SLURM_JOB_ID"))
            if trouble == "error":
                return Outcome(FAILED, message="wrong from the start", again=False)
            if trouble == "transient" and len(events(job.folder, "begin")) == 1:
                return Outcome(FAILED, message="bad luck")
            if "fork" in trouble and os.fork() == 0:
                time.sleep(5)
                os._exit(0)
            chain(job.folder, steps, seconds, trouble)
    except BusyError as error:
        return Outcome(BUSY, message=str(error))
    return Outcome(FINISHED)


def chain(folder: Path, steps: int, seconds: float, trouble: str = "") -> None:
    """Goes on from the last checkpoint to the end, and writes the result."""
    checkpoint = folder / "weights" / "model.pth.tar-last"
    done, value = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, folder.name)
    while done < steps:
        time.sleep(seconds)
        done, value = done + 1, link(value, done + 1)
        note(folder, "step", number=done)
        atomic_write_text(checkpoint, json.dumps([done, value]))
        while "hold" in trouble and done == HOLD and len(events(folder, "begin")) == 1:
            time.sleep(0.05)
        if trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
    write_result(folder, value)
    note(folder, "end")


def link(value: str, number: int) -> str:
    return hashlib.sha256(f"{value} {number}".encode()).hexdigest()


def expected(name: str, steps: int) -> str:
    """The end of the chain of a run that nobody interrupted."""
    for number in range(1, steps + 1):
        name = link(name, number)
    return name


def result(folder: Path) -> str:
    value: str = json.loads((folder / "results.json").read_text())["metrics"]["chain"]
    return value


def write_result(folder: Path, value: str) -> None:
    """A record that `read_run` takes for that of a run."""
    atomic_write_text(folder / "predictions.csv", value)
    record = {"schema": SCHEMA, "dataset": "none", "trainer": "Quick", "seed": 1, "metrics": {"chain": value},
              "config_hash": "none", "predictions_sha256": sha256_file(folder / "predictions.csv")}  # fmt: skip
    atomic_write_text(folder / "results.json", json.dumps({**record, "checksum": checksum(record)}))


def note(folder: Path, event: str, **more: object) -> None:
    line = json.dumps({"event": event, "time": time.time(), **more})
    with (folder / "events").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def events(folder: Path, kind: str) -> list[dict[str, object]]:
    path = folder / "events"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == kind]
