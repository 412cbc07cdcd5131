"""A process that runs jobs one after the other. What they load in common is loaded once; nothing else stays behind."""

from __future__ import annotations

import _thread
import gc
import io
import logging
import multiprocessing
import os
import random
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from xcoop.results.record import read_run
from xcoop.sweep.jobs import BUSY, FAILED, FINISHED, FOUND, Job, Outcome
from xcoop.utils.console import EXPECTED, INTERRUPTED, BusyError, UserError, describe

Run = Callable[[Job], Outcome]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
EPOCH = re.compile(r"epoch \[(\d+)/(\d+)\] batch \[(\d+)/(\d+)\].* eta (\S+)")
LOSS = re.compile(r"\bloss \S+ \((\S+?)\)")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
OFTEN = 0.5  # seconds between two reports of one run
GRACE = 10.0  # seconds that an interrupted run has to end by itself


class Progress(NamedTuple):
    """How far a run is: the part of it in [0, 1], and the same in words."""

    part: float
    text: str


def serve(pipe: Connection, environment: Mapping[str, str], log: Path, run: Run | None = None) -> None:
    """What a worker process does: it runs the jobs that come through the pipe until None comes, or its launcher ends.

    Args:
        pipe: takes jobs in; gives `Progress` while one runs, and its `Outcome`.
        environment: what it is to have in its environment, `THREADS` among it.
        log: gets what is written to the standard error; it has nothing to say unless something goes wrong.
        run: what runs one job; default: `Runner`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launcher, which ends its workers in order
    signal.signal(signal.SIGTERM, _interrupt)
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


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _end_with(launcher: Any) -> None:
    """A worker does not outlive whoever started it, however that ended: the run in flight is given up."""
    launcher.join()
    _thread.interrupt_main(signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(INTERRUPTED)


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
            epoch, epochs, batch, batches = (int(found[number]) for number in range(1, 5))
            loss = f"loss {told[1]}, " if (told := LOSS.search(text)) else ""
            text_shown = f"epoch {epoch} of {epochs}, {loss}eta {found[5]}"
            self._pipe.send(Progress((epoch - 1 + batch / batches) / epochs, text_shown))
        return len(text)


def attempt(job: Job, run: Run) -> Outcome:
    """Runs one job, unless it is done or cannot be done; nothing is raised but an interruption."""
    try:
        if job.done():
            return Outcome(FOUND)
        if job.after is not None and read_run(job.after) is None:
            return Outcome(FAILED, message=f"the run that it builds on is not done: {job.after}", again=False)
    except ValueError as error:  # a damaged record
        return Outcome(FAILED, message=describe(error), again=False)
    return run(job)


class Runner:
    """Runs jobs with `train.py`'s own code, in a scope in which they share what they load."""

    def __init__(self) -> None:
        from xcoop.utils.process_cache import Shared

        self.shared = Shared()

    def __call__(self, job: Job) -> Outcome:
        """Runs one; what it changed in this process is put back."""
        from xcoop.utils.process_cache import sharing

        start = time.monotonic()
        with sharing(self.shared), isolated():
            outcome = self._run(job)
        return replace(outcome, seconds=time.monotonic() - start)

    def _run(self, job: Job) -> Outcome:
        from xcoop.results.folder import FinishedError
        from xcoop.runs import train

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
            if not isinstance(error, EXPECTED):  # it was not meant for the user, who needs to know where it comes from
                place = traceback.extract_tb(error.__traceback__)[-1]
                message = f"{type(error).__name__}: {message} ({place.filename}, line {place.lineno})"
            return Outcome(FAILED, message=message)
        if not job.done():
            return Outcome(
                FAILED, message=f"it ended (code {code}) without a results.json (TEST.NO_TEST?)", again=False
            )
        return Outcome(FINISHED)


@contextmanager
def isolated() -> Iterator[None]:
    """Puts everything that a run may have changed in this process back as it was, also after an exception.

    That is: random generators, switches of torch and numpy, streams, loggers, environment, folder, shown warnings.
    What the run held is freed, and the most memory that was used is counted anew: a run records it as its own.
    """
    import numpy as np
    import torch

    from xcoop.engine.tools import restore_rng, rng_state

    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # where the system can
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()

    loggers = [logging.getLogger(), logging.getLogger("xcoop")]
    kept = [(logger, logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    disabled, streams, hidden, generators = (
        logging.root.manager.disable, (sys.stdout, sys.stderr), random.getstate(), rng_state()
    )  # fmt: skip
    environment, folder, filters, numpy_errors = dict(os.environ), os.getcwd(), list(warnings.filters), np.geterr()
    cudnn, matmul, mkldnn = torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.mkldnn
    names = [(cudnn, "benchmark"), (cudnn, "deterministic"), (cudnn, "allow_tf32"), (cudnn, "enabled"),
             (matmul, "allow_tf32"), (mkldnn, "enabled")]  # fmt: skip
    switches = [(owner, name, getattr(owner, name)) for owner, name in names]
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    grad, anomaly, dtype = torch.is_grad_enabled(), torch.is_anomaly_enabled(), torch.get_default_dtype()
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()

    def restore() -> None:
        restore_rng(generators)
        random.setstate(hidden)
        warnings.filters[:] = filters  # type: ignore[index]
        os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        sys.stdout, sys.stderr = streams
        for logger, level, handlers, propagate in kept:
            logger.setLevel(level)
            logger.handlers[:] = handlers
            logger.propagate = propagate
        logging.disable(disabled)
        np.seterr(**numpy_errors)
        torch.autograd.set_detect_anomaly(anomaly)
        torch._C._set_grad_enabled(grad)
        torch.set_float32_matmul_precision(precision)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(strict, warn_only=warn)
        for owner, name, value in switches:
            if getattr(owner, name) != value:
                setattr(owner, name, value)

    try:
        yield
    finally:
        _release()  # what it frees may still print
        restore()


def _release() -> None:
    """Frees what a run held: trainers hold themselves, and with them a backbone, until they are collected.

    What is left are modules and what is shared. It stays, so it need not be looked through after the next run.
    """
    import torch

    gc.collect()
    gc.freeze()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
