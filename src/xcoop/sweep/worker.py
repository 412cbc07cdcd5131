"""A run as a job, and a process that does several: what they have in common is loaded once, the rest is put back."""

from __future__ import annotations

import _thread
import gc
import io
import logging
import multiprocessing
import os
import platform
import random
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        together: what jobs have in common that may be trained side by side (see `xcoop.methods.together`); "": no job.
        after: the folder of a run that must be done first (the one whose weights are evaluated), if there is one.
        cfg: its merged config.
    """

    words: tuple[str, ...]
    folder: Path
    title: str
    group: str
    after: Path | None = None
    together: str = ""
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
    group = group_of(cfg)
    return Job(tuple(plan.words(seed)), folder, title, group, together=together_of(cfg, group), cfg=cfg)


def group_of(cfg: CfgNode) -> str:
    """What runs must have in common to share what they load."""
    backbone, dataset = cfg.MODEL.BACKBONE, cfg.DATASET
    weights = (backbone.get(key, "") for key in ("PATH", "SOURCE", "ACTIVATION", "HEAD_WIDTH"))
    images = (dataset.NAME, dataset.get("SET", ""), dataset.get("PATH", ""), "x".join(map(str, cfg.INPUT.SIZE)))
    parts = [backbone.NAME, *weights, *images]
    return " ".join(str(part) for part in parts if part)


def together_of(cfg: CfgNode, group: str) -> str:
    """The method and what it is trained on, if a step of it is a pass of the text tower and little else."""
    from dassl.engine import TRAINER_REGISTRY

    asked = getattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "side_by_side", False)  # another programme's does not say
    return f"{cfg.TRAINER.NAME} {group}" if asked else ""


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
        _import_all()
        with isolated():
            return self._run(job)

    def side_by_side(
        self, jobs: Sequence[Job], tell: Callable[[Job, Outcome], None], output: Callable[[Job], Any]
    ) -> None:
        """Runs several that are `together`, with one pass of the text tower for all at each step.

        Args:
            jobs: the runs.
            tell: is told how each ended, when it has.
            output: gives the standard output of each.
        """
        _import_all()
        from xcoop.methods.together import Meeting

        def attempted(job: Job) -> None:
            sys.stdout = output(job)
            tell(job, attempt(job, self._run))

        with isolated():
            Meeting([partial(attempted, job) for job in jobs], process_state).run()

    def _run(self, job: Job) -> Outcome:
        from xcoop.runs import train

        with sharing(self.shared):
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


def _import_all() -> None:
    """All that a run imports, at once: before `isolated` imports torch alone."""
    from xcoop.config.plugins import load_plugins

    load_plugins()


@contextmanager
def isolated() -> Iterator[None]:
    """Puts everything that runs may have changed in this process back as it was, also after an exception.

    What they held is freed, and the most memory that was used is counted anew: a run records it as its own.
    """
    import torch

    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # where the system can
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    put_back = process_state()
    try:
        yield
    finally:
        # Trainers hold themselves, and with them a backbone, until they are collected; what that frees may still print.
        gc.collect()
        gc.freeze()  # modules, and what is shared: it stays, and need not be looked through after the next run
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        put_back()


def process_state() -> Callable[[], None]:
    """Notes all that a run may change in this process; what it gives puts it back."""
    import numpy as np
    import torch

    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    filters, environment = list(warnings.filters), dict(os.environ)
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

    def put_back() -> None:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        if of_gpus:
            torch.cuda.set_rng_state_all(of_gpus)
        warnings.filters[:] = filters  # type: ignore[index]
        for logger, kept in zip(loggers, handlers, strict=True):
            logger.handlers[:] = kept
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        for (get, put), value in zip(switches, before, strict=True):
            if get() != value:
                put(value)

    return put_back


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
    if sys.platform != "win32":
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
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
