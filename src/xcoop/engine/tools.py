"""What Dassl calls `dassl.utils`, where no torch is needed: registries, small helpers around files, the log file."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from xcoop.utils import files, reading
from xcoop.utils.console import unknown

if TYPE_CHECKING:
    from PIL.Image import Image


class Registry:
    """Classes or functions under their own names.

    Args:
        name: what it holds, for messages ("TRAINER").
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Registers `obj`; without one, gives a decorator that does.

        Args:
            obj: a class or function; it goes under its `__name__`.
            force: replaces what has that name.

        Raises:
            KeyError: the name is taken and `force` is off.
        """

        def add(obj: Any) -> Any:
            name, other = obj.__name__, self._objects.get(obj.__name__)
            if other is not None and not force:
                raise KeyError(
                    f"{name!r} of {obj.__module__} is already registered in {self._name} by {other.__module__}; "
                    "rename one, or register with force=True"
                )
            self._objects[name] = obj
            return obj

        if obj is None:
            return add
        add(obj)
        return None

    def get(self, name: str) -> Any:
        """The object of that name.

        Raises:
            KeyError: there is none; the message gives the nearest name.
        """
        if name not in self._objects:
            raise KeyError(unknown(f"name in the registry {self._name}:", name, self._objects))
        return self._objects[name]

    def build(self, name: str, cfg: Any, **more: Any) -> Any:
        """Makes what has that name from the config, and says so.

        Raises:
            ValueError: there is none; the message gives the nearest name.
        """
        check_availability(name, self._objects)
        if cfg.VERBOSE:
            print(f"Loading {self._name.lower()}: {name}")
        return self._objects[name](cfg, **more)

    def registered_names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._objects)

    def __contains__(self, name: str) -> bool:
        return name in self._objects


def check_availability(requested: str, available: Iterable[str]) -> None:
    """ValueError if a name is not among the known ones; the message gives the nearest and the list."""
    known = list(available)
    if requested not in known:
        raise ValueError(unknown("name", requested, known))


def mkdir_if_missing(dirname: str) -> None:
    """Makes a folder and its parents; one that exists is left alone."""
    Path(dirname).mkdir(parents=True, exist_ok=True)


def check_isfile(fpath: str) -> bool:
    """Whether there is such a file; if not, a warning names it."""
    found = os.path.isfile(fpath)
    if not found:
        warnings.warn(f"No file found at {fpath!r}", stacklevel=3)
    return found


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """The names in a folder without those that begin with a dot, in the file system's order or in the alphabet's."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def tolist_if_not(x: Any) -> list[Any]:
    """A list as it is; anything else as the only item of one."""
    return x if isinstance(x, list) else [x]


def read_json(fpath: str) -> Any:
    """The content of a JSON file; see `xcoop.utils.files`."""
    return reading.read_json(fpath)


def write_json(obj: Any, fpath: str) -> None:
    """Writes JSON with 4 spaces of indent; makes the folder; a reader never sees half a file."""
    files.atomic_write_text(fpath, json.dumps(obj, indent=4, separators=(",", ": ")))


def read_image(path: str) -> Image:
    """An image as 8-bit RGB; 16-bit greys are rescaled, not clipped.

    Raises:
        OSError: the file is missing or no image; the message names it.
    """
    from xcoop.utils.images import open_image

    return open_image(path)


def set_random_seed(seed: int) -> None:
    """Seeds Python, numpy, torch and every CUDA device."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def collect_env_info() -> str:
    """The versions of torch, CUDA, Python, the system and Pillow, one a line."""
    import PIL
    from torch.utils.collect_env import get_pretty_env_info

    return f"{get_pretty_env_info()}\n        Pillow ({PIL.__version__})"


class Logger:
    """A stream that writes to the console and to a file.

    For all else it is the console (`isatty`, `fileno`, `encoding`, ...), so that whoever asks the stream what it is
    hears the truth; and it never closes it.

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

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["console"], name)

    def write(self, msg: str) -> int:
        """Writes to both; the number of characters."""
        self.console.write(msg)
        if self.file is not None:
            try:
                self.file.write(msg)
            except OSError as error:  # a full disk, say: where?
                raise OSError(error.errno, error.strerror, self.file.name) from error
        return len(msg)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes several strings to both."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hands both over to the system."""
        self.console.flush()
        if self.file is not None:
            self.file.flush()

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

    def __exit__(self, *_: object) -> None:
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
