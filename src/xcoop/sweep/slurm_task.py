"""A task of a Slurm array: how it is submitted, what it does on its node, what it asks for when it has to leave early.

submitit calls `checkpoint` when Slurm announces a preemption or the end of the time limit, and requeues the task with
what that returns. Nothing depends on it being called: a task that is started again skips the runs that are done, and
the run that was in flight goes on from its own checkpoint.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xcoop
from xcoop.sweep.slurm_state import Submission, key, largest_array, read_status, write_status
from xcoop.sweep.worker import BUSY, DONE, FAILED, THREADS, Job, Outcome, Run, Runner, attempt
from xcoop.utils.console import UserError

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

COMMANDS = ("sbatch", "squeue", "scontrol", "srun")
ENDLESS = 100_000  # time-outs that submitit may requeue a task after; the task itself knows when it does not help
MOST_FRUITLESS = 3  # starts in a row that brought no run a checkpoint further; then the task gives up
POLL = 2.0  # seconds between looks at a run that another process is at

Submit = Callable[[Submission, Sequence[Sequence[Job]], Path, Sequence[Path]], str]  # see `submitter`


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


def require_slurm() -> None:
    """UserError if submitit or Slurm's commands are missing; the message says what to install."""
    if importlib.util.find_spec("submitit") is None:
        raise UserError("--slurm needs submitit: pip install submitit")
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        raise UserError(
            f"--slurm needs Slurm's commands on the PATH; missing: {', '.join(absent)}. Run this on a login node of "
            "the cluster (perhaps after `module load slurm`), or install them (Debian: slurm-client)"
        )


def submitter(options: Options, run: Run | None = None) -> Submit:
    """What hands a submission, the jobs of its tasks, to Slurm, and returns Slurm's id.

    It takes the folder of submitit's files and the status file of each task, too.
    """

    def submit(submission: Submission, tasks: Sequence[Sequence[Job]], logs: Path, statuses: Sequence[Path]) -> str:
        count, most = len(tasks), largest_array()
        if count >= most:
            runs = sum(map(len, tasks))
            raise UserError(f"{count} tasks are more than this cluster takes in an array (MaxArraySize {most}): "
                            f"{runs} runs need --runs-per-task {runs // (most - 1) + 1} or more")  # fmt: skip
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
            "array_parallelism": options.parallelism or count,
            "stderr_to_stdout": True,
            # Since Slurm 22.05 a step does not inherit the CPUs of its job.
            "srun_args": [f"--cpus-per-task={options.cpus}"],
            # A node may show a task all its cores.
            "setup": [*(f"export {name}=${{{name}:-{options.cpus}}}" for name in THREADS),
                      *([f"export PYTHONPATH={shlex.quote(path)}"] if library.name == "src" else [])],
            # A cluster may be set not to requeue.
            "additional_parameters": {"requeue": True, **{name: value or True for name, value in options.extra}},
        }  # fmt: skip
        executor = SlurmExecutor(logs, max_num_timeout=ENDLESS)
        executor.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
        try:
            with redirect_stderr(StringIO()):  # submitit shows what sbatch says, and raises it, too
                array = executor.map_array(Task(run), statuses, [list(task) for task in tasks])
        except RuntimeError as error:
            raise UserError(f"Slurm did not take the submission: {error}") from None
        return str(array[0].job_id).partition("_")[0]

    return submit


class Task:
    """Runs several jobs in one process, for submitit: a function with a `checkpoint`.

    Args:
        run: what runs one job; default: `worker.Runner`.
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

        _note(path, starts=read_status(path).starts + 1, node=socket.gethostname(), current=None)
        self._found = _progress(jobs)
        run = self.run or Runner()
        waiting = _left(path, jobs)
        while waiting:
            busy = []
            for job in waiting:
                outcome = attempt(job, lambda job: self._run(path, job, run))
                if outcome.state == BUSY:
                    busy.append(job)
                    _note(path, current=None)
                else:
                    _note(path, current=None, ends={**read_status(path).ends, key(job): outcome})
            waiting = busy
            time.sleep(POLL if busy else 0)

    def _run(self, path: Path, job: Job, run: Run) -> Outcome:
        _note(path, current=key(job))
        outcome = run(job)
        if self._leaving and job.state() != DONE:  # the exception that ends this task was taken for one of the run
            raise SystemExit(1)
        return outcome

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
            _note(path, ends={**status.ends, status.current: Outcome(FAILED, message=message, again=False)})
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


def _note(path: Path, **changes: Any) -> None:
    write_status(path, replace(read_status(path), **changes))
