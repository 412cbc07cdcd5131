"""A task of a Slurm array: what is written down of it, how it is submitted, and what it does on its node.

    <OUT>/.sweep/slurm/0001.json            one submission: its tasks, and the folders of the runs of each
    <OUT>/.sweep/slurm/0001_4.json          written by task 4 on its node: what it is at, and how its runs ended
    <OUT>/.sweep/slurm/logs/xcoop-3f9c.../  submitit's own files: scripts, pickles, logs

A submission is written down before it is handed to Slurm, under a job name that nothing else has: a launcher that is
killed in between leaves a note with which the next one finds the job, or that there is none. All notes are JSON, so any
launcher on any login node can go on from them.

submitit calls `checkpoint` when Slurm announces a preemption or the end of the time limit, and requeues the task with
what that returns. Nothing depends on it being called: a task that is started again skips the runs that are done, and
the run that was in flight goes on from its own checkpoint.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xcoop
from xcoop.results.folder import locked
from xcoop.results.record import now
from xcoop.sweep.job import BUSY, DONE, FAILED, Job, Outcome, Run, Runner, attempt
from xcoop.sweep.worker import THREADS
from xcoop.utils.console import BusyError, UserError
from xcoop.utils.files import atomic_write_text
from xcoop.utils.reading import read_json

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

SCHEMA = 1
PATIENCE = 300.0  # seconds that another launcher may take to submit
MOST_FRUITLESS = 3  # starts in a row that brought no run a checkpoint further; then the task gives up
ENDLESS = 100_000  # time-outs that submitit may requeue a task after; the task itself knows when it does not help
POLL = 2.0  # seconds between looks at a run that another process is at


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
        """All of them, the oldest first; ValueError, which names the file, if one is damaged."""
        found = []
        for path in self.folder.glob("*.json"):
            if not path.stem.isdecimal():
                continue
            plain = read_json(path)
            try:
                if plain["schema"] != SCHEMA:
                    raise ValueError(f"schema {plain['schema']}, not {SCHEMA}")
                tasks = tuple(tuple(str(run["folder"]) for run in task) for task in plain["tasks"])
                made = Submission(int(path.stem), str(plain["name"]), int(plain["attempt"]), tasks, plain["job"])
            except (LookupError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is no submission as `xcoop sweep --slurm` writes it ({error})") from None
            found.append(made)
        return sorted(found, key=lambda one: one.number)

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
        made = self.write(Submission(number, f"xcoop-{secrets.token_hex(4)}", attempt, keys))
        self.logs(made).mkdir(parents=True)
        return made

    def write(self, submission: Submission) -> Submission:
        """Writes down a submission as it is known now."""
        tasks = [[{"folder": run} for run in task] for task in submission.tasks]
        plain = {"schema": SCHEMA, "written": now(), **vars(submission), "tasks": tasks}
        atomic_write_text(self.folder / f"{submission.number:04d}.json", json.dumps(plain, indent=1) + "\n")
        return submission

    def logs(self, submission: Submission) -> Path:
        """The folder of submitit's files."""
        return self.folder / "logs" / submission.name

    def status_path(self, submission: Submission, index: int) -> Path:
        """Where a task writes its status."""
        return self.folder / f"{submission.number:04d}_{index}.json"

    def status(self, submission: Submission, index: int) -> Status:
        """What a task told last."""
        return read_status(self.status_path(submission, index))


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


def write_status(path: Path, **changes: Any) -> None:
    """Changes a task's status."""
    plain = vars(replace(read_status(path), **changes))
    ends = {folder: vars(end) for folder, end in plain["ends"].items()}
    atomic_write_text(path, json.dumps({**plain, "ends": ends, "written": now()}, indent=1) + "\n")


# How it is submitted.


@dataclass(frozen=True)
class Options:
    """What is asked of Slurm.

    Attributes:
        partition: None for the cluster's default.
        parallelism: tasks of an array that may run at once; None for no limit of ours.
        runs_per_task: of one group, one after the other.
        minutes: time limit of a task; Slurm counts whole minutes.
        gpus: a task.
        cpus: a task.
        extra: further options of sbatch, by their long names.
    """

    partition: str | None = None
    parallelism: int | None = None
    runs_per_task: int = 8
    minutes: int = 240
    gpus: int = 1
    cpus: int = 4
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def notice(self) -> int:
        """Seconds before the end of the time limit at which Slurm gives notice. Slurm rounds them up to a minute."""
        return min(120, 15 * self.minutes)


Submit = Callable[[Submission, Sequence[Sequence[Job]]], str]


def submitter(ledger: Ledger, options: Options, run: Run | None = None) -> Submit:
    """What hands an announced submission, with the jobs of its tasks, to Slurm, and returns Slurm's id.

    It raises UserError if Slurm does not take it.
    """

    def submit(submission: Submission, tasks: Sequence[Sequence[Job]]) -> str:
        from submitit import SlurmExecutor

        library = Path(xcoop.__file__).resolve().parents[1]  # the nodes find the same xcoop
        path = os.pathsep.join(filter(None, [str(library), os.environ.get("PYTHONPATH")]))
        wanted: dict[str, Any] = {
            "job_name": submission.name,
            "time": options.minutes,
            "signal_delay_s": options.notice,
            "partition": options.partition,
            "gpus_per_node": options.gpus or None,
            "cpus_per_task": options.cpus,
            "array_parallelism": options.parallelism or len(tasks),
            "stderr_to_stdout": True,
            # Since Slurm 22.05 a step does not inherit the CPUs of its job.
            "srun_args": [f"--cpus-per-task={options.cpus}"],
            # A node may show a task all its cores.
            "setup": [*(f"export {name}=${{{name}:-{options.cpus}}}" for name in THREADS),
                      *([f"export PYTHONPATH={shlex.quote(path)}"] if library.name == "src" else [])],
            # A cluster may be set not to requeue.
            "additional_parameters": {"requeue": True, **{name: value or True for name, value in options.extra}},
        }  # fmt: skip
        executor = SlurmExecutor(ledger.logs(submission), max_num_timeout=ENDLESS)
        executor.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
        statuses = [ledger.status_path(submission, index) for index in range(len(tasks))]
        try:
            with redirect_stderr(StringIO()):  # submitit shows what sbatch says, and raises it, too
                array = executor.map_array(Task(run), statuses, [list(task) for task in tasks])
        except RuntimeError as error:
            raise UserError(f"Slurm did not take the submission: {error}") from None
        return str(array[0].job_id).partition("_")[0]

    return submit


# What it does.


class Task:
    """Runs several jobs in one process, for submitit: a function with a `checkpoint`.

    Args:
        run: what runs one job; default: `job.Runner`.
        fruitless: starts so far, one after the other, that brought nothing.
    """

    def __init__(self, run: Run | None = None, fruitless: int = 0) -> None:
        self.run, self.fruitless = run, fruitless
        self._leaving = False  # `checkpoint` was called
        self._found: set[tuple[str, int]] = set()  # what its runs had on disk when this start began; see `_progress`

    def __call__(self, path: Path, jobs: Sequence[Job]) -> None:
        """Runs them; how each ended stands in the status file, and what it made in its folder.

        Args:
            path: of the status file.
            jobs: of one group, each after the one that it builds on.
        """
        # `python -m`, with which submitit starts us, searches the working folder: a `datasets` in it hides a library.
        here = Path.cwd()
        sys.path[:] = [entry for entry in sys.path if entry and Path(entry) != here]
        # Slurm signals every process of a task; forked ones, such as data loaders, would ask for a requeue, too.
        name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
        number = getattr(signal, f"SIG{name.removeprefix('SIG')}")
        os.register_at_fork(after_in_child=lambda: signal.signal(number, signal.SIG_IGN) and None)

        write_status(path, starts=read_status(path).starts + 1, node=socket.gethostname(), current=None)
        self._found = _progress(jobs)
        run = self.run or Runner()

        def tell_and_run(job: Job) -> Outcome:
            write_status(path, current=key(job))
            outcome = run(job)
            if self._leaving and job.state() != DONE:  # the exception that ends this task was taken for one of the run
                raise SystemExit(1)
            return outcome

        waiting = _left(path, jobs)
        while waiting:
            busy = []
            for job in waiting:
                outcome = attempt(job, tell_and_run)
                if outcome.state == BUSY:
                    busy.append(job)
                ends = {} if outcome.state == BUSY else {key(job): outcome}
                write_status(path, current=None, ends={**read_status(path).ends, **ends})
            waiting = busy
            time.sleep(POLL if busy else 0)

    def checkpoint(self, path: Path, jobs: Sequence[Job]) -> DelayedSubmission | None:
        """What is left to do after a requeue; None, which ends the task, if that has not helped several times."""
        from submitit.helpers import DelayedSubmission

        self._leaving = True
        fruitless = 0 if _progress(jobs) - self._found else self.fruitless + 1
        if fruitless < MOST_FRUITLESS:
            return DelayedSubmission(Task(self.run, fruitless), path, _left(path, jobs))
        status = read_status(path)
        if status.current:
            message = f"interrupted {fruitless} times in a row without reaching a checkpoint; give --time more minutes"
            end = Outcome(FAILED, message=message, again=False)
            write_status(path, ends={**status.ends, status.current: end})
        return None


def _left(path: Path, jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are neither done, nor have failed in this task."""
    failed = {run for run, end in read_status(path).ends.items() if end.state == FAILED}
    return [job for job in jobs if key(job) not in failed and job.state() != DONE]


def _progress(jobs: Sequence[Job]) -> set[tuple[str, int]]:
    """What the runs have put on disk so far: checkpoints and results, with the times they were written (ns)."""
    files: set[tuple[str, int]] = set()
    for job in jobs:
        for path in (*job.folder.glob("*/model*.pth.tar*"), job.folder / "results.json"):
            with suppress(OSError):  # absent, or just replaced
                files.add((str(path), path.stat().st_mtime_ns))
    return files
