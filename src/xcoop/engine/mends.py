"""What current PyTorch, numpy and Python broke in the real Dassl and in copies of CLIP, mended in memory.

Nothing is written to their files. Each mend changes objects in place (the methods of a class, the code of a
function, a name of one of Dassl's modules), so it also reaches those who imported them earlier. Mending twice is the
same as mending once, and a Dassl that lacks what is to be mended (a fork, a later version) is left alone there.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

logger = logging.getLogger(__name__)

_WILDS = "dassl.data.datasets.dg.wilds"
_WILDS_BASE = f"{_WILDS}.wilds_base"


class Overlay(ModuleType):
    """A module as one of its users shall see it: the original, with a few names replaced.

    Args:
        original: the module; all other names are looked up there.
        names: what is replaced.
    """

    def __init__(self, original: ModuleType, **names: Any) -> None:
        super().__init__(original.__name__)
        self.__dict__.update(names, _original=original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_original"], name)


@contextmanager
def mending(module: ModuleType) -> Iterator[None]:
    """Surrounds the execution of a module of Dassl or CLIP, and mends it afterwards."""
    with _as_wilds_needs(module.__name__), _as_clip_needs(module.__name__):
        yield
    mend(module)


def mend_loaded() -> None:
    """Mends what was imported of Dassl before this package was."""
    for name in list(_MENDS):
        if name in sys.modules:
            mend(sys.modules[name])
    if _WILDS_BASE in sys.modules and logging.root.manager.disable == logging.WARNING:
        logging.disable(logging.NOTSET)


def mend(module: ModuleType) -> None:
    """Applies the mends of one module, if it has any."""
    apply = _MENDS.get(module.__name__)
    if apply is None:
        return
    try:
        apply(module)
    except AttributeError as error:  # another version of Dassl
        logger.debug("%s was not mended: %s", module.__name__, error)


def become(function: FunctionType, other: Callable[..., Any]) -> None:
    """Gives a function the code of another, so that all who hold it call the new one.

    Args:
        function: changed in place; its globals stay its own.
        other: needs no globals and no enclosing scope: what it uses, it imports itself.
    """
    function.__code__ = other.__code__
    function.__defaults__ = other.__defaults__
    function.__kwdefaults__ = other.__kwdefaults__


@contextmanager
def _as_wilds_needs(name: str) -> Iterator[None]:
    """Lets Dassl's WILDS readers be imported without `wilds` and pandas, and undoes their `logging.disable`."""
    if name != _WILDS_BASE and not name.startswith(f"{_WILDS}."):
        yield
        return
    level = logging.root.manager.disable
    stubs = {missing: _absent(missing) for missing in ("wilds", "pandas") if _is_absent(missing)}
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for missing in stubs:  # nobody else shall find them
            sys.modules.pop(missing, None)
        logging.disable(level)


@contextmanager
def _as_clip_needs(name: str) -> Iterator[None]:
    """Lets `from pkg_resources import packaging` work, by which many copies of CLIP compare versions.

    setuptools 70 dropped `packaging` from there, setuptools 82 pkg_resources. Nobody else sees the stand-in.
    """
    if not name.endswith("clip.clip") or _has_packaging():
        yield
        return
    stand_in: Any = ModuleType("pkg_resources")
    importlib.import_module("packaging.version")
    stand_in.packaging = sys.modules["packaging"]
    before = {there: module for there, module in sys.modules.items() if there == "pkg_resources"}
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
        sys.modules.update(before)


def _has_packaging() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and says so
        try:
            return hasattr(importlib.import_module("pkg_resources"), "packaging")
        except (ImportError, AttributeError):  # AttributeError: one that is too old for this Python
            return False


def _is_absent(name: str) -> bool:
    return name not in sys.modules and importlib.util.find_spec(name) is None


def _absent(name: str) -> ModuleType:
    """A module whose every function says that the real one is not installed."""

    def complain(*_: Any, **__: Any) -> None:
        raise ImportError(f"this dataset needs the package {name!r}: pip install {name}")

    stub = ModuleType(name)
    stub.__dict__["__getattr__"] = lambda attribute: complain
    return stub


# Learning rates: `verbose` is gone from torch's schedulers, and a scheduler object does not belong in a checkpoint.


def _mend_schedulers(module: Any) -> None:
    from xcoop.engine import warmup

    base = module._BaseWarmupScheduler
    base.__init__ = warmup.init
    base.state_dict = warmup.state_dict
    base.load_state_dict = warmup.load_state_dict


# Files: safe reading of checkpoints, images of 16 bits.


def _mend_torchtools(module: Any) -> None:
    become(module.load_checkpoint, _load_checkpoint)


def _load_checkpoint(fpath: str) -> Any:
    from xcoop.engine.checkpoint import load_checkpoint as load

    return load(fpath)


def _mend_tools(module: Any) -> None:
    become(module.read_image, _read_image)


def _read_image(path: str) -> Any:
    from xcoop.engine.mends import read_any_depth as read

    return read(path)


def read_any_depth(path: str) -> Any:
    """An image as RGB, as Dassl reads it; but greys of more than 8 bits are rescaled instead of clipped."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode != "F" and not image.mode.startswith("I"):
            return image.convert("RGB")
    from xcoop.utils.images import open_image

    return open_image(path)


# Numpy: `np.int` is gone; a pickled array is not read back safely.


def _mend_numpy(module: Any) -> None:
    if not hasattr(module.np, "int"):
        module.np = Overlay(module.np, int=int)


def _mend_evaluator(module: Any) -> None:
    if not isinstance(module.torch, Overlay):
        module.torch = Overlay(module.torch, save=_save_as_tensor)


def _save_as_tensor(obj: Any, path: str) -> None:
    import numpy as np
    import torch

    torch.save(torch.from_numpy(obj) if isinstance(obj, np.ndarray) else obj, path)


# Accuracy: a view of a tensor that is not contiguous any more, for k > 1.


def _mend_accuracy(module: Any) -> None:
    become(module.compute_accuracy, _compute_accuracy)


def _compute_accuracy(output: Any, target: Any, topk: tuple[int, ...] = (1,)) -> Any:
    from xcoop.engine.meters import compute_accuracy as compute

    return compute(output, target, topk)


# The console: whoever asks the log's stream whether it is a terminal gets an answer.


def _mend_logger(module: Any) -> None:
    from xcoop.engine.logger import Logger

    for name in ("encoding", "errors", "closed", "isatty", "fileno", "writable", "readable", "seekable", "close"):
        setattr(module.Logger, name, Logger.__dict__[name])


_MENDS: dict[str, Callable[[Any], None]] = {
    "dassl.optim.lr_scheduler": _mend_schedulers,
    "dassl.utils.torchtools": _mend_torchtools,
    "dassl.utils.tools": _mend_tools,
    "dassl.data.transforms.autoaugment": _mend_numpy,
    "dassl.data.transforms.randaugment": _mend_numpy,
    "dassl.evaluation.evaluator": _mend_evaluator,
    "dassl.metrics.accuracy": _mend_accuracy,
    "dassl.utils.logger": _mend_logger,
}
