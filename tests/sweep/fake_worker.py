"""A worker whose runs take milliseconds, and do what their words say; `xcoop.sweep.worker` without torch.

Words of a job: `ok`, `fail`, `fail-once`, `user-error`, `die` (SIGKILL) or `die-once`; and its milliseconds.
Each start, with the process and the GPU that it sees, is noted in the run's folder.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from xcoop.results.folder import locked
from xcoop.results.record import PREDICTIONS, RESULTS, SCHEMA, checksum
from xcoop.sweep.jobs import BUSY, FAILED, FINISHED, FOUND, Job, Outcome
from xcoop.sweep.journal import STARTED, Journal
from xcoop.sweep.serve import serve
from xcoop.sweep.worker import attempt
from xcoop.utils.console import BusyError
from xcoop.utils.files import atomic_write_text, sha256_file

STARTS = "starts.txt"


def write_results(folder: Path) -> None:
    """A whole record, of nothing."""
    (folder / PREDICTIONS).write_text("image\n")
    results = {"schema": SCHEMA, "dataset": "D", "trainer": "T", "seed": 1, "metrics": {}, "config_hash": "h"}
    results["predictions_sha256"] = sha256_file(folder / PREDICTIONS)
    results["checksum"] = checksum(results)
    atomic_write_text(folder / RESULTS, json.dumps(results))


def starts(folder: Path) -> list[str]:
    """Process and GPU of each start of a run."""
    return (folder / STARTS).read_text().splitlines() if (folder / STARTS).is_file() else []


def run(job: Job, journal: Journal) -> Outcome:
    """What a run does here."""
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(job.folder):
            if job.done():
                return Outcome(FOUND)
            journal.write(STARTED, job.folder)
            first = not starts(job.folder)
            with (job.folder / STARTS).open("a") as file:
                file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\n")
            outcome = behave(job, first)
            journal.write(outcome.state, job.folder)
            return outcome
    except BusyError as error:
        return Outcome(BUSY, message=str(error))


def behave(job: Job, first: bool) -> Outcome:
    """Takes its time, and ends as it is told to."""
    what, milliseconds = job.words
    time.sleep(int(milliseconds) / 1000)
    if what == "die" or (what == "die-once" and first):
        sys.stderr.write("its last words\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fail" or (what == "fail-once" and first):
        return Outcome(FAILED, message=f"planned failure of {job.title}")
    if what == "user-error":
        return Outcome(FAILED, message="no such thing", again=False)
    write_results(job.folder)
    return Outcome(FINISHED, int(milliseconds) / 1000)


def main() -> int:
    flags = argparse.ArgumentParser()
    flags.add_argument("--serve", action="store_true")
    flags.add_argument("--journal", type=Path)
    journal = Journal(flags.parse_args().journal)
    return serve(lambda job: attempt(job, lambda job: run(job, journal)))


if __name__ == "__main__":
    sys.exit(main())
