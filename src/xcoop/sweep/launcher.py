"""One launcher for one or many runs on this machine: it hands jobs to workers until all are done, and shows how far.

A worker is a process of its own, one a GPU or one for each group of cores. It runs jobs of one group as long as there
are any, so that they share what they load; what fails is tried once more, in a fresh process. Finished runs are found
by their `results.json`, so launchers may be killed and started again, and several may work on one output folder.

Workers come from `multiprocessing`. Of what else does this, `concurrent.futures` gives up all jobs of a pool with the
one whose process dies, and does not say how it died; `submitit` imports everything anew for every job, in two processes
each, and knows nothing of a machine that has fewer GPUs than jobs.
"""

from __future__ import annotations

import gc
import importlib
import math
import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xcoop.results.folder import busy
from xcoop.results.record import read_run
from xcoop.sweep.job import BUSY, FAILED, FINISHED, FOUND, Job, Outcome, Run
from xcoop.sweep.worker import THREADS, Progress, Slot, Worker, uninterrupted
from xcoop.utils.console import UserError, complain, say, to_paste
from xcoop.utils.files import unguarded

NOTES = ".sweep"  # below the output root: the logs of workers that died, and what is known of Slurm's tasks
MEMORY = 3 << 30  # bytes that a worker on a CPU is reckoned to need
TICK = 0.2  # seconds between looks at everything
LOOK = 1.0  # seconds between looks at runs that other launchers are at
RETRIES = 1  # of a failed job
MOST = 8  # runs that are trained side by side; each holds a copy of its backbone
FEWEST = 4  # on a CPU, where less is gained than the turns of fewer cost
EVERY = 15.0  # seconds between plain lines of a display
# What a run imports when it needs it. A launcher that forks its workers does so once, before the first of them.
MODULES = ("xcoop.runs.train", "xcoop.training.trainer", "xcoop.results.record", "torch.utils.tensorboard")


def make_slots(
    workers: int | None = None,
    gpus: Sequence[str] | None = None,
    cores: int | None = None,
    memory: int | None = None,
    most: int | None = None,
) -> list[Slot]:
    """One slot a GPU; without GPUs one for each group of cores.

    Args:
        workers: how many; default: one a GPU, or as many as cores and memory have room for.
        gpus: ids as CUDA_VISIBLE_DEVICES takes them; default: all that this process sees. () is the CPU.
        cores: default: those that this process may use.
        memory: bytes; default: what is free.
        most: workers that there is work for; the cores are divided among these.

    Raises:
        UserError: fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}")
    if not cores:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    devices = _visible_gpus() if gpus is None else list(gpus)
    if devices:
        count = workers or len(devices)
    else:
        count = workers or min(cores, (_free_memory(cores) if memory is None else memory) // MEMORY)
    count = max(1, count if most is None else min(count, most))
    asked = os.environ.get(THREADS[0], "")  # a smaller number of threads than a worker's share stands
    share = max(1, cores // count)
    threads = str(min(share, int(asked)) if asked.isdigit() and int(asked) else share)
    slots = []
    for number in range(count):
        turn, at = divmod(number, len(devices) or 1)
        name = f"GPU {devices[at]}" + (f" ({turn + 1})" if turn else "") if devices else f"CPU {number}"
        visible = {"CUDA_VISIBLE_DEVICES": devices[at] if devices else ""}
        slots.append(Slot(name, {**visible, **dict.fromkeys(THREADS, threads)}))
    return slots


def _visible_gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def _free_memory(cores: int) -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # another system: as if there were enough
        return MEMORY * cores


def start_method(slots: Sequence[Slot]) -> str:
    """How workers start, "fork" or "spawn".

    A fork begins at once, since all that a run imports is there already. A process that has looked for GPUs cannot hand
    them on to its forks, and of threads they would have nothing but the locks.
    """
    on_gpus = any(slot.on_gpu for slot in slots)
    return "fork" if sys.platform == "linux" and threading.active_count() == 1 and not on_gpus else "spawn"


class Launcher:
    """Runs jobs, and shows how far they are.

    Args:
        jobs: to run; what is done is left alone.
        slots: where workers run.
        out: the output root.
        each: tell of each run by itself; see `Display`.
        one_by_one: train no runs side by side.
        run: what runs one job in a worker; default: `job.Runner`, which alone can train several.

    Attributes:
        ends: how each ended so far, by its folder.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[Slot],
        out: str,
        each: bool = False,
        one_by_one: bool = False,
        run: Run | None = None,
    ) -> None:
        self.slots, self.out, self.notes, self.run_job = slots, out, Path(out, NOTES), run
        self.one_by_one = one_by_one or run is not None
        self.display = Display(len(jobs), len(slots), each)
        self.ends: dict[Path, Outcome] = {}
        self.failures: Counter[Path] = Counter()
        self.waiting = list(jobs)
        self.busy: list[Job] = []  # other launchers are at them
        self.workers: dict[Slot, Worker] = {}
        self._folders = {job.folder for job in jobs}
        self._looked = time.monotonic()
        self.context: Any = multiprocessing.get_context(start_method(slots))

    def run(self) -> dict[Path, Outcome]:
        """Runs all; how each ended.

        Raises:
            KeyboardInterrupt: Ctrl-C, or a request to terminate; the workers are ended first.
        """
        warn_without_locks(Path(self.out))
        with terminable():
            for job in list(self.waiting):
                with suppress(ValueError):  # a damaged record: the worker says so
                    if job.done():
                        self.waiting.remove(job)
                        self._close(job, Outcome(FOUND))
            if self.waiting and self.run_job is None and self.context.get_start_method() == "fork":
                for name in MODULES:
                    importlib.import_module(name)
                gc.collect()
                gc.freeze()  # the collector of a fork need not touch what it shares with us
            try:
                while len(self.ends) < len(self._folders):
                    self._hand_out()
                    self._listen()
                    self._look_at_busy()
                    self.display.tick()
            finally:
                for worker in self.workers.values():
                    worker.dismiss()
                for worker in self.workers.values():
                    worker.end()
                with suppress(OSError):  # absent, or something in it
                    self.notes.rmdir()
                self.display.close()
        return self.ends

    def _hand_out(self) -> None:
        """Gives a job to each worker that has none, and ends workers for which there is none."""
        for slot in self.slots:
            worker = self.workers.get(slot)
            if worker and worker.jobs:
                continue
            job = self._next(worker.group if worker else "")
            if job is None:
                if not self.waiting and not self.busy:
                    self._retire(slot)
                continue
            if worker is None or (self.failures[job.folder] and worker.group):  # what failed gets a fresh process
                self._retire(slot)
                with uninterrupted():
                    worker = self.workers[slot] = Worker(slot, self.notes, self.run_job, self.context)
            jobs = [job, *self._companions(job, slot)]
            self.waiting = [other for other in self.waiting if other not in jobs]
            worker.give(jobs)
            for job in jobs:
                self.display.started(job, len(jobs))

    def _companions(self, job: Job, slot: Slot) -> list[Job]:
        """Others that may be trained beside a job, a worker's share of them; none of and for what has failed before."""
        if self.one_by_one or not job.together or self.failures[job.folder]:
            return []
        others = [
            other
            for other in self.waiting
            if other is not job
            and other.together == job.together
            and not self.failures[other.folder]
            and (other.after not in self._folders or other.after in self.ends)
        ]
        count = min(MOST, math.ceil((1 + len(others)) / len(self.slots)))
        return others[: count - 1] if slot.on_gpu or count >= FEWEST else []

    def _next(self, group: str) -> Job | None:
        """The next job for a worker: of the group that it has loaded, else of one that no other worker is at."""
        ready = []
        for job in list(self.waiting):
            before = self.ends.get(job.after) if job.after else None
            if before and before.state == FAILED:
                self.waiting.remove(job)
                self._close(job, Outcome(FAILED, message="the run whose weights it evaluates failed", again=False))
            elif before or job.after not in self._folders:
                ready.append(job)
        taken = {worker.group for worker in self.workers.values() if worker.jobs}
        order = [(self.failures[job.folder], job.group != group, job.group in taken) for job in ready]
        return ready[order.index(min(order))] if ready else None

    def _retire(self, slot: Slot) -> None:
        if worker := self.workers.get(slot):
            worker.dismiss()
            worker.end()
            del self.workers[slot]  # only now: whoever interrupts this must find it

    def _listen(self) -> None:
        """Takes in what the workers say, and notices those that have died."""
        workers = list(self.workers.items())
        wait([worker.pipe for _, worker in workers], TICK)
        for slot, worker in workers:
            died = not worker.process.is_alive()  # asked before its last words are read
            for job, said in worker.hear():
                if isinstance(said, Progress):
                    self.display.at(job, said)
                    continue
                worker.jobs.remove(job)
                worker.failed |= said.state == FAILED and said.again
                self._judge(job, said)
            if died or (worker.failed and not worker.jobs):  # whatever went wrong ends with the process
                self._retire(slot)
                for job in worker.jobs:
                    self._judge(job, Outcome(FAILED, message=worker.cause()))

    def _judge(self, job: Job, outcome: Outcome) -> None:
        """Closes a job, or puts it back."""
        if outcome.state == BUSY:
            self.busy.append(job)
            self.display.paused(job)
        elif outcome.state == FAILED and outcome.again and self.failures[job.folder] < RETRIES:
            self.failures[job.folder] += 1
            self.waiting.append(job)
            self.display.again(job, outcome)
        else:
            self._close(job, outcome)

    def _close(self, job: Job, outcome: Outcome) -> None:
        self.ends[job.folder] = outcome
        self.display.ended(job, outcome)

    def _look_at_busy(self) -> None:
        """Runs of other launchers: done by now, or free again? The worker sees which."""
        if self.busy and time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            free = [job for job in self.busy if not busy(job.folder)]
            self.busy = [job for job in self.busy if job not in free]
            self.waiting += free


def warn_without_locks(out: Path) -> None:
    """Says, once for all runs of a launcher, if nothing keeps another launcher out of them."""
    if why := unguarded(out):
        complain(f"warning: {why}")


@contextmanager
def terminable() -> Iterator[None]:
    """A request to terminate ends like Ctrl-C: the workers are ended, and the runs' checkpoints stay good."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        say("", "Interrupted. The same command goes on where this one stopped.")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


# What is shown.


class Bar:
    """A bar on a terminal, if the standard error is one; what is said goes above it."""

    def __init__(self, total: int, terminal: bool | None, leave: bool) -> None:
        tqdm.monitor_interval = 0  # no thread: workers may be forks of this process
        drawn = sys.stderr.isatty() if terminal is None else terminal
        form = "{percentage:3.0f}%|{bar}| {desc}"
        self.bar = tqdm(total=total, leave=leave, bar_format=form) if drawn else None

    def say(self, *lines: str) -> None:
        """Says lines."""
        if self.bar is not None:
            self.bar.clear()
        say(*lines)

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.close()


class Display(Bar):
    """Shows runs: on a terminal with a bar, else in plain lines.

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
        super().__init__(total, terminal, leave=not each)
        self.total, self.workers, self.each, self.clock = total, workers, each, clock
        self.ends: Counter[str] = Counter()  # of closed jobs, by how they ended
        self.running: dict[Path, tuple[Job, float, float]] = {}  # job, since, part
        self.among: dict[Path, int] = {}  # how many were started with it, itself included, to be run side by side
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)  # of finished runs, by group
        self._told: dict[Path | None, float] = {None: clock()}  # when something was last said of a run; None: of all
        self._detail = self._error = ""

    def started(self, job: Job, among: int = 1) -> None:
        """A worker was given a job, as one of so many at once."""
        self._told[job.folder], self.among[job.folder] = self.clock(), among
        self.running[job.folder] = (job, self.clock(), 0.0)
        if self.each and self.bar is None:
            say(f"{job.title}: started")

    def at(self, job: Job, progress: Progress) -> None:
        """A running job is so far."""
        self.running[job.folder] = (job, self.running[job.folder][1], progress.part)
        self._detail = f"; {progress.text}" if self.each else ""
        if self.each and self._is_time(job.folder):
            say(f"{job.title}: {progress.text}")

    def paused(self, job: Job) -> None:
        """Another launcher is at this job."""
        self.running.pop(job.folder, None)
        if self.each:
            self.say(f"{job.title}: another process is at it; left for the end")

    def again(self, job: Job, outcome: Outcome) -> None:
        """A job failed, and will be tried once more."""
        self.running.pop(job.folder, None)
        self.say(f"{job.title}: failed, and is tried once more: {first_line(outcome.message)}")

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job is closed."""
        self.running.pop(job.folder, None)
        self.ends[outcome.state] += 1
        seconds = outcome.seconds / self.among.get(job.folder, 1)
        if outcome.state == FINISHED:
            self.seconds[job.group].append(seconds)
        if outcome.state == FAILED and self.each:
            message = "(the same error)" if outcome.message == self._error else outcome.message
            self._error = outcome.message
            log = f" (log: {job.log})" if job.log.is_file() else ""
            self.say(f"{job.title}: FAILED{log}", *(f"    {line}" for line in message.splitlines()))
        elif outcome.state == FAILED:
            self.say(f"{job.title}: FAILED: {first_line(outcome.message)}")
        elif outcome.state == FOUND and self.each:
            self.say(f"{job.title}: finished before, in {job.folder}")
        elif self.each and (record := read_run(job.folder)):
            accuracy = 100 * record["metrics"]["accuracy"]
            self.say(f"{job.title}: accuracy {accuracy:.1f}% ({seconds:.0f} s)")
        if self.bar is not None:
            self.bar.update()

    def tick(self) -> None:
        """Called often; shows what there is to show."""
        if self.bar is not None:
            self.bar.set_description_str(self.state() + (self._detail if self.running else ""))
        elif not self.each and self._is_time(None):
            say(self.state())

    def _is_time(self, of: Path | None) -> bool:
        """Whether another plain line may be said of a run, or of all."""
        if self.bar is not None or self.clock() - self._told[of] < EVERY:
            return False
        self._told[of] = self.clock()
        return True

    def state(self) -> str:
        """Done, running, failed, time left."""
        found, failed = self.ends[FOUND], self.ends[FAILED]
        before = f" ({found} before)" if found else ""
        done = f"{self.ends[FINISHED] + found} of {self.total} done{before}"
        return f"{done}, {len(self.running)} running, {failed} failed, {clock_time(self.left())} left"

    def left(self) -> float | None:
        """Seconds that the rest will take, going by the runs that are finished; None before there are any."""
        known = [second for seconds in self.seconds.values() for second in seconds]
        if not known:
            return None
        usual = statistics.fmean(known)
        begun = 0.0  # runs' worth of work that is left of those in flight
        for job, since, part in self.running.values():
            own = self.among[job.folder] * statistics.fmean(self.seconds.get(job.group, known))
            begun += 1 - max(part, min(0.95, (self.clock() - since) / own if own else 0.0))
        rest = self.total - self.ends.total() - len(self.running)
        return usual * (rest + begun) / max(1, min(self.workers, rest + len(self.running)))


def summary(jobs: Sequence[Job], ends: Mapping[Path, Outcome], seconds: float, out: str) -> list[str]:
    """What a sweep has come to: counts, the failed runs with their reasons and logs, and how to see the tables."""
    count = Counter(end.state for end in ends.values())
    before = f" ({count[FOUND]} more were finished before)" if count[FOUND] else ""
    lines = ["", f"{count[FINISHED]} runs finished{before}, {count[FAILED]} failed, in {clock_time(seconds)}."]
    for job in jobs:
        if job.folder in ends and ends[job.folder].state == FAILED:
            lines += [f"FAILED {job.title}: {first_line(ends[job.folder].message)}"]
            lines += [f"    log: {job.log}"] if job.log.is_file() else []
    where = [] if out == "output" else ["--out", out]
    names = dict.fromkeys(job.folder.relative_to(out).parts[0] for job in jobs if job.after is None)
    lines += [f"Results: {to_paste('xcoop', 'table', name, *where)}" for name in names]
    return [*lines, f"All of them, with curves and comparisons: {to_paste('xcoop', 'results', out)}"]


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
