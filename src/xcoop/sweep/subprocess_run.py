"""One run in a process of its own: started, watched, and its end told.

A terminal gets a bar, a log gets plain lines now and then. The whole output stands in the run's own `log.txt`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import xcoop
from xcoop.utils.console import BUSY, say

EPOCH = re.compile(r"epoch \[(\d+)/(\d+)\] batch \[(\d+)/(\d+)\].* eta (\S+)")
LOSS = re.compile(r"\bloss \S+ \((\S+?)\)")
BAR = re.compile(r"\d+%\|")
EVERY = 15.0  # seconds between plain lines
KEPT = 200  # lines of output that are remembered for the case of a failure

# The current folder is not searched for modules: a folder `datasets` in it would hide the library of that name.
TRAIN = (
    sys.executable,
    "-c",
    "import sys; sys.path[:] = [p for p in sys.path if p]; from xcoop.runs.train import main; sys.exit(main())",
)


@dataclass(frozen=True)
class End:
    """How a process ended: its exit code (negative: the signal), its last lines, its wall time in seconds."""

    code: int
    tail: tuple[str, ...]
    seconds: float

    @property
    def busy(self) -> bool:
        """Whether another process was at the same run."""
        return self.code == BUSY

    @property
    def reason(self) -> str:
        """Why it failed, in words."""
        if self.code >= 0:
            return f"exit code {self.code}"
        name = signal.Signals(-self.code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

    @property
    def message(self) -> str:
        """What the process said last: its error message if it gave one, else its last 15 lines."""
        starts = [number for number, line in enumerate(self.tail) if line.startswith("xcoop: ")]
        lines = self.tail[starts[-1] :] if starts else self.tail[-15:]
        return "\n".join(lines) or "(it printed nothing)"


class Watch:
    """Shows how far a process is.

    Args:
        title: what is run, e.g. "XCoOp, 16 shots, seed 1".
        terminal: whether a bar can be drawn.
    """

    def __init__(self, title: str, terminal: bool) -> None:
        self.title = title
        self.bar = tqdm(desc=title, leave=False, bar_format="{desc} {postfix}") if terminal else None
        self.told = time.monotonic()
        if not terminal:
            say(f"{title}: started")

    def see(self, line: str) -> None:
        """Takes in one line of the process's output."""
        if found := EPOCH.search(line):
            epoch, epochs, batch, batches = (int(found[number]) for number in range(1, 5))
            loss = LOSS.search(line)
            self._show(epoch, epochs, batch / batches, f"loss {loss[1]}" if loss else "", found[5])
        elif BAR.search(line):
            self._tell(line)

    def _show(self, epoch: int, epochs: int, part: float, loss: str, eta: str) -> None:
        if self.bar is None:
            self._tell(f"epoch {epoch} of {epochs}, {loss}, eta {eta}")
            return
        self.bar.bar_format = "{desc} {percentage:3.0f}%|{bar}| {postfix}"
        self.bar.total, self.bar.n = epochs, epoch - 1 + part
        self.bar.set_postfix_str(f"epoch {epoch} of {epochs}, {loss}, eta {eta}")

    def _tell(self, text: str) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str(text[:60])
        elif time.monotonic() - self.told >= EVERY:
            self.told = time.monotonic()
            say(f"{self.title}: {text}")

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.close()


def run(words: Sequence[str], title: str, program: Sequence[str] = TRAIN, terminal: bool | None = None) -> End:
    """Runs `program` with the arguments `words` to its end.

    Args:
        words: arguments of `train.py`.
        title: how to call it.
        program: what is run.
        terminal: draw a bar; default: if the standard error is a terminal.

    Raises:
        KeyboardInterrupt: also where this process is asked to terminate; the child is ended first.
    """
    start = time.monotonic()
    watch = Watch(title, sys.stderr.isatty() if terminal is None else terminal)
    tail: deque[str] = deque(maxlen=KEPT)
    process = subprocess.Popen(  # noqa: S603 (our own programme)
        [*program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=environment(),
    )
    try:
        _follow(process.stdout or (), watch, tail)
        code = process.wait()
    finally:
        _end(process)
        watch.close()
    return End(code, tuple(tail), time.monotonic() - start)


def environment() -> dict[str, str]:
    """This process's environment, in which the child finds the same xcoop."""
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    library = Path(xcoop.__file__).resolve().parents[1]
    if library.name == "src":  # a checkout
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(library), env.get("PYTHONPATH")]))
    return env


def _follow(lines: Iterable[str], watch: Watch, tail: deque[str]) -> None:
    for line in lines:
        text = line.rstrip()
        watch.see(text)
        if text and not BAR.search(text):
            tail.append(text)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process that still runs: politely, then for good."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
