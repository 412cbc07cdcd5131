"""What Slurm's queue holds of a sweep, for `--dry-run`: nothing is submitted, and nothing written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from xcoop.sweep.jobs import Job
from xcoop.sweep.slurm_launcher import QUEUED, RUNNING, Holder, key, latest
from xcoop.sweep.slurm_ledger import Ledger
from xcoop.sweep.slurm_queue import Entry, Queue, QueueError, queued
from xcoop.utils.console import UserError


@dataclass(frozen=True)
class Held:
    """A run that a task of the queue has.

    Attributes:
        state: QUEUED or RUNNING.
        job: Slurm's id of the array.
        where: the task, and on which node or why it waits.
    """

    state: str
    job: str
    where: str


def held(jobs: Iterable[Job], folder: Path, queue: Callable[[set[str]], Queue] = queued) -> dict[Job, Held]:
    """The runs that wait or run on the cluster; the same command without `--dry-run` would attach to their tasks.

    Args:
        jobs: runs of the sweep, which are not done.
        folder: of the ledger; it need not be there.
        queue: see `slurm_queue.queued`.

    Raises:
        UserError: Slurm does not answer.
        ValueError: a file of the ledger is damaged.
    """
    if not folder.is_dir():
        return {}
    ledger = Ledger(folder)
    holders = latest(ledger.submissions())
    asked = {job: holders[key(job)] for job in jobs if key(job) in holders}
    try:
        found = queue({submission.name for submission, _ in asked.values()})
    except QueueError as error:
        raise UserError(f"Slurm does not answer: {error}") from None
    entries = {job: found.get(one.name, {}).get(index) for job, (one, index) in asked.items()}
    return {job: _held(job, asked[job], entry, ledger) for job, entry in entries.items() if entry}


def _held(job: Job, holder: Holder, entry: Entry, ledger: Ledger) -> Held:
    submission, index = holder
    task = f"Slurm job {entry.job}_{index}" if len(submission.tasks) > 1 else f"Slurm job {entry.job}"
    if not entry.running:
        return Held(QUEUED, entry.job, f"{task} waits: {entry.reason or entry.state}")
    status = ledger.status(submission, index)
    if status.current and os.path.abspath(status.current) == key(job):
        return Held(RUNNING, entry.job, f"{task} on {status.node}")
    return Held(QUEUED, entry.job, f"{task} runs others before it")
