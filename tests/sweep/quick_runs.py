"""Runs that take a moment and compute a chain of hashes, with checkpoints; for tests of who runs what, and how often.

A job's words: the number of steps, seconds a step, and optionally what goes wrong: "error" (for the user to put right),
"fail", "transient" (fails the first time), "die" (kills its process), "die-once", "hold" (goes on after HOLD steps only
if it was interrupted), "fork" (has a child process that ought not to answer signals).

    quick_runs.py OUT     a launcher of its own process, of `thirty` runs on two workers
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from xcoop.results.folder import BusyError, locked
from xcoop.results.record import SCHEMA, checksum
from xcoop.sweep.job import BUSY, FAILED, FINISHED, FOUND, Job, Outcome
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
            if job.done():
                return Outcome(FOUND)
            gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
            note(job.folder, "begin", pid=os.getpid(), gpu=gpu, task=os.environ.get("SLURM_JOB_ID"))
            first = len(events(job.folder, "begin")) == 1
            if trouble == "error":
                return Outcome(FAILED, message="wrong from the start", again=False)
            if trouble == "fail" or (trouble == "transient" and first):
                return Outcome(FAILED, message=f"bad luck of {job.title}")
            if "fork" in trouble and os.fork() == 0:
                time.sleep(5)
                os._exit(0)
            if trouble == "die" or (trouble == "die-once" and first):
                time.sleep(seconds)
                sys.stderr.write("its last words\n")
                os.kill(os.getpid(), signal.SIGKILL)
            chain(job.folder, steps, seconds, trouble)
    except BusyError as error:
        return Outcome(BUSY, message=str(error))
    return Outcome(FINISHED, steps * seconds)


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
    folder.mkdir(parents=True, exist_ok=True)
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


BAD = {3: "fail", 11: "die", 20: "transient", 25: "die-once"}


def thirty(out: Path) -> list[Job]:
    return [make_job(out / "data/T/cfg", f"run{n}", 2, 0.03, BAD.get(n, "")) for n in range(30)]


if __name__ == "__main__":
    from xcoop.sweep.launcher import Launcher, make_slots
    from xcoop.utils.console import guarded

    jobs, slots = thirty(Path(sys.argv[1])), make_slots(2, (), cores=2)

    def command() -> int:
        ends = Launcher(jobs, slots, sys.argv[1], run=run).run()
        return int(any(end.state == FAILED for end in ends.values()))

    sys.exit(guarded(command))
