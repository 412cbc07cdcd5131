"""The options of `xcoop sweep` for a Slurm cluster."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.utils.console import FAILED, UserError, say
from xcoop.utils.suggest import shown

if TYPE_CHECKING:
    from xcoop.sweep.jobs import Job
    from xcoop.sweep.slurm import Options
    from xcoop.sweep.slurm_held import Held

MINUTES, CPUS, RUNS = 240, 4, 8
# What a task needs from us, and what says it instead.
OURS = {
    "array": "--runs-per-task and --array-parallelism",
    "cpus-per-task": "--cpus",
    "gpus-per-node": "--gpus",
    "partition": "--partition",
    "time": "--time",
    **dict.fromkeys(("job-name", "output", "error", "open-mode", "no-requeue", "wrap", "ntasks", "nodes", "chdir"), ""),
}


def add(command: Any) -> None:
    """Adds the options."""
    group = command.add_argument_group("on a Slurm cluster (see docs/slurm.md)")
    group.add_argument("--slurm", action="store_true", help="run as job arrays; needs submitit, and a login node")
    group.add_argument("--detach", action="store_true", help="submit, and do not wait; the same command attaches later")
    group.add_argument("--partition", help="default: the cluster's own")
    group.add_argument("--time", type=int, metavar="MINUTES", help=f"limit of a task (default: {MINUTES})")
    group.add_argument("--cpus", type=int, help=f"a task (default: {CPUS}); with --slurm, --gpus is a number, too, "
                       "and 1 if not given")  # fmt: skip
    group.add_argument("--runs-per-task", type=int, metavar="N", help=f"runs that share a process (default: {RUNS})")
    group.add_argument("--array-parallelism", type=int, metavar="N", help="tasks at once (default: no limit)")
    group.add_argument("--slurm-option", action="append", default=[], metavar="KEY=VALUE", help="any other option "
                       "of sbatch, e.g. account=mylab, mem=32G, constraint=a100; may be repeated")  # fmt: skip


def options(arguments: argparse.Namespace) -> Options:
    """What is asked of Slurm.

    Raises:
        UserError: a number or an option is wrong.
    """
    from xcoop.sweep.slurm import Options

    if arguments.workers is not None:
        raise UserError("--workers is for this machine; with --slurm, --array-parallelism says how much runs at once")
    return Options(
        partition=arguments.partition,
        parallelism=_number("--array-parallelism", arguments.array_parallelism, None),
        runs_per_task=_number("--runs-per-task", arguments.runs_per_task, RUNS) or RUNS,
        minutes=_number("--time", arguments.time, MINUTES) or MINUTES,
        gpus=_gpus(arguments.gpus),
        cpus=_number("--cpus", arguments.cpus, CPUS) or CPUS,
        extra=tuple(map(_pair, arguments.slurm_option)),
    )


def check(arguments: argparse.Namespace) -> None:
    """UserError if an option is wrong, if it is for Slurm and --slurm is not given, or if something is missing."""
    if arguments.slurm:
        from xcoop.sweep.slurm import require_slurm

        options(arguments)
        require_slurm()
        return
    names = ("detach", "partition", "time", "cpus", "runs_per_task", "array_parallelism", "slurm_option")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False, [])]
    if given:
        raise UserError(f"{', '.join(given)} is for a Slurm cluster: add --slurm")


def execute(found: Sequence[Job], arguments: argparse.Namespace, out: str) -> int:
    """Runs the jobs on the cluster; the exit code."""
    from xcoop.sweep import jobs
    from xcoop.sweep.display import summary
    from xcoop.sweep.launch import NOTES
    from xcoop.sweep.slurm import run_on_slurm

    start = time.monotonic()
    ends = run_on_slurm(found, Path(out, NOTES), options(arguments), arguments.detach)
    by_folder = {job.folder: outcome for job, outcome in ends.items()}
    if len(ends) == len(found):
        say(*summary(found, by_folder, time.monotonic() - start, out))
    return FAILED if any(outcome.state == jobs.FAILED for outcome in ends.values()) else 0


def held_by_queue(found: Sequence[Job], out: str) -> dict[Job, Held]:
    """The runs that are not done and that a task of the queue has; see `slurm_held.held`."""
    from xcoop.sweep.launch import DONE, NOTES, state
    from xcoop.sweep.slurm_held import held

    return held([job for job in found if state(job) != DONE], Path(out, NOTES, "slurm"))


def _number(name: str, value: int | None, default: int | None) -> int | None:
    if value is not None and value < 1:
        raise UserError(f"{name} must be at least 1, not {value}")
    return default if value is None else value


def _gpus(text: str | None) -> int:
    if text is None:
        return 1
    if not text.isdecimal():
        raise UserError(f"--gpus: with --slurm, how many a task gets (0 for none), not {shown(text)}")
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    key = key.lstrip("-").replace("_", "-")
    if not key.replace("-", "").isalnum():
        raise UserError(f"--slurm-option {text}: KEY=VALUE with a long option of sbatch, e.g. account=mylab")
    if key in OURS:
        instead = f"use {OURS[key]}" if OURS[key] else "it is set by `xcoop sweep` itself"
        raise UserError(f"--slurm-option {text}: {instead}")
    return key.replace("-", "_"), value  # as submitit spells them, so that ours win over its own
