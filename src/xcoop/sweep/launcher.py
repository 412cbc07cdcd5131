"""One launcher for one or many runs on this machine: it hands jobs to workers until all are done.

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
import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from xcoop.results.folder import busy
from xcoop.sweep.display import Display
from xcoop.sweep.jobs import BUSY, FAILED, FOUND, Job, Outcome
from xcoop.sweep.worker import SIGNALS, THREADS, Progress, Run, serve
from xcoop.utils.console import UserError, complain, say
from xcoop.utils.files import unguarded

NOTES = ".sweep"  # below the output root: the logs of workers that died, and what is known of Slurm's tasks
MEMORY = 3 << 30  # bytes that a worker on a CPU is reckoned to need
TICK = 0.2  # seconds between looks at everything
LOOK = 1.0  # seconds between looks at runs that other launchers are at
RETRIES = 1  # of a failed job
PATIENCE = 15.0  # seconds that a worker has to end when it is asked to
# What a run imports when it needs it. A launcher that forks its workers does so once, before the first of them.
MODULES = ("xcoop.runs.train", "xcoop.training.trainer", "xcoop.results.record", "torch.utils.tensorboard",
           "torch.utils.collect_env")  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """Where a worker runs.

    Attributes:
        name: in messages, e.g. "GPU 0" or "CPU 2"; no two are equal.
        environment: what its environment has besides ours.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)


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
    on_gpus = any(slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in slots)
    return "fork" if sys.platform == "linux" and threading.active_count() == 1 and not on_gpus else "spawn"


class Launcher:
    """Runs jobs, and shows how far they are.

    Args:
        jobs: to run; what is done is left alone.
        slots: where workers run.
        out: the output root.
        display: is told what happens.
        run: what runs one job in a worker; default: `worker.Runner`.

    Attributes:
        ends: how each ended so far, by its folder.
    """

    def __init__(
        self, jobs: Sequence[Job], slots: Sequence[Slot], out: str, display: Display, run: Run | None = None
    ) -> None:
        self.slots, self.out, self.notes, self.display, self.run_job = slots, out, Path(out, NOTES), display, run
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
        return self.ends

    def _hand_out(self) -> None:
        """Gives a job to each worker that has none, and ends workers for which there is none."""
        for slot in self.slots:
            worker = self.workers.get(slot)
            if worker and worker.job:
                continue
            job = self._next(worker.group if worker else "")
            if job is None:
                if worker and not self.waiting and not self.busy:
                    self._retire(slot)
                continue
            if worker is None or (self.failures[job.folder] and worker.served):  # what failed gets a fresh process
                self._retire(slot)
                with _uninterrupted():
                    worker = self.workers[slot] = Worker(slot, self.notes, self.run_job, self.context)
            self.waiting.remove(job)
            worker.give(job)
            self.display.started(job)

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
        taken = {worker.group for worker in self.workers.values() if worker.job}
        order = [(self.failures[job.folder], job.group != group, job.group in taken) for job in ready]
        return ready[order.index(min(order))] if ready else None

    def _retire(self, slot: Slot) -> None:
        if worker := self.workers.pop(slot, None):
            worker.dismiss()
            worker.end()

    def _listen(self) -> None:
        """Takes in what the workers say, and notices those that have died."""
        workers = list(self.workers.items())
        wait([worker.pipe for _, worker in workers], TICK)
        for slot, worker in workers:
            died = not worker.process.is_alive()  # asked before its last words are read
            for said in worker.hear():
                job = worker.job
                if isinstance(said, Progress) and job:
                    self.display.at(job, said)
                elif isinstance(said, Outcome) and job:
                    worker.job = None
                    self._judge(job, said)
                    if said.state == FAILED and said.again:  # whatever went wrong ends with the process
                        self._retire(slot)
            if died and self.workers.get(slot) is worker:
                self._retire(slot)
                if worker.job:
                    self._judge(worker.job, Outcome(FAILED, time.monotonic() - worker.since, worker.cause()))

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
        """Runs of other launchers: done by now, or free again?"""
        if not self.busy or time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        for job in list(self.busy):
            if not busy(job.folder):
                self.busy.remove(job)
                self.waiting.append(job)  # the worker sees whether it is done


class Worker:
    """A worker process, as its launcher sees it.

    Attributes:
        job: what it runs now; None: nothing.
        group: of its last job.
        served: how many jobs it was given.
        since: when it was given the last one.
    """

    def __init__(self, slot: Slot, notes: Path, run: Run | None, context: Any) -> None:
        self.job: Job | None = None
        self.group, self.served, self.since = "", 0, 0.0
        notes.mkdir(parents=True, exist_ok=True)
        self.log = notes / f"worker-{platform.node()}-{os.getpid()}-{re.sub(r'[^A-Za-z0-9]+', '', slot.name)}.log"
        self.log.unlink(missing_ok=True)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, slot.environment, self.log, run))
        sys.stdout.flush()
        sys.stderr.flush()
        self.process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        """Hands it a job; if it has just died, that is found out as of any other worker."""
        self.job, self.group, self.since = job, job.group, time.monotonic()
        self.served += 1
        with suppress(OSError):
            self.pipe.send(job)

    def hear(self) -> Iterator[Progress | Outcome]:
        """What it has said; nothing of a worker that is silent or dead."""
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                yield self.pipe.recv()

    def cause(self) -> str:
        """How it died."""
        code = self.process.exitcode or 0
        reason = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        reason += " (out of memory?)" if -code == signal.SIGKILL else ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.is_file() else []
        return f"its process ended: {reason}" + "".join(f" ({line})" for line in lines[-1:])

    def dismiss(self) -> None:
        """Asks it to end; a job that it runs is given up."""
        if self.job:
            self.process.terminate()
        else:
            with suppress(OSError):
                self.pipe.send(None)

    def end(self) -> None:
        """Waits for a dismissed worker; kills it if it does not end. Its log goes unless it says something."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        if self.log.is_file() and not self.log.stat().st_size:
            self.log.unlink()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds signals back: one that is raised in a hook of a fork is ignored. A worker lets them in again."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def warn_without_locks(out: Path) -> None:
    """Says, once for all runs of a launcher, if nothing keeps another launcher out of them."""
    if why := unguarded(out):
        complain(f"warning: {why}")


@contextmanager
def terminable() -> Iterator[None]:
    """A request to terminate ends like Ctrl-C: the workers are ended, and the runs' checkpoints stay good."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        say("", "Interrupted. The same command goes on where this one stopped.")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
