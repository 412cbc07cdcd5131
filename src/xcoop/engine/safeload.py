"""Reading checkpoints of any origin without executing anything in them.

`torch.load(..., weights_only=True)` takes tensors and plain containers. A checkpoint that Dassl wrote after a warm-up
holds more: the scheduler object, and through it a copy of the optimiser. These few classes are let in, not as
themselves but as inert stand-ins: objects of an empty class that only keep the state they were saved with.
"""

from __future__ import annotations

import io
import logging
import re
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from xcoop.utils.files import atomic_write_bytes, check_archive, is_sealed, sealed

logger = logging.getLogger(__name__)

_OPTIMISERS = {
    "torch.optim.sgd": ("SGD",),
    "torch.optim.adam": ("Adam",),
    "torch.optim.adamw": ("AdamW",),
    "torch.optim.rmsprop": ("RMSprop",),
    "torch.optim.radam": ("RAdam",),
    "dassl.optim.radam": ("RAdam", "PlainRAdam", "AdamW"),
}
_SCHEDULERS = {
    "torch.optim.lr_scheduler": ("CosineAnnealingLR", "StepLR", "MultiStepLR", "LambdaLR"),
    "dassl.optim.lr_scheduler": ("ConstantWarmupScheduler", "LinearWarmupScheduler"),
}
_STRUCT_CODES = {"f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "b1": "?"}

# In torch's message: the name of what it refused.
_FOREIGN = re.compile(r"GLOBAL '?([\w.]+)'?|(?:class|function|type) <(?:class|built-in function) '?([\w.]+)'?>")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or must not be."""


class Inert:
    """What stands for a foreign object: its saved attributes, and nothing that runs."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class NumpyDtype:
    """What stands for `numpy.dtype`: its code ("f8")."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "<"


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
        with _allowing(_stand_ins()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged or hostile file sets off
        raise CheckpointError(_explain(path, error)) from error


def write(content: Any, path: str | Path) -> None:
    """Writes a checkpoint, whole or not at all, with a checksum that `read` compares and others pass over.

    Raises:
        OSError: it cannot be written; an older one is still there.
    """
    buffer = io.BytesIO()  # a full disk makes torch.save itself fail with a RuntimeError about its own archive
    torch.save(content, buffer)
    atomic_write_bytes(path, sealed(buffer.getvalue()))


def _explain(path: str | Path, error: Exception) -> str:
    """One message out of torch's many lines, which also advise what should not be done."""
    if found := _FOREIGN.search(str(error)):
        name = found.group(1) or found.group(2)
        return (
            f"{path} was not loaded: it refers to {name!r}, which is neither data nor one of the known optimiser and "
            "scheduler classes. Nothing of it was executed. Such a file may be hostile; if you made it yourself, save "
            "only tensors, numbers and strings."
        )
    reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    reason = reason.splitlines()[0].partition(". ")[0]
    return f"{path} cannot be read: it is damaged, incomplete or no checkpoint ({reason})"


def _stand_ins() -> dict[str, Any]:
    """Dotted name in a checkpoint -> what stands for it."""
    inert = {
        f"{module}.{name}": _named(type(name, (Inert,), {}), module, name)
        for known in (_OPTIMISERS, _SCHEDULERS)
        for module, names in known.items()
        for name in names
    }
    # A defaultdict comes back as a plain dictionary, which is all that a reader of a state needs.
    plain = {
        "collections.defaultdict": _named(lambda *_: {}, "collections", "defaultdict"),
        "builtins.dict": dict,
        "numpy.dtype": _named(type("dtype", (NumpyDtype,), {}), "numpy", "dtype"),
    }
    scalars = {
        f"{module}.scalar": _named(lambda dtype, data: _number(dtype, data), module, "scalar")
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    }
    return inert | plain | scalars


def _named(thing: Any, module: str, name: str) -> Any:
    """The thing under the name by which torch's list of allowed objects will find it."""
    thing.__module__, thing.__qualname__, thing.__name__ = module, name, name
    return thing


def _number(dtype: Any, data: bytes | str) -> float | int | bool:
    """A numpy scalar as a Python number.

    Raises:
        ValueError: it is of a kind that no checkpoint needs.
    """
    code = _STRUCT_CODES.get(getattr(dtype, "code", ""))
    if code is None:
        raise ValueError(f"a numpy scalar of type {getattr(dtype, 'code', dtype)!r}")
    raw = data.encode("latin1") if isinstance(data, str) else data
    number: float | int | bool = struct.unpack(dtype.order + code, raw)[0]
    return number


def _allowing(stand_ins: dict[str, Any]) -> AbstractContextManager[Any]:
    """Lets the stand-ins, and nothing else, into `torch.load` while the context lasts."""
    if hasattr(torch.serialization, "safe_globals"):  # torch 2.5
        return torch.serialization.safe_globals(list(stand_ins.values()))
    return _older_torch(stand_ins)


@contextmanager
def _older_torch(stand_ins: dict[str, Any]) -> Iterator[None]:
    """The same for a torch whose list of allowed objects cannot be added to."""
    from xcoop.engine import safeload_old

    serialization: Any = torch.serialization
    own = serialization._weights_only_unpickler
    serialization._weights_only_unpickler = safeload_old.unpickler_module(own, stand_ins)
    try:
        yield
    finally:
        serialization._weights_only_unpickler = own
