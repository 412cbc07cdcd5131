"""A process that does jobs, and how its launcher sees it."""

from __future__ import annotations

import _thread
import io
import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from xcoop.sweep.job import Job, Outcome, Run, Runner, attempt
from xcoop.utils.console import INTERRUPTED

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
EPOCH = re.compile(r"epoch \[(\d+)/(\d+)\] batch \[(\d+)/(\d+)\].* eta (\S+)")
LOSS = re.compile(r"\bloss \S+ \((\S+?)\)")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
OFTEN = 0.5  # seconds between two reports of one run
GRACE = 10.0  # seconds that an interrupted run has to end by itself
PATIENCE = 15.0  # seconds that a worker has to end when it is asked to


@dataclass(frozen=True)
class Slot:
    """Where a worker runs.

    Attributes:
        name: in messages, e.g. "GPU 0" or "CPU 2"; no two are equal.
        environment: what its environment has besides ours.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def on_gpu(self) -> bool:
        """Whether its runs see one."""
        return bool(self.environment.get("CUDA_VISIBLE_DEVICES"))


class Progress(NamedTuple):
    """How far a run is: the part of it in [0, 1], and the same in words."""

    part: float
    text: str


class Console(io.TextIOBase):
    """The standard output of a run, which only looks for the lines that tell how far its training is: it has a log.

    Args:
        job: the run.
        pipe: is given its folder and `Progress`.
    """

    encoding = "utf-8"

    def __init__(self, job: Job, pipe: Connection) -> None:
        super().__init__()
        self._job, self._pipe = job, pipe
        self._told = 0.0

    def writable(self) -> bool:
        """It takes text."""
        return True

    def write(self, text: str) -> int:
        """Takes a text; the number of characters."""
        if "epoch [" in text and time.monotonic() - self._told >= OFTEN and (found := EPOCH.search(text)):
            self._told = time.monotonic()
            epoch, epochs, batch, batches = map(int, found.groups()[:4])
            loss = f"loss {told[1]}, " if (told := LOSS.search(text)) else ""
            shown = f"epoch {epoch} of {epochs}, {loss}eta {found[5]}"
            self._pipe.send((self._job.folder, Progress((epoch - 1 + batch / batches) / epochs, shown)))
        return len(text)


def serve(pipe: Connection, environment: Mapping[str, str], log: Path, run: Run | None = None) -> None:
    """What a worker process does: it runs the jobs that come through the pipe until None comes, or its launcher ends.

    Args:
        pipe: takes jobs in, one or several to be run side by side; gives, with its folder, each one's `Progress` while
            it runs, and its `Outcome`.
        environment: what it is to have in its environment, `THREADS` among it.
        log: gets what is written to the standard error; it has nothing to say unless something goes wrong.
        run: what runs one job; default: `Runner`.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launcher, which ends its workers in order
    signal.signal(signal.SIGTERM, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    for number, path in ((1, os.devnull), (2, log)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(file, number)
        os.close(file)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.update(environment)  # before torch is imported; in a fork it is there already
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(environment[THREADS[0]]))

    launcher = multiprocessing.parent_process()
    assert launcher is not None  # noqa: S101 - a worker is a child of its launcher
    threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()
    runner = Runner()
    run = run or runner

    def output(job: Job) -> Console:
        return Console(job, pipe)

    def tell(job: Job, outcome: Outcome) -> None:
        pipe.send((job.folder, outcome))

    try:
        while launcher.sentinel not in wait([pipe, launcher.sentinel]) and (jobs := pipe.recv()) is not None:
            if len(jobs) > 1:
                runner.side_by_side(jobs, tell, output)
            else:
                sys.stdout = output(jobs[0])
                tell(jobs[0], attempt(jobs[0], run))
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(INTERRUPTED)


def _end_with(launcher: Any) -> None:
    """A worker does not outlive whoever started it, however that ended: the run in flight is given up."""
    launcher.join()
    _thread.interrupt_main(signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(INTERRUPTED)


class Worker:
    """A worker process, as its launcher sees it.

    Attributes:
        jobs: what it runs now.
        group: of its last job; "" before the first.
        failed: whether something went wrong in it; it is given no more then.
    """

    def __init__(self, slot: Slot, notes: Path, run: Run | None, context: Any) -> None:
        self.jobs: list[Job] = []
        self.group, self.failed = "", False
        notes.mkdir(parents=True, exist_ok=True)
        self.log = notes / f"worker-{platform.node()}-{os.getpid()}-{re.sub(r'[^A-Za-z0-9]+', '', slot.name)}.log"
        self.log.unlink(missing_ok=True)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, slot.environment, self.log, run))
        sys.stdout.flush()
        sys.stderr.flush()
        self.process.start()
        theirs.close()

    def give(self, jobs: Sequence[Job]) -> None:
        """Hands it jobs of one group; if it has just died, that is found out as of any other worker."""
        self.jobs, self.group = list(jobs), jobs[0].group
        with suppress(OSError):
            self.pipe.send(tuple(jobs))

    def hear(self) -> Iterator[tuple[Job, Progress | Outcome]]:
        """What it has said of which job; nothing of a worker that is silent or dead."""
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                folder, said = self.pipe.recv()
                yield next(job for job in self.jobs if job.folder == folder), said

    def cause(self) -> str:
        """How it died."""
        code = self.process.exitcode or 0
        reason = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        reason += " (out of memory?)" if -code == signal.SIGKILL else ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.is_file() else []
        return f"its process ended: {reason}" + "".join(f" ({line})" for line in lines[-1:])

    def dismiss(self) -> None:
        """Asks it to end; a job that it runs is given up."""
        if self.jobs:
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
def uninterrupted() -> Iterator[None]:
    """Holds signals back until a new worker is known: one that is raised in a hook of a fork would be ignored.

    The worker itself lets them in again.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
