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

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xcoop.results.folder import busy
from xcoop.sweep.job import DONE, FAILED, FINISHED, FOUND, RUNNING, Job, Outcome, Run
from xcoop.sweep.launcher import Bar, terminable, warn_without_locks
from xcoop.sweep.slurm_task import Ledger, Options, Submission, Submit, key, submitter
from xcoop.utils.console import UserError

COMMANDS = ("sbatch", "squeue", "scontrol", "srun")
SECONDS = 60  # that one of them may take
JOB = re.compile(r"(?P<job>\d+)(_(?P<index>\d+))?")
# A task in one of these holds a node, or is about to leave one; in any other that `squeue` shows it waits.
ON_NODE = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"})
# Where a run stands, besides RUNNING, DONE and FAILED; the names are shown.
QUEUED, NEW, ELSEWHERE = "queued", "new", "run by other processes"
ATTEMPTS = 2
PAUSES = (2.0, 30.0)  # seconds between looks: after a change, and at most
GRACE = 20.0  # seconds that results may take to show on this side of a network disk after their task has gone


# Slurm's own commands. `squeue` tells which tasks wait or run; `sacct`, or else `scontrol`, how one ended. Both of the
# latter forget, or may be switched off, so what a run's folder says is never asked of Slurm.


class QueueError(Exception):
    """Slurm does not answer; its jobs are not affected by that."""


@dataclass(frozen=True)
class Entry:
    """A task in the queue: the id of its array, its state, and why it waits."""

    job: str
    state: str
    reason: str = ""

    @property
    def running(self) -> bool:
        """Whether it is on a node."""
        return self.state in ON_NODE

    @property
    def held(self) -> bool:
        """Whether it waits for a person: after a requeue that Slurm distrusts, or because somebody held it."""
        return not self.running and "held" in self.reason.lower()


Queue = dict[str, dict[int, Entry]]  # by job name, and by index of the task


def require_slurm() -> None:
    """UserError if Slurm's commands are missing; the message says what to install."""
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        raise UserError(
            f"--slurm needs Slurm's commands on the PATH; missing: {', '.join(absent)}. Run this on a login node of "
            "the cluster (perhaps after `module load slurm`), or install them (Debian: slurm-client)"
        )


def queued(names: Iterable[str]) -> Queue:
    """The tasks of the named jobs that wait or run.

    Raises:
        QueueError: `squeue` fails.
    """
    wanted = sorted(set(names))
    if not wanted:
        return {}
    text = _output("squeue", "--noheader", "--array", f"--name={','.join(wanted)}", "--format=%i|%T|%j|%r")
    found: Queue = {}
    for line in text.splitlines():
        number, state, name, reason = line.strip().split("|", 3)
        if match := JOB.fullmatch(number):
            found.setdefault(name, {})[int(match["index"] or 0)] = Entry(match["job"], state, reason)
    return found


def last_state(task: str) -> str:
    """How a task that is no longer in the queue ended, e.g. "NODE_FAIL"; "" if nobody knows."""
    sacct = ("sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={task}")
    scontrol = ("scontrol", "--oneliner", "show", "job", task)
    return _search(r"^(\w+)", *sacct) or _search(r"\bJobState=(\w+)", *scontrol)


def largest_array() -> int:
    """How many tasks an array may have (`MaxArraySize`)."""
    return int(_search(r"MaxArraySize\s*=\s*(\d+)", "scontrol", "show", "config") or 1001)


def _search(pattern: str, *command: str) -> str:
    """What a pattern finds last in what a command says; "" if that fails."""
    try:
        found = re.findall(pattern, _output(*command), re.MULTILINE)
    except QueueError:
        return ""
    return str(found[-1]) if found else ""


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise QueueError(f"{command[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


# The launcher.


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

    states: dict[Job, State] = field(default_factory=dict)
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
        queue, why: see `queued` and `last_state`.
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
        self._past: set[tuple[int, int]] | None = None  # those that had gone by then: they count for nothing
        self._gone: dict[tuple[int, int], float] = {}  # since when each of the others is seen to have gone (s)
        self._closed: dict[Job, State] = {}  # DONE or FAILED, whatever Slurm says later
        self._by_folder = {job.folder: job for job in self.jobs}

    def look(self) -> Tally:
        """One look, and what has to be submitted.

        Raises:
            QueueError: Slurm does not answer; nothing was done.
            UserError: Slurm refuses the submission.
        """
        tally = self.see()
        if tally.count(NEW):
            with self.ledger.locked():
                tally = self.see()  # another launcher may have been quicker
                self._submit(tally)
        return tally

    def see(self) -> Tally:
        """Where all runs stand; nothing is submitted."""
        holders = self.ledger.latest()
        queue = self.queue({holders[key(job)][0].name for job in self.jobs if key(job) in holders})
        first = self._past is None
        if self._past is None:
            self._past = {
                (submission.number, index)
                for submission, index in holders.values()
                if submission.job and index not in queue.get(submission.name, {})
            }
        tally = Tally()
        for job in self.jobs:
            submission, index = holders.get(key(job), (None, 0))
            entry = queue.get(submission.name, {}).get(index) if submission else None
            if submission and entry and submission.job is None:  # its launcher died before it could write the id down
                submission = self.ledger.write(replace(submission, job=entry.job))
            state = self._closed.get(job) or self._state(job, submission, index, entry, tally)
            tally.states[job] = state
            if state.name in (DONE, FAILED):
                self._closed[job] = state
                self.found |= {job} if first and state.name == DONE else set()
            elif entry:
                tally.ids.add(entry.job)
                tally.held |= {entry.job} if entry.held else set()
        return tally

    def _state(self, job: Job, submission: Submission | None, index: int, entry: Entry | None, tally: Tally) -> State:
        """Where a run stands; those before it in the list stand in `tally` already."""
        try:
            if job.done():
                return State(DONE)
        except ValueError as error:
            return State(FAILED, str(error))
        # A submission without an id that is not in the queue has never reached it.
        if submission is None or not (entry or submission.job) or (submission.number, index) in (self._past or ()):
            return self._new(job, tally)
        if entry is None:
            return self._left_behind(job, submission, index, tally)
        task, status = f"Slurm job {submission.task_id(index)}", self.ledger.status(submission, index)
        if not entry.running:
            return State(QUEUED, f"{task} waits: {entry.reason or entry.state}")
        if status.current == key(job):
            return State(RUNNING, f"{task} on {status.node}")
        return State(QUEUED, f"{task} runs others before it")

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

    def _left_behind(self, job: Job, submission: Submission, index: int, tally: Tally) -> State:
        """A run whose task has gone since this launcher started."""
        since = self._gone.setdefault((submission.number, index), time.monotonic())
        status = self.ledger.status(submission, index)
        end = status.ends.get(key(job))
        end = end if end and end.state == FAILED else None  # what else ended shows in its folder, sooner or later
        if not end and time.monotonic() - since < self.grace:
            return State(QUEUED)
        cause = "" if end else self.why(submission.task_id(index))
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
            if len(tasks) >= (most := largest_array()):
                raise UserError(
                    f"{len(tasks)} tasks are more than this cluster takes in an array (MaxArraySize {most}): "
                    f"{len(new)} runs need --runs-per-task {len(new) // (most - 1) + 1} or more"
                )
            made = self.ledger.announce(attempt, tasks)
            number = self.submit(made, tasks)
            self.ledger.write(replace(made, job=number))
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


class SlurmDisplay(Bar):
    """Shows tallies: a bar on a terminal, elsewhere a line whenever something changed."""

    def __init__(self, total: int, terminal: bool | None = None) -> None:
        super().__init__(total, terminal, leave=False)
        self._tally = Tally()
        self._line = self._trouble = ""

    def show(self, tally: Tally) -> bool:
        """Shows a tally; whether it differs from the last one."""
        before, self._tally, self._trouble = self._tally, tally, ""
        counts = {name: tally.count(name) for name in (QUEUED, RUNNING, DONE, FAILED, ELSEWHERE)}
        line = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name != ELSEWHERE)
        changed, self._line = line != self._line, line
        for job, state in tally.states.items():
            if state.name == FAILED and before.states.get(job) != state:
                self.say(f"{job.title}: FAILED", *(f"    {line}" for line in state.message.splitlines()))
        if tally.held - before.held:
            held = _in_order(tally.held)
            self.say(f"Slurm holds the jobs {held} back; after a look at the reason (squeue): scontrol release {held}")
        text = f"{line} (Slurm jobs: {_in_order(tally.ids)})" if tally.ids else line
        if self.bar is not None:
            self.bar.n = counts[DONE] + counts[FAILED]
            self.bar.set_description_str(text)
        elif changed:
            self.say(text)
        return changed

    def trouble(self, message: str) -> None:
        """Slurm did not answer; said once."""
        if message != self._trouble:
            self.say(f"Slurm does not answer ({message}); its jobs are not affected, asking again")
        self._trouble = message

    def leave(self) -> None:
        """What happens to the tasks when the launcher goes, and what ends them."""
        if ids := _in_order(self._tally.ids):
            self.say(f"The tasks go on; the same command attaches to them again. To end them: scancel {ids}")


def _in_order(ids: Iterable[str]) -> str:
    return " ".join(sorted(ids, key=int))


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


def run_on_slurm(
    jobs: Sequence[Job], folder: Path, options: Options, detach: bool = False, run: Run | None = None
) -> dict[Path, Outcome]:
    """Submits what is not done, not queued and not running, and watches all of it to the end.

    Args:
        jobs: each after the one that it builds on.
        folder: of the ledger, on a disk that all nodes see.
        options: of the tasks submitted now; those that wait or run keep theirs.
        detach: return as soon as everything is submitted.
        run: what runs one job on a node; default: `job.Runner`.

    Returns:
        How each job ended, by its folder; without those that are still open, if `detach` is set.

    Raises:
        UserError: Slurm does not answer, or refuses.
        KeyboardInterrupt: from the keyboard, or asked to terminate. The tasks are not affected.
    """
    warn_without_locks(folder)
    ledger = Ledger(folder)
    launcher = SlurmLauncher(jobs, ledger, submitter(ledger, options, run), options.runs_per_task)
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
    return {
        job.folder: Outcome(
            FOUND if job in launcher.found else FINISHED if state.name == DONE else FAILED, message=state.message
        )
        for job, state in tally.states.items()
        if state.name in (DONE, FAILED)
    }


def in_queue(jobs: Sequence[Job], folder: Path) -> tuple[dict[Job, State], str]:
    """Which of the runs wait or run on the cluster, and Slurm's ids of their tasks; nothing is submitted.

    Args:
        jobs: runs of the sweep.
        folder: of the ledger.

    Raises:
        UserError: Slurm does not answer.
        ValueError: a file of the ledger is damaged.
    """
    ledger = Ledger(folder)
    try:
        tally = SlurmLauncher(jobs, ledger, submitter(ledger, Options())).see()
    except QueueError as error:
        raise UserError(f"Slurm does not answer: {error}") from None
    having = {job: state for job, state in tally.states.items() if state.name in (QUEUED, RUNNING) and state.message}
    return having, _in_order(tally.ids)
