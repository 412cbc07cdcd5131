"""A sweep on a Slurm cluster, through submitit: arrays of tasks, each of which takes several runs of one group.

Everything that a launcher needs to know lies below `<OUT>/.sweep/slurm` and in Slurm's queue, so it may be killed,
and started again on any login node that sees the disk. submitit writes pickles into its folder of logs and reads them
on the nodes; nothing here reads a pickle, not even to learn how a task ended.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.sweep import subprocess_run as child
from xcoop.sweep.jobs import FAILED, FINISHED, FOUND, Job, Outcome
from xcoop.sweep.sequential import terminable, warn_without_locks
from xcoop.sweep.slots import THREADS
from xcoop.sweep.slurm_display import Display
from xcoop.sweep.slurm_launcher import DONE, LOST, Launcher, Submit, Tally
from xcoop.sweep.slurm_ledger import Ledger, Submission
from xcoop.sweep.slurm_queue import QueueError, largest_array
from xcoop.sweep.slurm_task import Task
from xcoop.sweep.worker import Run
from xcoop.utils.console import UserError

if TYPE_CHECKING:
    from submitit import SlurmExecutor

COMMANDS = ("sbatch", "squeue", "scontrol", "srun")
ENDLESS = 100_000  # time-outs that submitit may requeue a task after; the task itself knows when it does not help
PAUSES = (2.0, 30.0)  # seconds between looks: after a change, and at most


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


def run_on_slurm(
    jobs: Sequence[Job], state: Path, options: Options, detach: bool = False, run: Run | None = None
) -> dict[Job, Outcome]:
    """Submits what is not done, not queued and not running, and watches all of it to the end.

    Args:
        jobs: each after the one that it builds on.
        state: `<OUT>/.sweep`, on a disk that all nodes see.
        options: of the tasks submitted now; those that wait or run keep theirs.
        detach: return as soon as everything is submitted.
        run: what runs one job on a node (for tests); default: `train.py`'s own code.

    Returns:
        How each job ended; without those that are still open, if `detach` is set.

    Raises:
        UserError: submitit or Slurm's commands are missing, or Slurm refuses.
        KeyboardInterrupt: from the keyboard, or asked to terminate. The tasks are not affected.
    """
    require_slurm()
    warn_without_locks(state)
    here = {replace(job, folder=job.folder.absolute(), after=job.after and job.after.absolute()): job for job in jobs}
    ledger = Ledger(state / "slurm")
    launcher = Launcher(list(here), ledger, submitter(options, run), options.runs_per_task)
    with terminable(), Display(len(here)) as display:
        try:
            tally = watch(launcher, display, detach)
        except KeyboardInterrupt:
            display.leave()
            raise
    if detach:
        display.leave()
    names = {DONE: FINISHED, LOST: FAILED}
    return {
        here[job]: Outcome(FOUND if job in launcher.found else names[state.name], message=state.message)
        for job, state in tally.states.items()
        if state.name in names
    }


def watch(launcher: Launcher, display: Display, detach: bool = False, pauses: tuple[float, float] = PAUSES) -> Tally:
    """Looks again and again, until nothing is open any more; what the last look saw.

    Args:
        launcher: what looks.
        display: what shows it.
        detach: look once.
        pauses: seconds between looks: after a change, and at most.

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
            if detach or not tally.open:
                return tally
        time.sleep(pause)


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
    """What hands submissions to Slurm; see `slurm_launcher.Submit`."""

    def submit(submission: Submission, logs: Path, statuses: Sequence[Path]) -> str:
        count, most = len(statuses), largest_array()
        if count >= most:
            runs = sum(map(len, submission.tasks))
            raise UserError(f"{count} tasks are more than this cluster takes in an array (MaxArraySize {most}): "
                            f"{runs} runs need --runs-per-task {runs // (most - 1) + 1} or more")  # fmt: skip
        executor = _executor(submission, logs, options)
        try:
            with redirect_stderr(StringIO()):  # submitit shows what sbatch says, and raises it, too
                array = executor.map_array(Task(run), statuses, [list(task) for task in submission.tasks])
        except RuntimeError as error:
            raise UserError(f"Slurm did not take the submission: {error}") from None
        return str(array[0].job_id).partition("_")[0]

    return submit


def _executor(submission: Submission, logs: Path, options: Options) -> SlurmExecutor:
    from submitit import SlurmExecutor

    path = child.environment().get("PYTHONPATH")  # the nodes find the same xcoop
    setup = [f"export {name}=${{{name}:-{options.cpus}}}" for name in THREADS]  # a node may show a task all its cores
    executor = SlurmExecutor(logs, max_num_timeout=ENDLESS)
    wanted: dict[str, Any] = {
        "job_name": submission.name,
        "time": options.minutes,
        "signal_delay_s": options.notice,
        "partition": options.partition,
        "gpus_per_node": options.gpus or None,
        "cpus_per_task": options.cpus,
        "array_parallelism": options.parallelism or len(submission.tasks),
        "stderr_to_stdout": True,
        # Since Slurm 22.05 a step does not inherit the CPUs of its job.
        "srun_args": [f"--cpus-per-task={options.cpus}"],
        "setup": [*setup, *([f"export PYTHONPATH={shlex.quote(path)}"] if path else [])],
        # A cluster may be set not to requeue.
        "additional_parameters": {"requeue": True, **{name: value or True for name, value in options.extra}},
    }
    executor.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
    return executor
