"""What Dassl calls `dassl.utils`, but for models: registries, meters, random generators, files, the log."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from xcoop.utils import files, reading
from xcoop.utils.console import unknown

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Registry:
    """Classes or functions under their own names; `name` is what it holds, for messages ("TRAINER")."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Registers `obj` under its `__name__`; without one, gives a decorator that does.

        Raises:
            KeyError: the name is taken, and `force` does not say to replace what has it.
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
        """The object of that name; KeyError with the nearest name if there is none."""
        if name not in self._objects:
            raise KeyError(unknown(f"name in the registry {self._name}:", name, self._objects))
        return self._objects[name]

    def build(self, name: str, cfg: Any, **more: Any) -> Any:
        """Makes what has that name from the config, and says so; ValueError with the nearest name if there is none."""
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


class AverageMeter:
    """The last value and the mean so far; with `ema` the mean forgets: the moving one with factor 0.9."""

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val: float | Tensor, n: int = 1) -> None:
        """Takes in a value: a number, or a tensor of one, that is the mean of `n` observations."""
        self.val = float(val)
        self.sum += self.val * n
        self.count += n
        self.avg = 0.9 * self.avg + 0.1 * self.val if self.ema else self.sum / max(self.count, 1)


class MetricMeter:
    """Several named means, and what stands between them in the text."""

    def __init__(self, delimiter: str = " ") -> None:
        self.delimiter = delimiter
        self.meters: dict[str, AverageMeter] = {}

    def update(self, input_dict: Mapping[str, float | Tensor] | None) -> None:
        """Takes in one value for each name; None is nothing new."""
        if not isinstance(input_dict, Mapping | None):
            raise TypeError(f"a summary is a dictionary of numbers, not {type(input_dict).__name__}")
        for name, value in (input_dict or {}).items():
            self.meters.setdefault(name, AverageMeter()).update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())


# Random generators: Python's, numpy's, torch's and those of the CUDA devices.


def set_random_seed(seed: int) -> None:
    """Seeds all of them."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def rng_state() -> dict[str, Any]:
    """Their states, as they can stand in a checkpoint: tensors, numbers and lists."""
    import numpy as np
    import torch

    version, internal, gauss = random.getstate()
    of_numpy: Any = np.random.get_state(legacy=False)
    return {
        "python": [version, list(internal), gauss],
        "numpy": {
            "key": torch.from_numpy(of_numpy["state"]["key"].astype(np.int64)),
            "pos": int(of_numpy["state"]["pos"]),
            "has_gauss": int(of_numpy["has_gauss"]),
            "gauss": float(of_numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Puts the generators back into a state of `rng_state`."""
    import numpy as np
    import torch

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    of_numpy = state["numpy"]
    key = of_numpy["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, of_numpy["pos"], of_numpy["has_gauss"], of_numpy["gauss"]))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([device.cpu() for device in state["cuda"]])


# Files.


def mkdir_if_missing(dirname: str) -> None:
    """Makes a folder and its parents; one that exists is left alone."""
    os.makedirs(dirname, exist_ok=True)


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
    """An image as 8-bit RGB; 16-bit greys are rescaled, not clipped. the error of an unreadable one names it."""
    from xcoop.utils.image_memory import kept
    from xcoop.utils.images import open_image

    return kept(path, open_image)


def collect_env_info() -> str:
    """The versions of torch, CUDA, Python, the system and Pillow, one a line."""
    import PIL
    from torch.utils.collect_env import get_pretty_env_info

    return f"{get_pretty_env_info()}\n        Pillow ({PIL.__version__})"


class Logger:
    """A stream that writes to the console and, with a path, to a file.

    For all else it is the console (`isatty`, `fileno`, `encoding`, ...), so that whoever asks the stream what it is
    hears the truth; and it never closes it.
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
