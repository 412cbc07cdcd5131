"""A launcher's end of the line to one worker: a process that is started, given a job, heard, and ended."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from xcoop.sweep.forked import Forked
from xcoop.sweep.jobs import Job
from xcoop.sweep.slots import Slot
from xcoop.sweep.subprocess_run import End, environment

# The current folder is not searched for modules: a folder `datasets` in it would hide the library of that name.
WORKER = (
    sys.executable,
    "-c",
    "import sys; sys.path[:] = [p for p in sys.path if p]; "
    "from xcoop.sweep.worker import main; sys.exit(main(sys.argv[1:]))",
    "--serve",
)
SHOWN = 15  # last lines of what a dead worker said
PATIENCE = 15.0  # seconds that a worker has to end when it is asked to


class Hand:
    """One worker.

    Args:
        slot: where it runs.
        folder: of its log and of the journal.
        program: what is started; None: a fork of this process.

    Attributes:
        job: what it runs now; None: nothing.
        group: of its last job.
        ready: whether it has said that it can begin.
        served: jobs that it was given.
        since: when it was given the last one.
    """

    def __init__(self, slot: Slot, folder: Path, program: Sequence[str] | None) -> None:
        self.slot = slot
        self.job: Job | None = None
        self.group = ""
        self.ready = False
        self.served = 0
        self.since = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"worker-{platform.node()}-{os.getpid()}-{re.sub(r'[^A-Za-z0-9]+', '', slot.name)}.log"
        self._rest = b""
        with self.log.open("wb") as log:
            self._process = _start(slot, folder, program, log)
        os.set_blocking(self._out.fileno(), False)

    @property
    def _out(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        return self._process.stdout

    @property
    def _in(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        return self._process.stdin

    def fileno(self) -> int:
        """What tells that there is something to hear."""
        return self._out.fileno()

    def give(self, job: Job) -> None:
        """Hands it a job; if it has just died, that is found out as of any other worker."""
        self.job, self.group, self.since = job, job.group, time.monotonic()
        self.served += 1
        with suppress(BrokenPipeError):
            self._in.write(json.dumps({"job": job.as_json()}).encode() + b"\n")
            self._in.flush()

    def hear(self) -> Iterator[dict[str, Any]]:
        """The events that came in; none of a worker that is silent or dead."""
        while block := self._read():
            *whole, self._rest = (self._rest + block).split(b"\n")
            for line in whole:
                with suppress(ValueError):  # what a library printed before the worker took the line for itself
                    yield json.loads(line)

    def _read(self) -> bytes:
        try:
            return os.read(self._out.fileno(), 1 << 16)
        except BlockingIOError:
            return b""

    def end(self) -> End | None:
        """How it ended; None while it lives."""
        code = self._process.poll()
        if code is None:
            return None
        return End(code, tuple(_last_lines(self.log)), time.monotonic() - self.since)

    def dismiss(self) -> None:
        """Asks it to end; a job that it runs is given up."""
        with suppress(BrokenPipeError):
            self._in.close()

    def wait(self) -> None:
        """Waits for a dismissed worker; kills it if it does not end. Its log goes unless it says something."""
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()
        if self.log.is_file() and not self.log.stat().st_size:
            self.log.unlink()


def _start(slot: Slot, folder: Path, program: Sequence[str] | None, log: IO[bytes]) -> subprocess.Popen[bytes] | Forked:
    if program is None:
        return Forked(slot, folder, log.fileno())
    return subprocess.Popen(  # noqa: S603 (our own programme)
        [*program, "--journal", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment() | dict(slot.environment),
        start_new_session=True,  # Ctrl-C is for the launcher, which ends its workers in order
    )


def _last_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
    except OSError:
        return []
