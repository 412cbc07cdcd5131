"""Decides what to submit, from what lies on disk and what Slurm has: one look after the other, nothing kept between.

The rules, for a run that is not done:

* a task that waits or runs has it: nothing to do;
* no task of this sweep has had it: submit it (what failed before this launcher started is tried anew);
* its task has gone before its turn came: submit it;
* its task has gone with it in flight, or it failed and may be tried again: submit it once more, in a task of its own;
* that has gone, too, or the run failed for good, or somebody cancelled its task: it has failed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xcoop.results.folder import busy
from xcoop.sweep.jobs import FAILED, Job
from xcoop.sweep.slurm_ledger import Ledger, Status, Submission
from xcoop.sweep.slurm_queue import Entry, Queue, last_state, queued

QUEUED, RUNNING, DONE, LOST, NEW, ELSEWHERE = "queued", "running", "done", "failed", "new", "elsewhere"
ATTEMPTS = 2
GRACE = 20.0  # seconds that results may take to show on this side of a network disk after their task has gone

Submit = Callable[[Submission, Path, Sequence[Path]], str]  # (submission, folder of logs, statuses) -> Slurm's id
Holder = tuple[Submission, int]  # a task: the submission, and its index in it


@dataclass(frozen=True)
class State:
    """Where a run stands. `attempt`: of the submission that it needs next (state NEW)."""

    name: str
    message: str = ""
    attempt: int = 1


@dataclass
class Tally:
    """Where all runs stand after a look.

    Attributes:
        states: in the order of the jobs.
        held: ids of tasks that wait for a person.
        ids: Slurm's ids of the arrays that still have something of ours.
    """

    states: dict[Job, State]
    held: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)

    def count(self, *names: str) -> int:
        """How many runs are in one of these states."""
        return sum(state.name in names for state in self.states.values())

    @property
    def open(self) -> int:
        """How many may still change."""
        return len(self.states) - self.count(DONE, LOST)


class Launcher:
    """Looks, and submits what has to be.

    Args:
        jobs: all runs, each after the one that it builds on.
        ledger: of the output root.
        submit: hands a submission to Slurm.
        runs_per_task: of one group, one after the other in one process.
        queue: see `slurm_queue.queued`.
        why: see `slurm_queue.last_state`.
        grace: seconds; see `GRACE`.

    Attributes:
        found: the jobs that were done when it first looked.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        ledger: Ledger,
        submit: Submit,
        runs_per_task: int = 1,
        queue: Callable[[set[str]], Queue] = queued,
        why: Callable[[str], str] = last_state,
        grace: float = GRACE,
    ) -> None:
        self.jobs, self.ledger, self.submit, self.runs_per_task = list(jobs), ledger, submit, runs_per_task
        self.queue, self.why, self.grace = queue, why, grace
        self.found: set[Job] = set()
        self._past: set[tuple[int, int]] | None = None  # tasks that had gone when this launcher started
        self._gone: dict[tuple[int, int], float] = {}  # since when each task is seen to have gone
        self._closed: dict[Job, State] = {}
        self._by_folder: dict[Path | None, Job] = {job.folder: job for job in self.jobs}
        self._causes: dict[str, str] = {}
        self._statuses: dict[tuple[int, int], Status] = {}  # as this look finds them

    def look(self) -> Tally:
        """One look, and what has to be submitted.

        Raises:
            QueueError: Slurm does not answer; nothing was done.
            UserError: Slurm refuses the submission.
        """
        first = self._past is None
        tally = self._see(first)
        if tally.count(NEW):
            with self.ledger.locked():
                tally = self._see(first)  # another launcher may have been quicker
                self._submit(tally)
        return tally

    def _see(self, first: bool) -> Tally:
        self._statuses = {}
        holders = latest(self.ledger.submissions())
        queue = self.queue({holders[key(job)][0].name for job in self.jobs if key(job) in holders})
        if first:
            self._past = {_number(one) for one in holders.values() if _entry(queue, one) is None}
        tally = Tally({})
        for job in self.jobs:
            holder = holders.get(key(job))
            entry = _entry(queue, holder) if holder else None
            if holder and entry and holder[0].job is None:  # its launcher died before it could write the id down
                self.ledger.confirm(holder[0], entry.job)
            state = tally.states[job] = self._closed.get(job) or self._state(job, holder, entry, tally)
            if first and state.name == DONE:
                self.found.add(job)
            if state.name in (DONE, LOST):
                self._closed[job] = state
            elif entry:
                tally.ids.add(entry.job)
                tally.held |= {entry.job} if entry.held else set()
        return tally

    def _state(self, job: Job, holder: Holder | None, entry: Entry | None, tally: Tally) -> State:
        """Where a run stands; those before it in the list stand in `tally` already."""
        try:
            if job.done():
                return State(DONE)
        except ValueError as error:
            return State(LOST, str(error))
        if holder and entry:
            current = self._status(holder).current if entry.running else None
            return State(RUNNING if current and os.path.abspath(current) == key(job) else QUEUED)
        if holder is None or _number(holder) in (self._past or ()):
            return self._new(job, tally)
        return self._left_behind(job, holder, tally)

    def _new(self, job: Job, tally: Tally, attempt: int = 1) -> State:
        """A run to be submitted, unless it is run elsewhere, or what it builds on is not there."""
        if busy(job.folder):
            return State(ELSEWHERE)
        base = tally.states.get(self._by_folder[job.after]) if job.after in self._by_folder else None
        if base and base.name == LOST:
            return State(LOST, "the run that it builds on failed")
        if base and base.name in (QUEUED, RUNNING, ELSEWHERE):
            return State(QUEUED)
        return State(NEW, attempt=attempt)

    def _left_behind(self, job: Job, holder: Holder, tally: Tally) -> State:
        """A run whose task has gone since this launcher started."""
        submission, index = holder
        since = self._gone.setdefault(_number(holder), time.monotonic())
        status = self._status(holder)
        end = status.ends.get(str(job.folder))
        end = end if end and end.state == FAILED else None  # what else ended shows in its folder, sooner or later
        if not end and time.monotonic() - since < self.grace:
            return State(QUEUED)
        cause = "" if end else self._cause(submission, index)
        guilty = bool(end) or status.current in (None, str(job.folder))  # else another run's fate, before its turn
        if cause == "CANCELLED" or (end and not end.again) or (guilty and submission.attempt >= ATTEMPTS):
            log = self.ledger.logs(submission)
            ended = f"its task {submission.task_id(index)} ended without it ({cause or 'Slurm does not know why'})"
            return State(LOST, end.message if end else f"{ended}; logs: {log}")
        return self._new(job, tally, submission.attempt + guilty)

    def _status(self, holder: Holder) -> Status:
        if _number(holder) not in self._statuses:
            self._statuses[_number(holder)] = self.ledger.status(*holder)
        return self._statuses[_number(holder)]

    def _cause(self, submission: Submission, index: int) -> str:
        """How a task ended, asked once."""
        if submission.job is None:
            return ""
        task = submission.task_id(index)
        if task not in self._causes:
            self._causes[task] = self.why(task)
        return self._causes[task]

    def _submit(self, tally: Tally) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            new = [job for job, state in tally.states.items() if state == State(NEW, attempt=attempt)]
            tasks = chunks(new, self.runs_per_task if attempt == 1 else 1)
            if not tasks:
                continue
            made = self.ledger.announce(attempt, tasks)
            statuses = [self.ledger.status_path(made, index) for index in range(len(tasks))]
            try:
                number = self.submit(made, self.ledger.logs(made), statuses)
            except Exception:
                self.ledger.withdraw(made)
                raise
            self.ledger.confirm(made, number)
            tally.ids.add(number)
            tally.states.update(dict.fromkeys(new, State(QUEUED)))


def chunks(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """Tasks of at most `size` runs of one group; a run and those that build on it are never parted."""
    families: dict[Path, list[Job]] = {}
    for job in jobs:
        families.setdefault(job.after if job.after in families else job.folder, []).append(job)
    made: dict[str, list[list[Job]]] = {}
    for family in families.values():
        tasks = made.setdefault(family[0].group, [[]])
        if tasks[-1] and len(tasks[-1]) + len(family) > size:
            tasks.append([])
        tasks[-1].extend(family)
    return [task for tasks in made.values() for task in tasks]


def latest(submissions: Sequence[Submission]) -> dict[str, Holder]:
    """The task that had each run last, by the run's folder."""
    return {
        key(job): (submission, index)
        for submission in submissions
        for index, task in enumerate(submission.tasks)
        for job in task
    }


def key(job: Job) -> str:
    """What a run is known by."""
    return os.path.abspath(job.folder)


def _entry(queue: Queue, holder: Holder) -> Entry | None:
    return queue.get(holder[0].name, {}).get(holder[1])


def _number(holder: Holder) -> tuple[int, int]:
    return holder[0].number, holder[1]
