"""Nothing of a run stays behind in its process: random generators, switches of torch, streams, loggers, environment."""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch

from xcoop.engine.rng import restore_rng, rng_state


@contextmanager
def isolated() -> Iterator[None]:
    """Puts everything that a run may have changed in this process back as it was, also after an exception."""
    _forget_peak()
    with ExitStack() as stack:
        for restore in (*_switches(), _logging(), _streams(), _surroundings(), _generators()):
            stack.callback(restore)
        try:
            yield
        finally:
            stack.callback(_release)  # called first: what it frees may still print


def _switches() -> list[Callable[[], None]]:
    """The settings of torch and numpy that change what is computed, or how."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    attributes: list[tuple[Any, str]] = [
        (cudnn, "benchmark"),
        (cudnn, "deterministic"),
        (cudnn, "allow_tf32"),
        (cudnn, "enabled"),
        (matmul, "allow_tf32"),
        (torch.backends.mkldnn, "enabled"),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name in attributes if hasattr(owner, name)]
    deterministic, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    dtype, threads, precision = torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision()
    grad, anomaly, numpy_errors = torch.is_grad_enabled(), torch.is_anomaly_enabled(), np.geterr()

    def restore_backends() -> None:
        for owner, name, value in kept:
            if getattr(owner, name) != value:
                setattr(owner, name, value)

    def restore_anomaly() -> None:
        torch.autograd.set_detect_anomaly(anomaly)

    def restore_numpy() -> None:
        np.seterr(**numpy_errors)

    return [
        restore_backends,
        lambda: torch.use_deterministic_algorithms(deterministic, warn_only=warn),
        lambda: torch.set_default_dtype(dtype),
        lambda: torch.set_num_threads(threads) if torch.get_num_threads() != threads else None,
        lambda: torch.set_float32_matmul_precision(precision),
        lambda: torch._C._set_grad_enabled(grad),
        restore_anomaly,
        restore_numpy,
    ]


def _logging() -> Callable[[], None]:
    loggers = [logging.getLogger(), logging.getLogger("xcoop")]
    kept = [(logger, logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    disabled = logging.root.manager.disable

    def restore() -> None:
        for logger, level, handlers, propagate in kept:
            logger.setLevel(level)
            logger.handlers[:] = handlers
            logger.propagate = propagate
        logging.disable(disabled)

    return restore


def _streams() -> Callable[[], None]:
    out, err = sys.stdout, sys.stderr

    def restore() -> None:
        sys.stdout, sys.stderr = out, err

    return restore


def _surroundings() -> Callable[[], None]:
    """Environment, working folder, and the warnings that are shown."""
    environment, folder, filters = dict(os.environ), os.getcwd(), list(warnings.filters)

    def restore() -> None:
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        os.chdir(folder)
        warnings.filters[:] = filters  # type: ignore[index]

    return restore


def _generators() -> Callable[[], None]:
    state = rng_state()
    hidden = random.getstate()

    def restore() -> None:
        restore_rng(state)
        random.setstate(hidden)

    return restore


def _forget_peak() -> None:
    """The most memory that was used is counted anew, where the system can: a run records it as its own."""
    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _release() -> None:
    """Frees what the run held: trainers hold themselves, and with them a backbone, until they are collected.

    What is left are modules and what is shared. It stays, so it need not be looked through after the next run.
    """
    gc.collect()
    gc.freeze()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
