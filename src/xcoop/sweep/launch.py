"""From a list of jobs to its summary; also as a programme, for a task of a cluster's queue.

python -m xcoop.sweep.launch JOBS.json [--workers N] [--gpus 0,1] [--out OUT]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from xcoop.results.folder import busy
from xcoop.sweep.display import Display, summary
from xcoop.sweep.forked import can_fork, prepare
from xcoop.sweep.hand import WORKER
from xcoop.sweep.jobs import FAILED, Job, read_jobs
from xcoop.sweep.pool import Pool
from xcoop.sweep.sequential import terminable, warn_without_locks
from xcoop.sweep.slots import Slot, make_slots
from xcoop.utils.console import FAILED as FAILURE
from xcoop.utils.console import guarded, say

NOTES = ".sweep"  # below the output root: journals, and the logs of workers that died
DONE, OPEN, BEGUN, RUNNING, DAMAGED = "done", "to do", "begun", "running", "damaged"


def launch(
    jobs: Sequence[Job], slots: Sequence[Slot], out: str, program: Sequence[str] | None = None, retries: int = 1
) -> int:
    """Runs jobs, shows how far they are, and says what became of them; how many failed.

    Args:
        jobs: to run; what is done is left alone.
        slots: where workers run.
        out: the output root.
        program: what a worker is; default: a fork of this process where that is possible, else `hand.WORKER`.
        retries: how often a failed job is tried again.

    Raises:
        KeyboardInterrupt: Ctrl-C, or a request to terminate; the workers are ended first.
    """
    start = time.monotonic()
    warn_without_locks(Path(out))
    display = Display(len({job.folder for job in jobs}), len(slots))
    pool = Pool(jobs, slots, Path(out, NOTES), display, retries, program or (None if can_fork(slots) else WORKER))
    try:
        with terminable():
            if pool.program is None and not all(map(_is_done, jobs)):
                prepare()
            pool.run()
    finally:
        display.close()
        say(*summary(jobs, pool.ends, time.monotonic() - start, out))
    return sum(outcome.state == FAILED for outcome in pool.ends.values())


def _is_done(job: Job) -> bool:
    return state(job) == DONE


def state(job: Job) -> str:
    """What is known of a job before it is started."""
    try:
        if job.done():
            return DONE
    except ValueError:
        return DAMAGED
    if busy(job.folder):
        return RUNNING
    return BEGUN if any(job.folder.glob("*/model*.pth.tar*")) else OPEN


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the jobs of a file; the exit code."""
    flags = argparse.ArgumentParser(prog="xcoop.sweep.launch", description="Runs the jobs of a file.")
    flags.add_argument("jobs", type=Path, help="a file of jobs")
    flags.add_argument("--workers", type=int, help="processes")
    flags.add_argument("--gpus", help="ids of the GPUs to use, separated by commas")
    flags.add_argument("--out", default="output", help="the output root: journals and workers' logs go below it")
    arguments = flags.parse_args(argv)
    gpus = None if arguments.gpus is None else [name for name in arguments.gpus.split(",") if name]

    def command() -> int:
        failed = launch(read_jobs(arguments.jobs), make_slots(arguments.workers, gpus), arguments.out)
        return FAILURE if failed else 0

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
