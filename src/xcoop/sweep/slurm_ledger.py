"""What was submitted to Slurm, as JSON files on the shared disk: any launcher on any login node can go on from it.

    <OUT>/.sweep/slurm/0001.json            one submission: its tasks, and the runs of each
    <OUT>/.sweep/slurm/0001_4.json          written by task 4 on its node: what it is at, and how its runs ended
    <OUT>/.sweep/slurm/logs/xcoop-3f9c.../  submitit's own files: scripts, pickles, logs

A submission is written down before it is handed to Slurm, under a job name that nothing else has: a launcher that
is killed in between leaves a note with which the next one finds the job, or that there is none.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xcoop.results.folder import locked
from xcoop.results.record import now
from xcoop.sweep.jobs import Job, Outcome
from xcoop.utils.console import BusyError
from xcoop.utils.files import atomic_write_text
from xcoop.utils.reading import read_json

SCHEMA = 1
FILE = re.compile(r"\d{4,}\.json")
PATIENCE = 300.0  # seconds that another launcher may take to submit


@dataclass(frozen=True)
class Submission:
    """One job array.

    Attributes:
        number: counts from 1.
        name: the job's name in Slurm, which no other has.
        attempt: 1; or 2 for the runs of tasks that were lost, or that failed and may be tried again.
        tasks: the runs of each task.
        job: Slurm's id; None until it is known.
    """

    number: int
    name: str
    attempt: int
    tasks: tuple[tuple[Job, ...], ...]
    job: str | None = None

    def task_id(self, index: int) -> str:
        """Slurm's id of a task; a single task is submitted as a plain job."""
        return f"{self.job}_{index}" if len(self.tasks) > 1 else f"{self.job}"


@dataclass(frozen=True)
class Status:
    """What a task tells of itself.

    Attributes:
        current: the folder of the run in flight.
        ends: how runs ended, by folder.
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
            if FILE.fullmatch(path.name) and self._known.get(int(path.stem), _NONE).job is None:
                self._known[int(path.stem)] = _read(path)
        return [self._known[number] for number in sorted(self._known)]

    def announce(self, attempt: int, tasks: Sequence[Sequence[Job]]) -> Submission:
        """Writes down what is about to be submitted; to be called with the lock held."""
        number = 1 + max((one.number for one in self.submissions()), default=0)
        made = Submission(number, f"xcoop-{secrets.token_hex(4)}", attempt, tuple(map(tuple, tasks)))
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
        plain = {
            "schema": SCHEMA,
            "name": submission.name,
            "job": submission.job,
            "attempt": submission.attempt,
            "written": now(),
            "tasks": [[job.as_json() for job in task] for task in submission.tasks],
        }
        atomic_write_text(self._path(submission), json.dumps(plain, indent=1) + "\n")
        self._known[submission.number] = submission


_NONE = Submission(0, "", 0, ())


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


def _read(path: Path) -> Submission:
    plain = read_json(path)
    try:
        if plain["schema"] != SCHEMA:
            raise ValueError(f"schema {plain['schema']}, not {SCHEMA}")
        tasks = tuple(tuple(map(Job.from_json, task)) for task in plain["tasks"])
        return Submission(int(path.stem), str(plain["name"]), int(plain["attempt"]), tasks, plain["job"])
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no submission as `xcoop sweep --slurm` writes it ({error})") from None
