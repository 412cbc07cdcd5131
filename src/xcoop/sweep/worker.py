"""A run as a job, and a process that does several: what they have in common is loaded once, the rest is put back."""

from __future__ import annotations

import _thread
import gc
import io
import logging
import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xcoop.results.folder import FinishedError, busy, check_free
from xcoop.results.record import Origin, read_run
from xcoop.utils.console import EXPECTED, INTERRUPTED, BusyError, UserError, describe
from xcoop.utils.process_cache import Shared, sharing

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from xcoop.runs.plan import Plan

FINISHED, FOUND, BUSY, FAILED = "finished", "found", "busy", "failed"  # how an attempt at a job ends
DONE, RUNNING = "done", "running"  # what is known of a job before it is started; or "damaged", "begun", "to do"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
EPOCH = re.compile(r"epoch \[(\d+)/(\d+)\] batch \[(\d+)/(\d+)\].* eta (\S+)")
LOSS = re.compile(r"\bloss \S+ \((\S+?)\)")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
OFTEN = 0.5  # seconds between two reports of one run
GRACE = 10.0  # seconds that an interrupted run has to end by itself
PATIENCE = 15.0  # seconds that a worker has to end when it is asked to


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        words: the arguments of `train.py`, `--output-dir` among them.
        folder: where its results go; the same as `--output-dir`.
        title: its name in messages.
        group: backbone, dataset and input size; jobs of one group share what they load.
        after: the folder of a run that must be done first (the one whose weights are evaluated), if there is one.
        cfg: its merged config.
    """

    words: tuple[str, ...]
    folder: Path
    title: str
    group: str
    after: Path | None = None
    cfg: CfgNode | None = field(default=None, compare=False, repr=False)

    @property
    def log(self) -> Path:
        """The run's log."""
        return self.folder / "log.txt"

    def done(self) -> bool:
        """Whether its `results.json` is whole; ValueError, which names the file, if it is damaged."""
        return read_run(self.folder) is not None

    def state(self) -> str:
        """What is known of it before it is started."""
        try:
            if self.done():
                return DONE
        except ValueError:
            return "damaged"
        if busy(self.folder):
            return RUNNING
        return "begun" if any(self.folder.glob("*/model*.pth.tar*")) else "to do"


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a job ended.

    Attributes:
        state: FINISHED (by us, now), FOUND (it was done before), BUSY (another process is at it), FAILED.
        seconds: wall time.
        message: why it failed, or what is busy; a line or more.
        again: whether a failed run may be tried once more (not where the user has to change something first).
    """

    state: str
    seconds: float = 0.0
    message: str = ""
    again: bool = True


def training(plan: Plan, seed: int, title: str) -> Job:
    """The run of one seed; UserError if its folder holds a run with other settings."""
    folder, cfg = plan.seed_folder(seed), plan.config(seed)
    check_free(folder, cfg, Origin())
    return Job(tuple(plan.words(seed)), folder, title, group_of(cfg), cfg=cfg)


def group_of(cfg: CfgNode) -> str:
    """What runs must have in common to share what they load."""
    backbone, dataset = cfg.MODEL.BACKBONE, cfg.DATASET
    parts = [backbone.NAME, backbone.get("PATH", ""), dataset.NAME, dataset.get("SET", ""), dataset.get("PATH", ""),
             "x".join(map(str, cfg.INPUT.SIZE))]  # fmt: skip
    return " ".join(str(part) for part in parts if part)


# What does a job.

Run = Callable[[Job], Outcome]


def attempt(job: Job, run: Run) -> Outcome:
    """Runs a job, unless it is done or cannot be done; nothing is raised but an interruption."""
    start = time.monotonic()
    try:
        if job.done():
            return Outcome(FOUND)
        if job.after is not None and read_run(job.after) is None:
            return Outcome(FAILED, message=f"the run that it builds on is not done: {job.after}", again=False)
    except ValueError as error:  # a damaged record
        return Outcome(FAILED, message=describe(error), again=False)
    return replace(run(job), seconds=time.monotonic() - start)


class Runner:
    """Runs jobs with `train.py`'s own code, in a scope in which they share what they load."""

    def __init__(self) -> None:
        self.shared = Shared()

    def __call__(self, job: Job) -> Outcome:
        """Runs one; what it changed in this process is put back."""
        from xcoop.config.plugins import load_plugins
        from xcoop.runs import train

        load_plugins()  # all that a run imports: at once, before `isolated` imports torch alone
        with sharing(self.shared), isolated():
            try:
                code = train.run(train.parser().parse_intermixed_args(list(job.words)), job.words, job.cfg, once=True)
            except BusyError as error:
                return Outcome(BUSY, message=describe(error))
            except FinishedError:
                return Outcome(FOUND)
            except (UserError, ValueError, FileNotFoundError) as error:  # another try would say the same
                return Outcome(FAILED, message=describe(error), again=False)
            except (Exception, SystemExit) as error:
                message = describe(error)
                if not isinstance(error, EXPECTED):  # not meant for the user, who needs to know where it comes from
                    place = traceback.extract_tb(error.__traceback__)[-1]
                    message = f"{type(error).__name__}: {message} ({place.filename}, line {place.lineno})"
                return Outcome(FAILED, message=message)
        if job.done():
            return Outcome(FINISHED)
        message = f"it ended (code {code}) without a results.json (TEST.NO_TEST?)"
        return Outcome(FAILED, message=message, again=False)


@contextmanager
def isolated() -> Iterator[None]:
    """Puts everything that a run may have changed in this process back as it was, also after an exception.

    What the run held is freed, and the most memory that was used is counted anew: a run records it as its own.
    """
    import numpy as np
    import torch

    from xcoop.engine.tools import restore_rng, rng_state

    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # where the system can
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()

    generators, filters, environment = rng_state(), list(warnings.filters), dict(os.environ)
    cudnn, loggers = torch.backends.cudnn, (logging.getLogger(), logging.getLogger("xcoop"))
    handlers = [list(logger.handlers) for logger in loggers]
    attributes = [
        *((cudnn, name) for name in ("benchmark", "deterministic", "allow_tf32", "enabled")),
        *((torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.mkldnn, "enabled")),
        *((sys, "stdout"), (sys, "stderr"), *((logger, "propagate") for logger in loggers)),
    ]
    switches: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
        (
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),  # before `allow_tf32`, which it sets, too
        *((partial(getattr, *place), partial(setattr, *place)) for place in attributes),
        *((partial(getattr, logger, "level"), logger.setLevel) for logger in loggers),
        (lambda: logging.root.manager.disable, logging.disable),
        (os.getcwd, os.chdir),
        (np.geterr, lambda errors: np.seterr(**errors)),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch._C._set_grad_enabled),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    ]
    before = [get() for get, _ in switches]
    try:
        yield
    finally:
        # Trainers hold themselves, and with them a backbone, until they are collected; what that frees may still print.
        gc.collect()
        gc.freeze()  # modules, and what is shared: it stays, and need not be looked through after the next run
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        restore_rng(generators)
        warnings.filters[:] = filters  # type: ignore[index]
        for logger, kept in zip(loggers, handlers, strict=True):
            logger.handlers[:] = kept
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        for (get, put), value in zip(switches, before, strict=True):
            if get() != value:
                put(value)


# The process, and how its launcher sees it.


@dataclass(frozen=True)
class Slot:
    """Where a worker runs.

    Attributes:
        name: in messages, e.g. "GPU 0" or "CPU 2"; no two are equal.
        environment: what its environment has besides ours.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)


class Progress(NamedTuple):
    """How far a run is: the part of it in [0, 1], and the same in words."""

    part: float
    text: str


class Console(io.TextIOBase):
    """A standard output that only looks for the lines that tell how far a training is: each run has a log of its own.

    Args:
        pipe: is given the `Progress`.
    """

    encoding = "utf-8"

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe
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
            self._pipe.send(Progress((epoch - 1 + batch / batches) / epochs, shown))
        return len(text)


def serve(pipe: Connection, environment: Mapping[str, str], log: Path, run: Run | None = None) -> None:
    """What a worker process does: it runs the jobs that come through the pipe until None comes, or its launcher ends.

    Args:
        pipe: takes jobs in; gives `Progress` while one runs, and its `Outcome`.
        environment: what it is to have in its environment, `THREADS` among it.
        log: gets what is written to the standard error; it has nothing to say unless something goes wrong.
        run: what runs one job; default: `Runner`.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launcher, which ends its workers in order
    signal.signal(signal.SIGTERM, interrupt)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    for number, path in ((1, os.devnull), (2, log)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = Console(pipe), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.update(environment)  # before torch is imported; in a fork it is there already
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(environment[THREADS[0]]))

    launcher = multiprocessing.parent_process()
    assert launcher is not None  # noqa: S101 - a worker is a child of its launcher
    threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()
    run = run or Runner()
    try:
        while launcher.sentinel not in wait([pipe, launcher.sentinel]) and (job := pipe.recv()) is not None:
            pipe.send(attempt(job, run))
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
        job: what it runs now; None: nothing.
        group: of its last job; "" before the first.
    """

    def __init__(self, slot: Slot, notes: Path, run: Run | None, context: Any) -> None:
        self.job: Job | None = None
        self.group = ""
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
        self.job, self.group = job, job.group
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
def uninterrupted() -> Iterator[None]:
    """Holds signals back until a new worker is known: one that is raised in a hook of a fork would be ignored.

    The worker itself lets them in again.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
