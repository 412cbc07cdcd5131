"""How far runs are: a bar on a terminal, plain lines in a log; and what failed, at the end."""

from __future__ import annotations

import shlex
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from xcoop.results.record import read_run
from xcoop.sweep.jobs import FAILED, FINISHED, FOUND, Job, Outcome
from xcoop.sweep.worker import Progress
from xcoop.utils.console import say

EVERY = 15.0  # seconds between plain lines


class Display:
    """Shows runs.

    Args:
        total: how many runs there are.
        workers: how many may run at once.
        each: say of each run when it is started, how far it is, and how well it did; else of all of them together.
        terminal: draw a bar; default: if the standard error is a terminal.
        clock: gives seconds.
    """

    def __init__(
        self,
        total: int,
        workers: int,
        each: bool = False,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.workers, self.each, self.clock = total, workers, each, clock
        self.done = self.found = self.failed = 0
        self.running: dict[Path, tuple[Job, float, float]] = {}  # job, since, part
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)  # of finished runs, by group
        self.bar: tqdm | None = None
        if sys.stderr.isatty() if terminal is None else terminal:
            tqdm.monitor_interval = 0  # no thread: workers may be forks of this process
            self.bar = tqdm(total=total, leave=not each, bar_format="{percentage:3.0f}%|{bar}| {postfix}")
        self._told = clock()  # when it was last said how far all of them are
        self._told_of: dict[Path, float] = {}  # when something was last said of a run
        self._detail = self._error = ""

    def started(self, job: Job) -> None:
        """A worker was given a job."""
        self.running[job.folder] = (job, self.clock(), 0.0)
        self._told_of[job.folder] = self.clock()
        if self.each and self.bar is None:
            say(f"{job.title}: started")

    def at(self, job: Job, progress: Progress) -> None:
        """A running job is so far."""
        self.running[job.folder] = (job, self.running[job.folder][1], progress.part)
        self._detail = f"; {progress.text}" if self.each else ""
        if self.each and self.bar is None and self.clock() - self._told_of[job.folder] >= EVERY:
            self._told_of[job.folder] = self.clock()
            say(f"{job.title}: {progress.text}")

    def paused(self, job: Job) -> None:
        """Another launcher is at this job."""
        self.running.pop(job.folder, None)
        if self.each:
            self._say(f"{job.title}: another process is at it; left for the end")

    def again(self, job: Job, outcome: Outcome) -> None:
        """A job failed, and will be tried once more."""
        self.running.pop(job.folder, None)
        self._say(f"{job.title}: failed, and is tried once more: {first_line(outcome.message)}")

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job is closed."""
        self.running.pop(job.folder, None)
        self.found += outcome.state == FOUND
        self.done += outcome.state in (FINISHED, FOUND)
        self.failed += outcome.state == FAILED
        if outcome.state == FINISHED:
            self.seconds[job.group].append(outcome.seconds)
        if outcome.state == FAILED and self.each:
            message = "(the same error)" if outcome.message == self._error else outcome.message
            self._error = outcome.message
            log = f" (log: {job.log})" if job.log.is_file() else ""
            self._say(f"{job.title}: FAILED{log}", *(f"    {line}" for line in message.splitlines()))
        elif outcome.state == FAILED:
            self._say(f"{job.title}: FAILED: {first_line(outcome.message)}")
        elif outcome.state == FOUND and self.each:
            self._say(f"{job.title}: finished before, in {job.folder}")
        elif self.each and (record := read_run(job.folder)):
            accuracy = 100 * record["metrics"]["accuracy"]
            self._say(f"{job.title}: accuracy {accuracy:.1f}% ({outcome.seconds:.0f} s)")
        if self.bar is not None:
            self.bar.update()

    def tick(self) -> None:
        """Called often; shows what there is to show."""
        if self.bar is not None:
            self.bar.set_postfix_str(self.state() + (self._detail if self.running else ""))
        elif not self.each and self.clock() - self._told >= EVERY:
            self._told = self.clock()
            say(self.state())

    def state(self) -> str:
        """Done, running, failed, time left."""
        before = f" ({self.found} before)" if self.found else ""
        parts = [f"{self.done} of {self.total} done{before}", f"{len(self.running)} running", f"{self.failed} failed"]
        return ", ".join([*parts, f"{clock_time(self.left())} left"])

    def left(self) -> float | None:
        """Seconds that the rest will take, going by the runs that are finished; None before there are any."""
        known = [second for seconds in self.seconds.values() for second in seconds]
        if not known:
            return None
        usual = statistics.fmean(known)
        begun = 0.0  # runs' worth of work that is left of those in flight
        for job, since, part in self.running.values():
            own = statistics.fmean(self.seconds[job.group]) if self.seconds.get(job.group) else usual
            begun += 1 - max(part, min(0.95, (self.clock() - since) / own if own else 0.0))
        rest = self.total - self.done - self.failed - len(self.running)
        return usual * (rest + begun) / max(1, min(self.workers, rest + len(self.running)))

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.close()

    def _say(self, *lines: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        say(*lines)


def summary(jobs: Sequence[Job], ends: Mapping[Path, Outcome], seconds: float, out: str) -> list[str]:
    """What a sweep has come to: counts, the failed runs with their reasons and logs, and how to see the tables."""
    ended = [(job, ends[job.folder]) for job in jobs if job.folder in ends]
    failed = [(job, outcome) for job, outcome in ended if outcome.state == FAILED]
    finished = sum(outcome.state == FINISHED for _, outcome in ended)
    found = sum(outcome.state == FOUND for _, outcome in ended)
    before = f" ({found} more were finished before)" if found else ""
    lines = ["", f"{finished} runs finished{before}, {len(failed)} failed, in {clock_time(seconds)}."]
    for job, outcome in failed:
        lines += [f"FAILED {job.title}: {first_line(outcome.message)}"]
        lines += [f"    log: {job.log}"] if job.log.is_file() else []
    where = "" if out == "output" else f" --out {shlex.quote(out)}"
    names = dict.fromkeys(job.folder.relative_to(out).parts[0] for job in jobs if job.after is None)
    lines += [f"Results: xcoop table {shlex.quote(name)}{where}" for name in names]
    return [*lines, f"All of them, with curves and comparisons: xcoop results {shlex.quote(out)}"]


def first_line(message: str) -> str:
    """The first line of a message that says anything."""
    return next((line.strip() for line in message.splitlines() if line.strip()), "(it said nothing)")


def clock_time(seconds: float | None) -> str:
    """Seconds as `42 s`, `3 min 5 s` or `2 h 10 min`; `?` for None."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
