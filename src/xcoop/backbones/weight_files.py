"""State dicts from files: `.safetensors`, `torch.save`, TorchScript archives. Nothing that a file holds is executed."""

from __future__ import annotations

import pickle
import re
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from xcoop.engine.checkpoint import check_archive

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
WRAPPINGS = ("state_dict", "model_state_dict", "model")  # under which a training keeps the weights among other things
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile, and a model in a model
ROWS = "token_embedding.rows"  # the mark of the phantom's weights: only the used rows are stored


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file: `.safetensors`, a `torch.save` file, or one of OpenAI's TorchScript archives.

    Args:
        path: the file; what lies under one of `WRAPPINGS`, and names that all begin with one of `PREFIXES`, are
            unwrapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or holds no state dict; the message names it.
    """
    path = weights_file(path)
    if path.suffix == ".safetensors":
        return _bare(_read_safetensors(path))
    try:
        is_torchscript = check_archive(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as weights (nothing in it was executed): {error}") from error
    if is_torchscript:
        return read_torchscript(path)
    content = _unwrapped(_read_pickle(path))
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no state dict, but {type(content).__name__}")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(f"{path} holds no state dict: its entry {name!r} is no tensor")
    return _bare(dict(content))


def weights_file(path: str | Path) -> Path:
    """The path of a file that is there; else FileNotFoundError."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}; MODEL.BACKBONE.PATH takes a .safetensors, .pt or .pth file")
    return path


def read_tensor(path: Path) -> Tensor:
    """The one tensor that a `torch.save` file holds.

    Raises:
        ValueError: it cannot be read, or holds anything else than a plain tensor of numbers.
    """
    try:
        check_archive(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as weights (nothing in it was executed): {error}") from error
    content = _read_pickle(path)
    if not isinstance(content, Tensor):
        raise ValueError(f"{path} holds {type(content).__name__}, not one tensor")
    require_stored(content, path.stem, str(path))
    if content.layout is not torch.strided or content.is_meta or content.is_quantized:
        raise ValueError(f"{path} holds no plain tensor of numbers")
    return content


def require_stored(tensor: Tensor, name: str, source: str) -> None:
    """Refuses a view that repeats a few numbers: it could claim any size, and every copy of it would have that size.

    Raises:
        ValueError: the tensor is larger than what is stored of it.
    """
    if tensor.layout is torch.strided and tensor.numel() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{source}: {name!r} of shape {tuple(tensor.shape)} is larger than what is stored of it")


def _unwrapped(content: Any) -> Any:
    """What lies under the names that a training gives its weights; each of them once."""
    for _ in WRAPPINGS:
        inner = [content[key] for key in WRAPPINGS if isinstance(content, Mapping) and key in content]
        content = next((one for one in inner if isinstance(one, Mapping)), content)
    return content


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without prefixes that all of its names have."""
    while state and (prefix := next((one for one in PREFIXES if all(name.startswith(one) for name in state)), "")):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            sparse = ROWS in file.keys()  # noqa: SIM118 - the file object is no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if not sparse:
        return load_file(path)
    from xcoop.backbones.phantom import load_state_dict  # the writer of this form also reads it

    return load_state_dict(path)


def _read_pickle(path: Path) -> Any:
    if tarfile.is_tarfile(path):
        # No CLIP was ever saved in the tar form of the oldest releases, and torch before 2.6 reads it unsafely.
        raise ValueError(f"{path} is a tar file; save the weights again, as .safetensors or with torch.save")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler stumbles over: the file is damaged, or not meant for this
        text = str(error).strip()
        if isinstance(error, pickle.UnpicklingError):  # what torch says beside it is advice to load the file unsafely
            text = text.partition("WeightsUnpickler error: ")[2].strip() or "it is no pickle of plain weights"
        reason = (text or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")[:300]
        raise ValueError(
            f"{path} cannot be read as weights (nothing in it was executed): {reason}. "
            "It should be a state dict saved with torch.save or as .safetensors, or OpenAI's own .pt file."
        ) from error


# TorchScript archives, the form in which OpenAI publishes its own weights, read as data: nothing of them runs.
#
# Such an archive is a zip file with a pickle of objects (`data.pkl`), the bytes of their tensors (`data/<key>`), and
# the source of their classes (`code/`), which TorchScript would compile, and run where a class restores itself. Here
# the pickle is read by an unpickler that knows tensors, plain containers and nameless objects; of the source, only
# which attributes of a class are parameters and buffers.

MOST_WEIGHTS, DEEPEST = 100_000, 50  # tensors, and modules within each other; CLIP has some hundreds, and six
PIECE = 1 << 20  # bytes

# What TorchScript's own pickler writes; all else of the language of pickles is left out.
_OPCODES = (
    *(pickle.PROTO, pickle.GLOBAL, pickle.NEWOBJ, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID, pickle.STOP),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET, pickle.MARK, pickle.BINUNICODE),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.BINFLOAT, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
)
_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_PLAIN = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  __(?:parameters|buffers)__ = \[.*\]\n)+)", re.MULTILINE)

_Base: Any = pickle._Unpickler  # the one in Python: its opcodes can be taken away


class _Thing:
    """An object of the archive: the name of its class, and its attributes."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.attributes: dict[Any, Any] = {}


class _Name(str):
    """A class or function that the pickle refers to; never the thing itself."""


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of an archive, under the names that its `state_dict()` would give.

    Raises:
        ValueError: it is damaged, refers to anything but tensors and plain data, or has a class that restores itself;
            the message names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (top,) = [
                name.removesuffix("data.pkl") for name in archive.namelist() if name.partition("/")[2] == "data.pkl"
            ]
            listed = _listed(archive, f"{top}code/")
            whole = _Unpickler(archive, top).load()
        return _weights(whole, listed)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged or hostile file sets off
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is a damaged TorchScript archive, or has more than weights: {reason}. Nothing in it was executed; "
            "save its state dict with torch.save or as .safetensors"
        ) from error


class _Unpickler(_Base):
    """Gives tensors, numbers, strings, containers and `_Thing`s."""

    dispatch: ClassVar[dict[int, Any]] = {code[0]: _Base.dispatch[code[0]] for code in _OPCODES}

    def __init__(self, archive: zipfile.ZipFile, top: str) -> None:
        super().__init__(BytesIO(archive.read(f"{top}data.pkl")))
        self.archive, self.top = archive, top
        self.storages: dict[str, Tensor] = {}
        order = archive.read(f"{top}byteorder").decode() if f"{top}byteorder" in archive.namelist() else "little"
        if order != sys.byteorder:
            raise ValueError(f"its numbers are written for {order}-endian machines")

    def find_class(self, module: str, name: str) -> _Name:
        """The name alone."""
        return _Name(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage, as a flat tensor."""
        kind, name, key, _, count = pid
        dtype = _STORAGES.get(name)
        if kind != "storage" or dtype is None:
            raise ValueError(f"its storage {str(key)[:50]!r} is of the kind {str(name)[:100]!r}")
        if key not in self.storages:
            entry = self.archive.getinfo(f"{self.top}data/{key}")
            size = entry.file_size
            if size != count * dtype.itemsize:
                raise ValueError(f"data/{key} has {size:,} bytes, and {count:,} numbers of {dtype} are stated")
            data = bytearray(size)  # `check_archive` has held the sum of these against the size of the file
            done = 0
            with self.archive.open(entry) as file:  # in pieces, so that it is not there twice
                while piece := file.read(PIECE):
                    data[done : done + len(piece)] = piece
                    done += len(piece)
            if done != size:
                raise ValueError(f"data/{key} ends {size - done:,} bytes early")
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.zeros(0, dtype=dtype)
        return self.storages[key]

    def load_newobj(self) -> None:
        """An object without attributes so far."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        if type(kind) is not _Name or not kind.startswith("__torch__.") or arguments != ():
            raise ValueError(f"it makes an object of {str(kind)[:100]!r}")
        self.append(_Thing(kind))

    def load_reduce(self) -> None:
        """A call of one of the few functions that are known, done here instead."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Name or type(arguments) is not tuple:
            raise ValueError("it calls what is no function")
        if function == "collections.OrderedDict" and arguments == ():
            self.append({})
        elif function in [f"torch.jit._pickle.{name}" for name in _PLAIN]:
            self.append(arguments[0])
        elif function == "torch._utils._rebuild_tensor_v2":
            storage, offset, size, stride = arguments[:4]
            self.append(torch.as_strided(storage, size, stride, offset))  # refuses what lies outside
        else:
            raise ValueError(f"it calls {function[:100]!r}")

    def load_build(self) -> None:
        """Gives an object its attributes."""
        attributes, thing = self.stack.pop(), self.stack[-1]
        if type(thing) is not _Thing or type(attributes) is not dict:
            raise ValueError("an object of it is restored from something else than its attributes")
        thing.attributes = attributes

    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build


def _listed(archive: zipfile.ZipFile, code: str) -> dict[str, set[str]]:
    """The parameters and buffers of each class by its dotted name, as far as its source has both lists."""
    listed: dict[str, set[str]] = {}
    for name in archive.namelist():
        if not (name.startswith(code) and name.endswith(".py")):
            continue
        source = archive.read(name).decode()
        if "def __setstate__(" in source:
            raise ValueError(f"{name} has a method __setstate__, which would have to be run")
        module = name[len(code) : -3].replace("/", ".")
        for kind, lists in _CLASS.findall(source):
            if "__buffers__" in lists:
                listed[f"{module}.{kind}"] = set(re.findall(r'"([^"]*)"', lists))
    return listed


def _weights(whole: Any, listed: dict[str, set[str]]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    open_ends = [(whole, "", 0)]
    while open_ends:
        thing, prefix, depth = open_ends.pop()
        if type(thing) is not _Thing:
            raise ValueError(f"it holds no modules, but {type(thing).__name__}")
        if depth > DEEPEST or len(found) + len(open_ends) > MOST_WEIGHTS:
            raise ValueError(f"more than {MOST_WEIGHTS:,} weights, or modules more than {DEEPEST} deep")
        own = listed.get(thing.kind)
        for name, value in thing.attributes.items():
            if type(value) is _Thing:
                open_ends.append((value, f"{prefix}{name}.", depth + 1))
            elif isinstance(value, Tensor) and (own is None or name in own):
                found[f"{prefix}{name}"] = value
    return found
