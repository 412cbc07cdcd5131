"""What is known of a sweep's tasks on a Slurm cluster: from files on the shared disk, and from Slurm's queue.

    <OUT>/.sweep/slurm/0001.json            one submission: its tasks, and the folders of the runs of each
    <OUT>/.sweep/slurm/0001_4.json          written by task 4 on its node: what it is at, and how its runs ended
    <OUT>/.sweep/slurm/logs/xcoop-3f9c.../  submitit's own files: scripts, pickles, logs

A submission is written down before it is handed to Slurm, under a job name that nothing else has: a launcher that is
killed in between leaves a note with which the next one finds the job, or that there is none. All files are JSON, so any
launcher on any login node can go on from them.

`squeue` tells which tasks wait or run; `sacct`, or else `scontrol`, how one ended. Both of the latter forget, or may be
switched off: without accounting `sacct` fails, and `scontrol` knows a job for some minutes only. So what a run's folder
says is never asked of Slurm.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xcoop.results.folder import locked
from xcoop.results.record import now
from xcoop.sweep.worker import Job, Outcome
from xcoop.utils.console import BusyError
from xcoop.utils.files import atomic_write_text
from xcoop.utils.reading import read_json

SCHEMA = 1
FILE = re.compile(r"\d{4,}\.json")
PATIENCE = 300.0  # seconds that another launcher may take to submit
SECONDS = 60  # that one of Slurm's commands may take
JOB = re.compile(r"(?P<job>\d+)(_(?P<index>\d+))?")
# A task in one of these holds a node, or is about to leave one; in any other that `squeue` shows it waits.
ON_NODE = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"})


def key(job: Job) -> str:
    """What a run is known by: its folder."""
    return os.path.abspath(job.folder)


@dataclass(frozen=True)
class Submission:
    """One job array.

    Attributes:
        number: counts from 1.
        name: the job's name in Slurm, which no other has.
        attempt: 1; or 2 for the runs of tasks that were lost, or that failed and may be tried again.
        tasks: the runs of each task, by their keys.
        job: Slurm's id; None until it is known.
    """

    number: int
    name: str
    attempt: int
    tasks: tuple[tuple[str, ...], ...]
    job: str | None = None

    def task_id(self, index: int) -> str:
        """Slurm's id of a task; a single task is submitted as a plain job."""
        return f"{self.job}_{index}" if len(self.tasks) > 1 else f"{self.job}"


@dataclass(frozen=True)
class Status:
    """What a task tells of itself.

    Attributes:
        current: the key of the run in flight.
        ends: how runs ended, by key.
        starts: how often the task was started; more than once if it was requeued.
        node: where it runs.
    """

    current: str | None = None
    ends: Mapping[str, Outcome] = field(default_factory=dict)
    starts: int = 0
    node: str = ""


class Ledger:
    """The submissions of one output root.

    Args:
        folder: `<OUT>/.sweep/slurm`; it is made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.absolute()
        self._known: dict[int, Submission] = {}  # those with an id do not change any more

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts no other launcher submits; whoever dies in it lets go of it.

        Raises:
            BusyError: another launcher has held it for minutes.
        """
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with locked(self.folder):
                    yield
                    return
            except BusyError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.2)

    def submissions(self) -> list[Submission]:
        """All of them, the oldest first.

        Raises:
            ValueError: a file is damaged; the message names it.
        """
        for path in self.folder.iterdir():
            if not FILE.fullmatch(path.name) or ((one := self._known.get(int(path.stem))) and one.job):
                continue
            plain = read_json(path)
            try:
                if plain["schema"] != SCHEMA:
                    raise ValueError(f"schema {plain['schema']}, not {SCHEMA}")
                tasks = tuple(tuple(str(run["folder"]) for run in task) for task in plain["tasks"])
                made = Submission(int(path.stem), str(plain["name"]), int(plain["attempt"]), tasks, plain["job"])
            except (LookupError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is no submission as `xcoop sweep --slurm` writes it ({error})") from None
            self._known[made.number] = made
        return [self._known[number] for number in sorted(self._known)]

    def latest(self) -> dict[str, tuple[Submission, int]]:
        """The task that had each run last: its submission, and its index there, by the run's key."""
        return {
            run: (submission, index)
            for submission in self.submissions()
            for index, task in enumerate(submission.tasks)
            for run in task
        }

    def announce(self, attempt: int, tasks: Sequence[Sequence[Job]]) -> Submission:
        """Writes down what is about to be submitted; to be called with the lock held."""
        number = 1 + max((one.number for one in self.submissions()), default=0)
        keys = tuple(tuple(map(key, task)) for task in tasks)
        made = Submission(number, f"xcoop-{secrets.token_hex(4)}", attempt, keys)
        self._write(made)
        self.logs(made).mkdir(parents=True)
        return made

    def confirm(self, submission: Submission, job: str) -> Submission:
        """Writes down under which id Slurm has it."""
        known = replace(submission, job=job)
        self._write(known)
        return known

    def withdraw(self, submission: Submission) -> None:
        """Forgets a submission that Slurm did not take."""
        self._path(submission).unlink(missing_ok=True)
        self._known.pop(submission.number, None)

    def logs(self, submission: Submission) -> Path:
        """The folder of submitit's files."""
        return self.folder / "logs" / submission.name

    def status_path(self, submission: Submission, index: int) -> Path:
        """Where a task writes its status."""
        return self.folder / f"{submission.number:04d}_{index}.json"

    def status(self, submission: Submission, index: int) -> Status:
        """What a task told last."""
        return read_status(self.status_path(submission, index))

    def _path(self, submission: Submission) -> Path:
        return self.folder / f"{submission.number:04d}.json"

    def _write(self, submission: Submission) -> None:
        tasks = [[{"folder": run} for run in task] for task in submission.tasks]
        plain = {"schema": SCHEMA, "written": now(), **vars(submission), "tasks": tasks}
        atomic_write_text(self._path(submission), json.dumps(plain, indent=1) + "\n")
        self._known[submission.number] = submission


def read_status(path: Path) -> Status:
    """A task's status; an empty one if it has not written any."""
    try:
        plain = read_json(path)
    except FileNotFoundError:
        return Status()
    try:
        ends = {folder: Outcome(**end) for folder, end in plain["ends"].items()}
        return Status(plain["current"], ends, plain["starts"], plain["node"])
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no status of a Slurm task ({error}); delete it") from None


def write_status(path: Path, status: Status) -> None:
    """Writes a task's status atomically."""
    plain: dict[str, Any] = {**vars(status), "ends": {folder: vars(end) for folder, end in status.ends.items()}}
    atomic_write_text(path, json.dumps({**plain, "written": now()}, indent=1) + "\n")


# Slurm's own commands.


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


def queued(names: Iterable[str]) -> Queue:
    """The tasks of the named jobs that wait or run.

    Raises:
        QueueError: `squeue` fails.
    """
    wanted = sorted(set(names))
    if not wanted:
        return {}
    text = _output(["squeue", "--noheader", "--array", f"--name={','.join(wanted)}", "--format=%i|%T|%j|%r"])
    found: Queue = {}
    for line in text.splitlines():
        number, state, name, reason = (*line.strip().split("|", 3), "", "", "")[:4]
        if match := JOB.fullmatch(number):
            found.setdefault(name, {})[int(match["index"] or 0)] = Entry(match["job"], state, reason)
    return found


def last_state(task: str) -> str:
    """How a task that is no longer in the queue ended, e.g. "NODE_FAIL"; "" if nobody knows."""
    for command, pattern in (
        (["sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={task}"], r"^(\w+)"),
        (["scontrol", "--oneliner", "show", "job", task], r"\bJobState=(\w+)"),
    ):
        try:
            found = re.findall(pattern, _output(command), re.MULTILINE)
        except QueueError:
            continue
        if found:
            return str(found[-1])
    return ""


def largest_array() -> int:
    """How many tasks an array may have (`MaxArraySize`)."""
    try:
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", _output(["scontrol", "show", "config"]))
    except QueueError:
        found = None
    return int(found[1]) if found else 1001


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise QueueError(f"{command[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
