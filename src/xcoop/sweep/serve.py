"""A worker's end of the line to its launcher: jobs come in by the standard input, events go out by the standard output.

One JSON value a line. In: `{"job": {...}}`. Out: `{"event": "ready"}`, `{"event": "at", "part": 0.25}` (of the running
job) and `{"event": "end", "state": ..., "seconds": ..., "message": ..., "again": ...}`.
"""

from __future__ import annotations

import _thread
import io
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from xcoop.sweep.jobs import Job, Outcome
from xcoop.sweep.subprocess_run import EPOCH
from xcoop.utils.console import INTERRUPTED

GRACE = 10.0  # seconds that an interrupted run has to end by itself
OFTEN = 1.0  # seconds between two events of one run


def serve(attempt: Callable[[Job], Outcome]) -> int:
    """Runs the jobs that come in, until the input ends; the exit code.

    The input also ends when the launcher does, however that ends: then the running job is given up.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where a shell started us with `&`
    with _line_to_launcher() as send:
        jobs = _Inbox()
        send({"event": "ready"})
        for job in jobs:
            outcome = attempt(job)
            jobs.idle()
            send({"event": "end", **asdict(outcome)})
    return 0


class _Inbox:
    """The jobs of the standard input. Its end interrupts whatever runs."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._running = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def __iter__(self) -> Iterator[Job]:
        while (job := self._queue.get()) is not None:
            yield job

    def idle(self) -> None:
        """Called when a job has ended."""
        self._running.clear()

    def _listen(self) -> None:
        for line in _lines(sys.stdin.fileno()):
            self._running.set()  # before the job can be taken up: the end of the input must not miss it
            self._queue.put(Job.from_json(json.loads(line)["job"]))
        self._queue.put(None)
        if self._running.is_set():
            _thread.interrupt_main()
            time.sleep(GRACE)
            os._exit(INTERRUPTED)


def _lines(handle: int) -> Iterator[bytes]:
    """Whole lines from a file number: a buffered stream that a thread waits for would hold up the end."""
    rest = b""
    while block := os.read(handle, 1 << 16):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole


@contextmanager
def _line_to_launcher() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that sends events. What anyone prints meanwhile goes nowhere: each run has a log of its own."""
    line = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)

    def send(event: dict[str, Any]) -> None:
        try:
            line.write(json.dumps(event) + "\n")
        except BrokenPipeError:  # nobody listens any more: the input has ended, too
            _thread.interrupt_main()

    console, sys.stdout = sys.stdout, Console(send)
    try:
        yield send
    finally:
        sys.stdout = console
        line.close()


class Console(io.TextIOBase):
    """A standard output that only looks for the lines that tell how far a training is.

    Args:
        send: is given the events.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._send = send
        self._told = 0.0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As a console has one."""
        return "utf-8"

    def writable(self) -> bool:
        """It takes text."""
        return True

    def write(self, text: str) -> int:
        """Takes a text; the number of characters."""
        if "epoch [" in text and time.monotonic() - self._told >= OFTEN and (found := EPOCH.search(text)):
            self._told = time.monotonic()
            epoch, epochs, batch, batches = (int(found[number]) for number in range(1, 5))
            self._send({"event": "at", "part": (epoch - 1 + batch / batches) / epochs})
        return len(text)
