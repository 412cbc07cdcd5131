"""A process that runs jobs one after the other. What they load in common is loaded once.

    python -m xcoop.sweep.worker JOBS.json      the jobs of a file, then it ends; exit code 1 if one failed
    python -m xcoop.sweep.worker --serve        the jobs that its standard input names, one JSON line each (see `pool`)

A served worker ends when its standard input does: it does not outlive whoever started it.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from xcoop.sweep.jobs import BUSY, FAILED, FINISHED, FOUND, Job, Outcome, read_jobs
from xcoop.sweep.journal import STARTED, Journal
from xcoop.sweep.serve import serve
from xcoop.utils.console import EXPECTED, BusyError, UserError, describe, guarded, say
from xcoop.utils.console import FAILED as FAILURE

Run = Callable[[Job], Outcome]
POLL = 2.0  # seconds between looks at a run that another process is at


def work(
    jobs: Sequence[Job], run: Run | None = None, tell: Callable[[Job, Outcome], None] | None = None
) -> list[Outcome]:
    """Runs jobs in this process, in their order; those that another process is at are looked at again at the end.

    Args:
        jobs: best of one group.
        run: what runs one of them; default: `run_job` in a scope of its own.
        tell: is told how each ended.

    Returns:
        The last outcome of each job, in their order. A failure does not stop the others.
    """
    run = run or Runner()
    ends: dict[int, Outcome] = {}
    waiting = list(range(len(jobs)))
    while waiting:
        for number in waiting:
            ends[number] = attempt(jobs[number], run)
            if tell and ends[number].state != BUSY:
                tell(jobs[number], ends[number])
        waiting = [number for number in waiting if ends[number].state == BUSY]
        if waiting:
            time.sleep(POLL)
    return [ends[number] for number in range(len(jobs))]


def attempt(job: Job, run: Run) -> Outcome:
    """Runs one job, unless it is done or cannot be done; nothing is raised but an interruption."""
    try:
        if job.done():
            return Outcome(FOUND)
        if not job.ready():
            return Outcome(FAILED, message=f"the run that it builds on is not done: {job.after}", again=False)
    except ValueError as error:  # a damaged record
        return Outcome(FAILED, message=describe(error), again=False)
    return run(job)


class Runner:
    """Runs jobs with `train.py`'s own code, in a scope in which they share what they load.

    Args:
        journal: where starts and ends are noted; None notes nothing.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        from xcoop.utils.process_cache import Shared

        self.shared = Shared()
        self.journal = journal

    def __call__(self, job: Job) -> Outcome:
        """Runs one; what it changed in this process is put back."""
        from xcoop.sweep.isolation import isolated
        from xcoop.utils.process_cache import sharing

        start = time.monotonic()
        with sharing(self.shared), isolated():
            outcome = self._run(job)
        return Outcome(outcome.state, time.monotonic() - start, outcome.message, outcome.again)

    def _run(self, job: Job) -> Outcome:
        from xcoop.results.folder import FinishedError
        from xcoop.runs import train

        self._note(STARTED, job)
        try:
            code = train.run(train.parser().parse_intermixed_args(list(job.words)), job.words, once=True)
        except BusyError as error:
            outcome = Outcome(BUSY, message=describe(error))
        except FinishedError:
            outcome = Outcome(FOUND)
        except (UserError, FileNotFoundError) as error:  # another try would not find it either
            outcome = Outcome(FAILED, message=describe(error), again=False)
        except (Exception, SystemExit) as error:
            outcome = Outcome(FAILED, message=_told(error))
        else:
            outcome = self._checked(job, code)
        self._note(outcome.state, job)
        return outcome

    @staticmethod
    def _checked(job: Job, code: int) -> Outcome:
        if job.done():
            return Outcome(FINISHED)
        return Outcome(FAILED, message=f"it ended (code {code}) without a results.json (TEST.NO_TEST?)", again=False)

    def _note(self, event: str, job: Job) -> None:
        if self.journal is not None:
            self.journal.write(event, job.folder, title=job.title)


def _told(error: BaseException) -> str:
    """An exception in words: its message if it was meant for the user, else also its kind and place."""
    if isinstance(error, EXPECTED):
        return describe(error)
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({frame.filename}, line {frame.lineno})" for frame in place)
    return f"{type(error).__name__}: {describe(error)}{where}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the jobs of a file, or serves; the exit code."""
    flags = argparse.ArgumentParser(prog="xcoop.sweep.worker", description=__doc__.splitlines()[0])
    flags.add_argument("jobs", nargs="?", type=Path, help="a file of jobs")
    flags.add_argument("--serve", action="store_true", help="take jobs from the standard input")
    flags.add_argument("--journal", type=Path, help="the folder of the journal")
    arguments = flags.parse_args(argv)
    if arguments.serve == (arguments.jobs is not None):
        flags.error("name a file of jobs, or --serve")
    runner = Runner(Journal(arguments.journal) if arguments.journal else None)
    if arguments.serve:
        return guarded(lambda: serve(lambda job: attempt(job, runner)))
    return guarded(lambda: _work_off(arguments.jobs, runner))


def _work_off(path: Path, runner: Run) -> int:
    ends = work(read_jobs(path), runner, lambda job, end: say(f"{job.title}: {end.state} {end.message}".rstrip()))
    return FAILURE if any(end.state == FAILED for end in ends) else 0


if __name__ == "__main__":
    sys.exit(main())
