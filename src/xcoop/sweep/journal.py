"""What was started and how it ended: one JSON line an event, for whoever counts afterwards."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xcoop.results.record import now

STARTED = "started"


class Journal:
    """A file that is only ever added to. Each line is written at once, so that processes may share the file.

    Hosts do not share one: not every network disk can add to a file from two sides.

    Args:
        folder: `<OUT>/.sweep`; it is made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"journal-{socket.gethostname()}.jsonl"

    def write(self, event: str, folder: Path, **more: Any) -> None:
        """Adds an event of the run in `folder`."""
        line = json.dumps({"event": event, "folder": str(folder), "time": now(), "pid": os.getpid(), **more})
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(handle, f"{line}\n".encode())
        finally:
            os.close(handle)


def events(folder: Path) -> Iterator[dict[str, Any]]:
    """All events of all hosts, host by host; a line that a killed process did not finish is left out."""
    for path in sorted(folder.glob("journal-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue
