"""What Slurm knows of our jobs: `squeue` for those that are there; `sacct`, or else `scontrol`, for how one ended.

Both of the latter forget, or may be switched off: without accounting `sacct` fails, and `scontrol` knows a job for
some minutes only. So what a run's folder says is never asked of Slurm.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SECONDS = 60  # that a command may take
JOB = re.compile(r"(?P<job>\d+)(_(?P<index>\d+))?")
# A task in one of these holds a node, or is about to leave one; in any other that `squeue` shows it waits.
ON_NODE = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"})


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
