"""A run as a job, and what does several of them: what they have in common is loaded once, the rest is put back."""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.results.folder import FinishedError, busy, check_free
from xcoop.results.record import Origin, read_run
from xcoop.utils.console import EXPECTED, BusyError, UserError, describe
from xcoop.utils.process_cache import Shared, sharing

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from xcoop.runs.plan import Plan

FINISHED, FOUND, BUSY, FAILED = "finished", "found", "busy", "failed"  # how an attempt at a job ends
DONE, RUNNING = "done", "running"  # what is known of a job before it is started; or "damaged", "begun", "to do"


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
