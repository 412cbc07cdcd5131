"""The log file: a copy of all that is printed."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO


class Logger:
    """A stream that writes to the console and to a file.

    It answers for the console (`isatty`, `fileno`, `encoding`), so that whoever asks the stream what it is hears the
    truth, and never closes it.

    Args:
        fpath: the log file; None writes to the console alone.
    """

    def __init__(self, fpath: str | None = None) -> None:
        self.console: TextIO = sys.stdout
        self.file: TextIO | None = None
        if fpath is not None:
            Path(fpath).parent.mkdir(parents=True, exist_ok=True)
            # Line by line, so that the log of a process that was killed is whole.
            self.file = open(fpath, "w", encoding="utf-8", buffering=1)  # noqa: SIM115

    @property
    def encoding(self) -> str:
        """The console's encoding."""
        return self.console.encoding

    @property
    def errors(self) -> str | None:
        """What the console does with characters that it cannot show."""
        return self.console.errors

    @property
    def closed(self) -> bool:
        """Whether the console is closed."""
        return self.console.closed

    def write(self, msg: str) -> int:
        """Writes to both; the number of characters."""
        self.console.write(msg)
        if self.file is not None:
            try:
                self.file.write(msg)
            except OSError as error:  # a full disk, say: where?
                raise OSError(error.errno, error.strerror, self.file.name) from error
        return len(msg)

    def writelines(self, lines: list[str]) -> None:
        """Writes several strings."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hands both over to the system."""
        self.console.flush()
        if self.file is not None:
            self.file.flush()

    def isatty(self) -> bool:
        """Whether the console is a terminal."""
        return self.console.isatty()

    def fileno(self) -> int:
        """The console's file number."""
        return self.console.fileno()

    def writable(self) -> bool:
        """True: it can be written to."""
        return True

    def readable(self) -> bool:
        """False: it cannot be read from."""
        return False

    def seekable(self) -> bool:
        """False: it only goes forward."""
        return False

    def close(self) -> None:
        """Closes the file; the console stays open and keeps working.

        Each line was written when it came: what cannot be written now was an error then.
        """
        file, self.file = self.file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def setup_logger(output: str | None = None) -> None:
    """Copies what is printed from now on into a log file.

    Args:
        output: a folder (the file is `log.txt` in it) or a file ending in .txt or .log; None does nothing. A log that
            is there already is kept: the new one gets the time as a suffix.
    """
    if output is None:
        return
    path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    if os.path.lexists(path):  # a link, even to nothing, would be written through
        path += time.strftime("-%Y-%m-%d-%H-%M-%S")
    sys.stdout = Logger(path)
