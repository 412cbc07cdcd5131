"""A sweep on a Slurm cluster, through submitit: arrays of tasks, each of which takes several runs of one group.

The launcher looks at what lies on disk and what Slurm has, submits what has to be, and keeps nothing to itself: it may
be killed, and started again on any login node that sees the disk. The rules, for a run that is not done:

* a task that waits or runs has it: nothing to do;
* no task of this sweep has had it: submit it (what failed before this launcher started is tried anew);
* its task has gone before its turn came: submit it;
* its task has gone with it in flight, or it failed and may be tried again: submit it once more, in a task of its own;
* that has gone, too, or the run failed for good, or somebody cancelled its task: it has failed.

submitit writes pickles into its folder of logs and reads them on the nodes; nothing here reads a pickle, not even to
learn how a task ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from xcoop.results.folder import busy
from xcoop.sweep.launcher import terminable, warn_without_locks
from xcoop.sweep.slurm_state import Entry, Ledger, Queue, QueueError, Submission, key, last_state, queued
from xcoop.sweep.slurm_task import Options, Submit, require_slurm, submitter
from xcoop.sweep.worker import DONE, FAILED, FINISHED, FOUND, RUNNING, Job, Outcome, Run
from xcoop.utils.console import UserError, say

PAUSES = (2.0, 30.0)  # seconds between looks: after a change, and at most
QUEUED, NEW, ELSEWHERE = "queued", "new", "elsewhere"  # where a run stands, besides DONE, RUNNING and FAILED
ATTEMPTS = 2
GRACE = 20.0  # seconds that results may take to show on this side of a network disk after their task has gone

Holder = tuple[Submission, int]  # a task: the submission, and its index in it


def run_on_slurm(
    jobs: Sequence[Job], folder: Path, options: Options, detach: bool = False, run: Run | None = None
) -> dict[Path, Outcome]:
    """Submits what is not done, not queued and not running, and watches all of it to the end.

    Args:
        jobs: each after the one that it builds on.
        folder: of the ledger, on a disk that all nodes see.
        options: of the tasks submitted now; those that wait or run keep theirs.
        detach: return as soon as everything is submitted.
        run: what runs one job on a node; default: `worker.Runner`.

    Returns:
        How each job ended, by its folder; without those that are still open, if `detach` is set.

    Raises:
        UserError: submitit or Slurm's commands are missing, or Slurm refuses.
        KeyboardInterrupt: from the keyboard, or asked to terminate. The tasks are not affected.
    """
    require_slurm()
    warn_without_locks(folder)
    launcher = SlurmLauncher(jobs, Ledger(folder), submitter(options, run), options.runs_per_task)
    display = SlurmDisplay(len(jobs))
    try:
        with terminable():
            tally = watch(launcher, display, detach)
    except KeyboardInterrupt:
        display.leave()
        raise
    finally:
        display.close()
    if detach:
        display.leave()
    ended = {job: state for job, state in tally.states.items() if state.name in (DONE, FAILED)}
    return {
        job.folder: Outcome(
            FOUND if job in launcher.found else FINISHED if state.name == DONE else FAILED, message=state.message
        )
        for job, state in ended.items()
    }


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Attributes:
        name: QUEUED, RUNNING, DONE, FAILED, NEW (to be submitted), or ELSEWHERE (another process is at it).
        message: why it failed; or which task has it, and on which node or why it waits.
        attempt: of the submission that it needs next (state NEW).
    """

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


class SlurmLauncher:
    """Looks, and submits what has to be.

    Args:
        jobs: all runs, each after the one that it builds on.
        ledger: of the output root.
        submit: see `slurm_task.submitter`.
        runs_per_task: of one group, one after the other in one process.
        queue, why: see `slurm_state.queued` and `slurm_state.last_state`.
        grace: seconds; see `GRACE`.
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
        self.found: set[Job] = set()  # that were done when it first looked
        # Tasks are known here by the number of their submission and their index in it.
        self._past: set[tuple[int, int]] | None = None  # those that had gone when this launcher first looked
        self._gone: dict[tuple[int, int], float] = {}  # since when each is seen to have gone (s)
        self._closed: dict[Job, State] = {}  # DONE or FAILED, whatever Slurm says later
        self._by_folder = {job.folder: job for job in self.jobs}

    def look(self) -> Tally:
        """One look, and what has to be submitted.

        Raises:
            QueueError: Slurm does not answer; nothing was done.
            UserError: Slurm refuses the submission.
        """
        first = self._past is None
        tally = self.see(first)
        if tally.count(NEW):
            with self.ledger.locked():
                tally = self.see(first)  # another launcher may have been quicker
                self._submit(tally)
        return tally

    def see(self, first: bool = True) -> Tally:
        """Where all runs stand; nothing is submitted.

        Args:
            first: this launcher has not looked before. Tasks that have gone by then count for nothing: what they left
                undone is as good as new.
        """
        holders = self.ledger.latest()
        queue = self.queue({holders[key(job)][0].name for job in self.jobs if key(job) in holders})
        if first:
            self._past = {
                (submission.number, index)
                for submission, index in holders.values()
                if index not in queue.get(submission.name, {})
            }
        tally = Tally({})
        for job in self.jobs:
            holder = holders.get(key(job))
            entry = queue.get(holder[0].name, {}).get(holder[1]) if holder else None
            if holder and entry and holder[0].job is None:  # its launcher died before it could write the id down
                holder = (self.ledger.confirm(holder[0], entry.job), holder[1])
            state = tally.states[job] = self._closed.get(job) or self._state(job, holder, entry, tally)
            if first and state.name == DONE:
                self.found.add(job)
            if state.name in (DONE, FAILED):
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
            return State(FAILED, str(error))
        if holder and entry:
            task, status = f"Slurm job {holder[0].task_id(holder[1])}", self.ledger.status(*holder)
            if not entry.running:
                return State(QUEUED, f"{task} waits: {entry.reason or entry.state}")
            if status.current == key(job):
                return State(RUNNING, f"{task} on {status.node}")
            return State(QUEUED, f"{task} runs others before it")
        if holder is None or (holder[0].number, holder[1]) in (self._past or ()):
            return self._new(job, tally)
        return self._left_behind(job, holder, tally)

    def _new(self, job: Job, tally: Tally, attempt: int = 1) -> State:
        """A run to be submitted, unless it is run elsewhere, or what it builds on is not there."""
        if busy(job.folder):
            return State(ELSEWHERE)
        base = tally.states.get(self._by_folder[job.after]) if job.after in self._by_folder else None
        if base and base.name == FAILED:
            return State(FAILED, "the run that it builds on failed")
        if base and base.name in (QUEUED, RUNNING, ELSEWHERE):
            return State(QUEUED)
        return State(NEW, attempt=attempt)

    def _left_behind(self, job: Job, holder: Holder, tally: Tally) -> State:
        """A run whose task has gone since this launcher started."""
        submission, index = holder
        since = self._gone.setdefault((submission.number, index), time.monotonic())
        status = self.ledger.status(submission, index)
        end = status.ends.get(key(job))
        end = end if end and end.state == FAILED else None  # what else ended shows in its folder, sooner or later
        if not end and time.monotonic() - since < self.grace:
            return State(QUEUED)
        cause = self.why(submission.task_id(index)) if submission.job and not end else ""
        guilty = bool(end) or status.current in (None, key(job))  # else another run's fate, before its turn
        if cause == "CANCELLED" or (end and not end.again) or (guilty and submission.attempt >= ATTEMPTS):
            log = self.ledger.logs(submission)
            ended = f"its task {submission.task_id(index)} ended without it ({cause or 'Slurm does not know why'})"
            return State(FAILED, end.message if end else f"{ended}; logs: {log}")
        return self._new(job, tally, submission.attempt + guilty)

    def _submit(self, tally: Tally) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            new = [job for job, state in tally.states.items() if state == State(NEW, attempt=attempt)]
            tasks = chunks(new, self.runs_per_task if attempt == 1 else 1)
            if not tasks:
                continue
            made = self.ledger.announce(attempt, tasks)
            statuses = [self.ledger.status_path(made, index) for index in range(len(tasks))]
            try:
                number = self.submit(made, tasks, self.ledger.logs(made), statuses)
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


def watch(
    launcher: SlurmLauncher, display: SlurmDisplay, detach: bool = False, pauses: tuple[float, float] = PAUSES
) -> Tally:
    """Looks again and again, until nothing is open any more (or once, to `detach`); what the last look saw.

    Raises:
        UserError: Slurm does not answer from the start, or refuses a submission.
    """
    (shortest, longest), pause, answered = pauses, pauses[0], False
    while True:
        try:
            tally = launcher.look()
        except QueueError as error:
            if not answered:
                raise UserError(f"Slurm does not answer: {error}") from None
            display.trouble(str(error))
            pause = longest
        else:
            answered = True
            pause = shortest if display.show(tally) else min(1.5 * pause, longest)
            if detach or tally.count(DONE, FAILED) == len(tally.states):
                return tally
        time.sleep(pause)


class SlurmDisplay:
    """Shows tallies: a bar on a terminal, elsewhere a line whenever something changed.

    Args:
        total: how many runs there are.
        terminal: whether a bar can be drawn; default: whether the standard error is a terminal.
    """

    def __init__(self, total: int, terminal: bool | None = None) -> None:
        drawn = sys.stderr.isatty() if terminal is None else terminal
        self.bar = tqdm(total=total, leave=False, bar_format="{percentage:3.0f}%|{bar}| {desc}") if drawn else None
        self._failed: set[Job] = set()
        self._line = self._ids = self._held = self._trouble = ""

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.close()

    def show(self, tally: Tally) -> bool:
        """Shows a tally; whether it differs from the last one."""
        names = {
            QUEUED: "queued",
            RUNNING: "running",
            DONE: "done",
            FAILED: "failed",
            ELSEWHERE: "run by other processes",
        }
        counts = [(tally.count(name), name) for name in names]
        line = ", ".join(f"{count} {names[name]}" for count, name in counts if count or name != ELSEWHERE)
        changed, self._line, self._trouble = line != self._line, line, ""
        self._ids = " ".join(sorted(tally.ids, key=int))
        for job, state in tally.states.items():
            if state.name == FAILED and job not in self._failed:
                self._failed.add(job)
                self._say(f"{job.title}: FAILED", *(f"    {line}" for line in state.message.splitlines()))
        held = " ".join(sorted(tally.held, key=int))
        if held and held != self._held:
            self._say(f"Slurm holds the jobs {held} back; after a look at the reason (squeue): scontrol release {held}")
        self._held = held
        text = f"{line} (Slurm jobs: {self._ids})" if self._ids else line
        if self.bar is not None:
            self.bar.n = tally.count(DONE, FAILED)
            self.bar.set_description_str(text)
        elif changed:
            self._say(text)
        return changed

    def trouble(self, message: str) -> None:
        """Slurm did not answer; said once."""
        if message != self._trouble:
            self._say(f"Slurm does not answer ({message}); its jobs are not affected, asking again")
        self._trouble = message

    def leave(self) -> None:
        """What happens to the tasks when the launcher goes, and what ends them."""
        if self._ids:
            self._say(f"The tasks go on; the same command attaches to them again. To end them: scancel {self._ids}")

    def _say(self, *lines: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        say(*lines)


def in_queue(jobs: Sequence[Job], folder: Path) -> tuple[dict[Job, State], set[str]]:
    """Which of the runs wait or run on the cluster, and Slurm's ids of their tasks; nothing is submitted.

    Args:
        jobs: runs of the sweep.
        folder: of the ledger.

    Raises:
        UserError: Slurm does not answer.
        ValueError: a file of the ledger is damaged.
    """
    try:
        tally = SlurmLauncher(jobs, Ledger(folder), submitter(Options())).see()
    except QueueError as error:
        raise UserError(f"Slurm does not answer: {error}") from None
    return {
        job: state for job, state in tally.states.items() if state.name in (QUEUED, RUNNING) and state.message
    }, tally.ids
