"""Workers that are forked from the launcher: they begin at once, since all that a run imports is there already.

Only for the CPU: a process that has looked for GPUs cannot hand them on to its forks. The launcher itself computes
nothing, so there are no threads that a fork would lose.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from xcoop.sweep.slots import THREADS, Slot

# What a run imports when it needs it.
MODULES = ("xcoop.runs.train", "xcoop.training.trainer", "xcoop.results.record", "xcoop.sweep.isolation",
           "xcoop.sweep.worker", "torch.utils.tensorboard", "torch.utils.collect_env")  # fmt: skip
MOST_FILES = 1 << 12  # file numbers that a fork closes


def can_fork(slots: Sequence[Slot]) -> bool:
    """Whether workers of this process may be forks of it."""
    on_gpu = any(slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in slots)
    return sys.platform == "linux" and not on_gpu and threading.active_count() == 1


def prepare() -> None:
    """Imports what a run needs, once for all workers."""
    from xcoop.backbones import backbone_names
    from xcoop.config.plugins import load_plugins

    load_plugins()
    backbone_names()
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector of a fork need not touch what it shares with us


class Forked:
    """A worker process; what `Hand` needs of a `subprocess.Popen`.

    Args:
        slot: where it runs.
        folder: of the journal.
        log: file number for what it says on its standard error.
    """

    def __init__(self, slot: Slot, folder: Path, log: int) -> None:
        ours, theirs = os.pipe(), os.pipe()  # to it, from it
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become_worker(slot, folder, (ours[0], theirs[1], log))
        os.close(ours[0])
        os.close(theirs[1])
        self.stdin, self.stdout = os.fdopen(ours[1], "wb"), os.fdopen(theirs[0], "rb", 0)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; its exit code.

        Raises:
            subprocess.TimeoutExpired: it still lives after `timeout` seconds.
        """
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("worker", timeout or 0)
            time.sleep(0.02)
        return code

    def kill(self) -> None:
        """Ends it for good."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _become_worker(slot: Slot, folder: Path, files: tuple[int, int, int]) -> NoReturn:
    """What the fork does; it never returns to the launcher's code."""
    code = 1
    try:
        _settle(slot, files)
        from xcoop.sweep.worker import main

        code = main(["--serve", "--journal", str(folder)])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _settle(slot: Slot, files: tuple[int, int, int]) -> None:
    """Own streams, signals, environment and threads; the launcher's other files are closed.

    Were they not, the ends of other workers' lines would stay open here, and these would not notice its death.
    """
    os.setsid()  # Ctrl-C is for the launcher, which ends its workers in order
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, MOST_FILES)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(slot.environment)
    import torch

    torch.set_num_threads(int(slot.environment[THREADS[0]]))  # the variable was read when torch was loaded
