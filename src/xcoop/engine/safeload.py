"""Reading checkpoints of any origin without executing anything in them.

`torch.load(..., weights_only=True)` takes tensors and plain containers. A checkpoint that Dassl wrote after a warm-up
holds more: the scheduler object, and through it a copy of the optimiser. These few classes are let in, not as
themselves but as inert stand-ins: objects of an empty class that only keep the state they were saved with.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from xcoop.utils.console import cut
from xcoop.utils.files import atomic_write_bytes

logger = logging.getLogger(__name__)

_FOREIGN_CLASSES = {
    "torch.optim.sgd": ("SGD",),
    "torch.optim.adam": ("Adam",),
    "torch.optim.adamw": ("AdamW",),
    "torch.optim.rmsprop": ("RMSprop",),
    "torch.optim.radam": ("RAdam",),
    "torch.optim.lr_scheduler": ("CosineAnnealingLR", "StepLR", "MultiStepLR", "LambdaLR"),
    "dassl.optim.radam": ("RAdam", "PlainRAdam", "AdamW"),
    "dassl.optim.lr_scheduler": ("ConstantWarmupScheduler", "LinearWarmupScheduler"),
}
_STRUCT_CODES = {"f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "b1": "?"}
_END = b"PK\5\6"  # begins the last 22 bytes of a zip archive; the last two are the length of its comment
_SEALED = 22 + len("sha256:") + 64  # bytes of such an end with a seal
MOST_INFLATED = 4  # times its own size that an archive of weights may unpack to; torch.save does not compress

# In torch's message: the name of what it refused.
_REFUSED = re.compile(r"GLOBAL '?([\w.]+)'?|(?:class|function|type) <(?:class|built-in function) '?([\w.]+)'?>")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or must not be."""


class Inert:
    """What stands for a foreign object: its saved attributes, and nothing that runs."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class NumpyDtype:
    """What stands for `numpy.dtype`: its code ("f8") and its byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "<"


def numpy_scalar(dtype: Any, data: bytes | str) -> float | int | bool:
    """A numpy scalar as a Python number.

    Raises:
        ValueError: it is of a kind that no checkpoint needs.
    """
    if not isinstance(dtype, NumpyDtype) or dtype.code not in _STRUCT_CODES:
        raise ValueError(f"a numpy scalar of type {dtype.code if isinstance(dtype, NumpyDtype) else dtype!r}")
    raw = data.encode("latin1") if isinstance(data, str) else data
    number: float | int | bool = struct.unpack(dtype.order + _STRUCT_CODES[dtype.code], raw)[0]
    return number


def read(path: str | Path) -> Any:
    """The content of a checkpoint, with all tensors on the CPU.

    Args:
        path: a file that `torch.save` wrote.

    Raises:
        CheckpointError: it holds something that is neither data nor one of the known classes (the message names it),
            or it is damaged. Nothing of it was executed, and there is no unsafe second try.
    """
    try:
        if check_archive(path):
            raise ValueError("it is a TorchScript archive, which holds code")
        if not is_sealed(path):
            logger.warning("%s carries no checksum (another programme, or an older version, wrote it)", path)
        with torch.serialization.safe_globals(_stand_ins()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged or hostile file sets off
        # One message out of torch's many lines, which also advise what should not be done.
        if found := _REFUSED.search(str(error)):
            raise CheckpointError(
                f"{path} was not loaded: it refers to {found[1] or found[2]!r}, which is neither data nor one of the "
                "known optimiser and scheduler classes. Nothing of it was executed. Such a file may be hostile; if you "
                "made it yourself, save only tensors, numbers and strings."
            ) from error
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
        reason = reason.splitlines()[0].partition(". ")[0]
        raise CheckpointError(
            f"{path} cannot be read: it is damaged, incomplete or no checkpoint ({reason})"
        ) from error


def write(content: Any, path: str | Path) -> None:
    """Writes a checkpoint, whole or not at all, with a checksum that `read` compares and others pass over.

    Raises:
        OSError: it cannot be written; an older one is still there.
    """
    buffer = io.BytesIO()  # a full disk makes torch.save itself fail with a RuntimeError about its own archive
    torch.save(content, buffer)
    atomic_write_bytes(path, sealed(buffer.getvalue()))


def sealed(archive: bytes) -> bytes:
    """A zip archive with the SHA-256 of its bytes in its comment, which all readers of zip files pass over."""
    if archive[-22:-18] != _END or archive[-2:] != b"\0\0":
        raise ValueError("no zip archive without a comment")
    seal = b"sha256:" + hashlib.sha256(archive[:-2]).hexdigest().encode()
    return archive[:-2] + len(seal).to_bytes(2, "little") + seal


def is_sealed(path: str | os.PathLike[str]) -> bool:
    """Whether a file carries the hash that `sealed` gave it.

    Raises:
        ValueError: it does, and its content is not what was written; the message does not name the file.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(max(0, size - _SEALED))
        tail = file.read()
        if len(tail) < _SEALED or tail[:4] != _END:
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - _SEALED + 20
        while block := file.read(min(1 << 20, left)):
            digest.update(block)
            left -= len(block)
    if tail[22:] != b"sha256:" + digest.hexdigest().encode():
        raise ValueError("it is not what was written: its SHA-256 differs from the one that it carries")
    return True


def check_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a file of weights is a TorchScript archive, which holds code: `torch.load` before 2.6 would run it.

    Raises:
        ValueError: it is a zip archive that is damaged, has a name twice, or would unpack to far more than it holds;
            the message does not name the file.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK" and not zipfile.is_zipfile(path):
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"a damaged zip archive ({error})") from error
    names = Counter(entry.filename for entry in entries)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"it holds {cut(twice[0])!r} twice")
    size, inflated = os.path.getsize(path), sum(entry.file_size for entry in entries)
    if inflated > MOST_INFLATED * size + (1 << 20):
        raise ValueError(f"its {size:,} bytes would unpack to {inflated:,}: weights are not compressed like this")
    return any(name.rpartition("/")[2] == "constants.pkl" for name in names)


def _stand_ins() -> list[Any]:
    """What is let into `torch.load`, under the names by which checkpoints refer to it."""

    def named(thing: Any, module: str, name: str) -> Any:
        thing.__module__, thing.__qualname__, thing.__name__ = module, name, name
        return thing

    return [
        dict,
        # A defaultdict comes back as a plain dictionary, which is all that a reader of a state needs.
        named(lambda *_: {}, "collections", "defaultdict"),
        named(type("dtype", (NumpyDtype,), {}), "numpy", "dtype"),
        *(
            named(lambda dtype, data: numpy_scalar(dtype, data), module, "scalar")
            for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        ),
        *(
            named(type(name, (Inert,), {}), module, name)
            for module, names in _FOREIGN_CLASSES.items()
            for name in names
        ),
    ]
