"""What a task of a Slurm array does on its node, and what it asks for when it has to leave early.

submitit calls `checkpoint` when Slurm announces a preemption or the end of the time limit, and requeues the task with
what that returns. Nothing depends on it being called: a task that is started again skips the runs that are done, and
the run that was in flight goes on from its own checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.sweep.jobs import FAILED, Job, Outcome
from xcoop.sweep.journal import Journal
from xcoop.sweep.slurm_ledger import read_status, write_status
from xcoop.sweep.worker import Run, Runner, work

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

MOST_FRUITLESS = 3  # starts in a row that brought no run a checkpoint further; then the task gives up
WEIGHTS = "*/model*.pth.tar*"  # checkpoints in a run's folder


class Task:
    """Runs several jobs in one process, for submitit: a function with a `checkpoint`.

    Args:
        run: what runs one job; default: `train.py`'s own code.
        fruitless: starts so far, one after the other, that brought nothing.
    """

    def __init__(self, run: Run | None = None, fruitless: int = 0) -> None:
        self.run, self.fruitless = run, fruitless
        self._leaving = False
        self._found: frozenset[tuple[str, int]] = frozenset()

    def __call__(self, path: Path, jobs: Sequence[Job]) -> None:
        """Runs them; how each ended stands in the status file, and what it made in its folder.

        Args:
            path: of the status file.
            jobs: of one group.
        """
        _import_nothing_from_here()
        _requeue_from_here_only()
        before = read_status(path)
        write_status(path, replace(before, starts=before.starts + 1, node=socket.gethostname(), current=None))
        self._found = progress(jobs)
        run = self.run or Runner(Journal(path.parent.parent))
        work(left(path, jobs), lambda job: self._attempt(path, job, run), lambda job, end: _tell(path, job, end))
        _note(path, current=None)

    def checkpoint(self, path: Path, jobs: Sequence[Job]) -> DelayedSubmission | None:
        """What is left to do after a requeue; None, which ends the task, if that has not helped several times."""
        from submitit.helpers import DelayedSubmission

        self._leaving = True
        fruitless = 0 if progress(jobs) - self._found else self.fruitless + 1
        if fruitless >= MOST_FRUITLESS:
            _give_up(path, fruitless)
            return None
        return DelayedSubmission(Task(self.run, fruitless), path, left(path, jobs))

    def _attempt(self, path: Path, job: Job, run: Run) -> Outcome:
        _note(path, current=str(job.folder))
        outcome = run(job)
        if self._leaving and not _done(job):  # the exception that ends this task was taken for one of the run
            raise SystemExit(1)
        return outcome


def left(path: Path, jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are neither done, nor have failed in this task."""
    failed = {folder for folder, end in read_status(path).ends.items() if end.state == FAILED}
    return [job for job in jobs if str(job.folder) not in failed and not _done(job)]


def progress(jobs: Sequence[Job]) -> frozenset[tuple[str, int]]:
    """What the runs have put on disk so far: checkpoints and results, with the times they were written (ns)."""
    files: set[tuple[str, int]] = set()
    for job in jobs:
        for path in (*job.folder.glob(WEIGHTS), job.folder / "results.json"):
            with contextlib.suppress(OSError):  # absent, or just replaced
                files.add((str(path), path.stat().st_mtime_ns))
    return frozenset(files)


def _tell(path: Path, job: Job, outcome: Outcome) -> None:
    _note(path, current=None, ends={**read_status(path).ends, str(job.folder): outcome})


def _give_up(path: Path, times: int) -> None:
    status = read_status(path)
    if status.current:
        message = f"interrupted {times} times in a row without reaching a checkpoint; give --time more minutes"
        _note(path, ends={**status.ends, status.current: Outcome(FAILED, message=message, again=False)})


def _note(path: Path, **changes: Any) -> None:
    write_status(path, replace(read_status(path), **changes))


def _done(job: Job) -> bool:
    try:
        return job.done()
    except ValueError:  # damaged: `work` says so
        return False


def _import_nothing_from_here() -> None:
    """`python -m`, with which submitit starts us, searches the working folder: a `datasets` in it hides a library."""
    here = Path.cwd()
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry) != here]


def _requeue_from_here_only() -> None:
    """Slurm signals every process of a task; forked ones, such as data loaders, would ask for a requeue, too."""
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    number = getattr(signal, f"SIG{name.removeprefix('SIG')}")
    os.register_at_fork(after_in_child=lambda: signal.signal(number, signal.SIG_IGN) and None)
