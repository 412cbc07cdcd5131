"""What current PyTorch, numpy and Python broke in the real Dassl, patched in memory.

Nothing is written to their files. Each patch changes objects in place (the methods of a class, the code of a
function, a name of one of Dassl's modules), so it also reaches those who imported them earlier. Patching twice is the
same as patching once, and a Dassl that lacks what is to be patched (a fork, a later version) is left alone there.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

from xcoop.utils.console import to_paste

logger = logging.getLogger(__name__)

_WILDS = "dassl.data.datasets.dg.wilds"
_WILDS_BASE = f"{_WILDS}.wilds_base"


class Overlay(ModuleType):
    """A module as one of its users shall see it: the original, with a few names replaced."""

    def __init__(self, original: ModuleType, **names: Any) -> None:
        super().__init__(original.__name__)
        self.__dict__.update(names, _original=original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_original"], name)


@contextmanager
def patching(module: ModuleType) -> Iterator[None]:
    """Surrounds the execution of a module of Dassl, and patches it afterwards."""
    with _wilds_stood_in_for(module.__name__):
        yield
    patch(module)


def patch_loaded() -> None:
    """Patches what was imported of Dassl before this package was."""
    for name in list(PATCHES):
        if name in sys.modules:
            patch(sys.modules[name])
    if _WILDS_BASE in sys.modules and logging.root.manager.disable == logging.WARNING:
        logging.disable(logging.NOTSET)


def patch(module: ModuleType) -> None:
    """Applies the patch of one module, if it has any."""
    try:
        PATCHES.get(module.__name__, bool)(module)
    except AttributeError as error:  # another version of Dassl
        logger.debug("%s was not patched: %s", module.__name__, error)


def become(function: FunctionType, other: Callable[..., Any]) -> None:
    """Gives a function the code of another, so that all who hold it call the new one.

    Its globals stay its own: the other one imports itself what it uses.
    """
    function.__code__ = other.__code__
    function.__defaults__ = other.__defaults__
    function.__kwdefaults__ = other.__kwdefaults__


@contextmanager
def _wilds_stood_in_for(name: str) -> Iterator[None]:
    """Lets Dassl's WILDS readers be imported without `wilds` and pandas, and undoes their `logging.disable`."""
    if name != _WILDS_BASE and not name.startswith(f"{_WILDS}."):
        yield
        return
    level = logging.root.manager.disable
    stubs = {}
    for missing in ("wilds", "pandas"):
        if missing not in sys.modules and importlib.util.find_spec(missing) is None:
            stubs[missing] = ModuleType(missing)
            stubs[missing].__dict__["__getattr__"] = lambda _, missing=missing: _complaint(missing)
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for missing in stubs:  # nobody else shall find them
            sys.modules.pop(missing, None)
        logging.disable(level)


def _complaint(missing: str) -> Callable[..., None]:
    """A function that says that a package is not installed."""

    def complain(*_: Any, **__: Any) -> None:
        raise ImportError(f"this dataset needs the package {missing!r}: {to_paste('pip', 'install', missing)}")

    return complain


# Warm-up. Such a scheduler drives the rates until epoch W, and a successor (a scheduler of torch) from then on. Dassl
# passes `verbose`, which torch does not take any more, and puts the successor itself into the checkpoint: after a
# resume the restored object drives a restored copy of the optimiser, and the real one's rate never changes again. Here
# the successor's numbers are stored, and go back into the successor that the resumed run built.


def _patch_schedulers(module: Any) -> None:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    def init(
        self: Any, optimizer: Optimizer, successor: Any, warmup_epoch: int, last_epoch: int = -1, verbose: bool = False
    ) -> None:
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        LRScheduler.__init__(self, optimizer, last_epoch)

    def numbers(scheduler: Any) -> dict[str, Any]:
        """The attributes that are numbers, or lists or tables of them; no links and no wrapped methods."""
        plain = (bool, int, float, list, tuple, dict, type(None))
        own = {name: value for name, value in vars(scheduler).items() if name not in ("optimizer", "successor")}
        return {
            name: dict(value) if isinstance(value, dict) else value
            for name, value in own.items()
            if isinstance(value, plain)
        }

    def state_dict(self: Any) -> dict[str, Any]:
        return {**numbers(self), "successor": numbers(self.successor)}

    def load_state_dict(self: Any, state: dict[str, Any]) -> None:
        """Goes on from such a state, from one of an older Dassl (the successor is an object), or of our own engine.

        Only the counters are taken over: the shape of the schedule is that of the config of the resumed run.
        """
        if "successor" in state:
            successor = state["successor"]
            saved = successor if isinstance(successor, dict) else vars(successor)
            for name in ("last_epoch", "_step_count", "_last_lr"):
                self.__dict__.update({name: state[name]} if name in state else {})
                self.successor.__dict__.update({name: saved[name]} if name in saved else {})
        else:
            self.last_epoch = min(state["last_epoch"], self.warmup_epoch)
            self._step_count = self.last_epoch + 1
            self.successor.last_epoch += state["last_epoch"] - self.last_epoch
            self._last_lr = self.successor._last_lr = list(state["_last_lr"])

    base = module._BaseWarmupScheduler
    if base.__init__.__module__ != __name__:  # patched twice is patched once
        base.__init__, base.state_dict, base.load_state_dict = init, state_dict, load_state_dict


# Files: safe reading of checkpoints, images of 16 bits.


def _patch_torchtools(module: Any) -> None:
    def load_checkpoint(fpath: str) -> Any:
        from xcoop.engine.checkpoint import load_checkpoint as load

        return load(fpath)

    become(module.load_checkpoint, load_checkpoint)


def _patch_tools(module: Any) -> None:
    def read_image(path: str) -> Any:
        from xcoop.engine.patches import read_any_depth as read
        from xcoop.utils.image_memory import kept

        return kept(path, read)

    become(module.read_image, read_image)


def read_any_depth(path: str) -> Any:
    """An image as RGB, as Dassl reads it; but greys of more than 8 bits are rescaled instead of clipped."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode != "F" and not image.mode.startswith("I"):
            return image.convert("RGB")
    from xcoop.utils.images import open_image

    return open_image(path)


# Numpy: `np.int` is gone; a pickled array is not read back safely.


def _patch_numpy(module: Any) -> None:
    if not hasattr(module.np, "int"):
        module.np = Overlay(module.np, int=int)


def _patch_evaluator(module: Any) -> None:
    def save_as_tensor(obj: Any, path: str) -> None:
        import numpy as np
        import torch

        torch.save(torch.from_numpy(obj) if isinstance(obj, np.ndarray) else obj, path)

    if not isinstance(module.torch, Overlay):
        module.torch = Overlay(module.torch, save=save_as_tensor)


# Accuracy: a view of a tensor that is not contiguous any more, for k > 1.


def _patch_accuracy(module: Any) -> None:
    def compute_accuracy(output: Any, target: Any, topk: tuple[int, ...] = (1,)) -> Any:
        from xcoop.engine.parts import compute_accuracy as compute

        return compute(output, target, topk)

    become(module.compute_accuracy, compute_accuracy)


# The console: whoever asks the log's stream whether it is a terminal gets an answer, and nobody closes it.


def _patch_logger(module: Any) -> None:
    from xcoop.engine.tools import Logger

    for name in ("__getattr__", "close"):
        setattr(module.Logger, name, Logger.__dict__[name])


PATCHES: dict[str, Callable[[Any], None]] = {
    "dassl.optim.lr_scheduler": _patch_schedulers,
    "dassl.utils.torchtools": _patch_torchtools,
    "dassl.utils.tools": _patch_tools,
    "dassl.data.transforms.autoaugment": _patch_numpy,
    "dassl.data.transforms.randaugment": _patch_numpy,
    "dassl.evaluation.evaluator": _patch_evaluator,
    "dassl.metrics.accuracy": _patch_accuracy,
    "dassl.utils.logger": _patch_logger,
}
