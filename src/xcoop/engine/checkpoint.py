"""Checkpoints in Dassl's layout: `<folder>/model.pth.tar-<E>`, and beside it `checkpoint` with the newest's name.

A checkpoint holds the model's state, the number of finished epochs, the states of optimiser and scheduler, the
validation result, and the states of the random generators, so that a resumed training goes on as if it had never
stopped. Files are whole or absent, whenever the process dies: the pointer is written after the file it names.

They are read, whoever wrote them, without executing anything in them. `torch.load(..., weights_only=True)` takes
tensors and plain containers. A checkpoint that Dassl wrote after a warm-up holds more: the scheduler object, and
through it a copy of the optimiser. These few classes are let in, not as themselves but as inert stand-ins: objects of
an empty class that only keep the state they were saved with.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import shutil
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xcoop.engine.tools import restore_rng, rng_state
from xcoop.utils import files
from xcoop.utils.console import LONGEST_PATH, cut, shown, unknown
from xcoop.utils.reading import read_bytes

logger = logging.getLogger(__name__)

BEST = "model-best.pth.tar"
POINTER = "checkpoint"

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


# Reading and writing one file.


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
    """A numpy scalar as a Python number; ValueError if it is of a kind that no checkpoint needs."""
    if not isinstance(dtype, NumpyDtype) or dtype.code not in _STRUCT_CODES:
        raise ValueError(f"a numpy scalar of type {dtype.code if isinstance(dtype, NumpyDtype) else dtype!r}")
    raw = data.encode("latin1") if isinstance(data, str) else data
    number: float | int | bool = struct.unpack(dtype.order + _STRUCT_CODES[dtype.code], raw)[0]
    return number


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


def read(path: str | Path) -> Any:
    """The content of a file that `torch.save` wrote, with all tensors on the CPU.

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
    files.atomic_write_bytes(path, sealed(buffer.getvalue()))


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


# A folder of checkpoints.


def epoch_file(epoch: int) -> str:
    """The file name of the checkpoint after so many epochs."""
    return f"model.pth.tar-{epoch}"


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Writes a checkpoint, then the pointer to it.

    Args:
        state: at least `state_dict` and `epoch` (finished epochs).
        save_dir: the folder, made if missing.
        is_best: copy it to `model-best.pth.tar` too.
        remove_module_from_keys: strip the "module." that DataParallel adds.
        model_name: the file's name; "" is `model.pth.tar-<epoch>`.
    """
    state = {"rng": rng_state(), **state}
    if remove_module_from_keys:
        state["state_dict"] = _without_module(state["state_dict"])
    name = model_name or epoch_file(state["epoch"])
    path = os.path.join(save_dir, name)
    write(state, path)
    files.atomic_write_text(os.path.join(save_dir, POINTER), f"{name}\n")
    print(f"Checkpoint saved to {path}")
    if is_best:
        with files.atomic_path(os.path.join(save_dir, BEST)) as temporary:
            shutil.copy(path, temporary)
        print(f"Best checkpoint saved to {os.path.join(save_dir, BEST)}")


def load_checkpoint(fpath: str) -> Any:
    """The content of a checkpoint; see `read`. ValueError without a path, FileNotFoundError without a file."""
    if fpath is None:
        raise ValueError("no path of a checkpoint is given (None)")
    if not os.path.exists(fpath):
        raise FileNotFoundError(f"no checkpoint at {fpath!r}")
    return read(fpath)


def newest(fdir: str) -> str:
    """The path of the checkpoint that was written last into a folder; "" if there is none.

    Raises:
        FileNotFoundError: the pointer names a file that is gone.
    """
    pointer = Path(fdir, POINTER)
    if not pointer.is_file():
        return ""
    name = read_bytes(pointer, LONGEST_PATH).decode("utf-8", "replace").strip()
    path = os.path.join(fdir, name)
    if os.path.basename(name) != name or not os.path.isfile(path):
        raise FileNotFoundError(f"{pointer} names {shown(name)}, which is not in that folder")
    return path


def resume_from_checkpoint(
    fdir: str, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None
) -> int:
    """Puts everything back to where the newest checkpoint of a folder left it; how many epochs were finished.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    path = newest(fdir)
    if not path:
        raise FileNotFoundError(f"no file {POINTER!r} in {fdir}: nothing to resume from")
    print(f'Loading checkpoint from "{path}"')
    checkpoint = load_checkpoint(path)
    restore(checkpoint, model, optimizer, scheduler)
    return int(checkpoint["epoch"])


def restore(
    checkpoint: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None
) -> None:
    """Puts everything back to where a checkpoint left it; names and shapes of the model's state must fit exactly."""
    inner = model.module if isinstance(model, nn.DataParallel) else model
    inner.load_state_dict(checkpoint["state_dict"])
    print("Loaded model weights")
    for name, part in (("optimizer", optimizer), ("scheduler", scheduler)):
        if part is not None and checkpoint.get(name) is not None:
            part.load_state_dict(checkpoint[name])
            print(f"Loaded {name}")
    if "rng" in checkpoint:
        restore_rng(checkpoint["rng"])
    print(f"Previous epoch: {checkpoint['epoch']}")


# Models.


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Loads, in place, those weights of a file that fit the model in name and shape; warns if none does.

    Args:
        model: changed in place.
        weight_path: a checkpoint (its `state_dict` is used) or a bare state dict.
    """
    content = load_checkpoint(weight_path)
    given = _without_module(content.get("state_dict", content))
    own = model.state_dict()
    fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        warnings.warn(f"{weight_path}: not one of its {len(given)} weights fits the model", stacklevel=2)
        return
    model.load_state_dict({**own, **fitting})
    print(f"Successfully loaded pretrained weights from {weight_path}")
    left = sorted(set(given) - set(fitting))
    if left:
        print(f"Weights left out, since the name or the shape does not fit: {left}")


def count_num_param(model: nn.Module | None = None, params: Any = None) -> int:
    """The number of parameters of a model, of one tensor, or of several (of groups, too)."""
    if model is not None:
        params = model.parameters()
    if params is None:
        raise ValueError("neither a model nor parameters to count")
    if isinstance(params, Tensor):
        return params.numel()
    return sum(count_num_param(params=p["params"] if isinstance(p, dict) else p) for p in params)


def open_all_layers(model: nn.Module) -> None:
    """All layers in train mode, all parameters with gradients."""
    model.train().requires_grad_(True)


def open_specified_layers(model: nn.Module, open_layers: str | Iterable[str]) -> None:
    """Train mode and gradients for the named top-level layers; eval mode and none for the others."""
    inner = model.module if isinstance(model, nn.DataParallel) else model
    names = [open_layers] if isinstance(open_layers, str) else list(open_layers)
    layers = dict(inner.named_children())
    for name in names:
        if name not in layers:
            raise ValueError(unknown("layer", name, layers))
    for name, layer in layers.items():
        layer.train(name in names).requires_grad_(name in names)


def _without_module(state_dict: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The state without the leading "module." that DataParallel adds to its keys."""
    return OrderedDict((key.removeprefix("module."), value) for key, value in state_dict.items())
