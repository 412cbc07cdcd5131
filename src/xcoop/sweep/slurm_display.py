"""Shows where a sweep on Slurm stands: a bar on a terminal, elsewhere a line whenever something changed."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

from xcoop.sweep.jobs import Job
from xcoop.sweep.slurm_launcher import DONE, ELSEWHERE, LOST, QUEUED, RUNNING, Tally
from xcoop.utils.console import say

BAR = "{percentage:3.0f}%|{bar}| {desc}"


class Display:
    """Shows tallies.

    Args:
        total: how many runs there are.
        terminal: whether a bar can be drawn; default: whether the standard error is a terminal.
    """

    def __init__(self, total: int, terminal: bool | None = None) -> None:
        drawn = sys.stderr.isatty() if terminal is None else terminal
        self.bar = tqdm(total=total, leave=False, bar_format=BAR) if drawn else None
        self._failed: set[Job] = set()
        self._line = self._ids = self._held = self._trouble = ""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, tally: Tally) -> bool:
        """Shows a tally; whether it differs from the last one."""
        line = summary(tally)
        changed, self._line, self._trouble = line != self._line, line, ""
        self._ids = " ".join(sorted(tally.ids, key=int))
        for job, state in tally.states.items():
            if state.name == LOST and job not in self._failed:
                self._failed.add(job)
                self._say(f"{job.title}: FAILED", *(f"    {line}" for line in state.message.splitlines()))
        held = " ".join(sorted(tally.held, key=int))
        if held and held != self._held:
            self._say(f"Slurm holds the jobs {held} back; after a look at the reason (squeue): scontrol release {held}")
        self._held = held
        text = f"{line} (Slurm jobs: {self._ids})" if self._ids else line
        if self.bar is not None:
            self.bar.n = tally.count(DONE, LOST)
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


def summary(tally: Tally) -> str:
    """`3 queued, 2 running, 7 done, 0 failed`."""
    names = {QUEUED: "queued", RUNNING: "running", DONE: "done", LOST: "failed", ELSEWHERE: "run by other processes"}
    counts = {word: tally.count(name) for name, word in names.items()}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count or word != names[ELSEWHERE])
