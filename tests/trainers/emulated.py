"""A CUDA graph without a device: operations are recorded with the memory they read and write, and done again there.

What a CUDA graph freezes is frozen here, too: every number that is no tensor, every decision of Python, and where all
tensors lie. What a device refuses while it records is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xcoop.config.plugins import trainer_names, trains

TOWER = "its image tower is trained"
PLAIN = {"CLIPLoRA": TOWER, "MaPLe": TOWER, "PromptSRC": TOWER, "XCoOpReleased": TOWER}  # why no step is recorded
WITHOUT_STEPS = ("LinearProbe", "LPPlusPlus", "PCBM", "TipAdapter")
RECORDED = [name for name in trainer_names() if trains(name) and name not in (*PLAIN, *WITHOUT_STEPS)]

aten = torch.ops.aten
HOST = {  # operations that wait for the device: for a number, or for a size
    *(aten._local_scalar_dense, aten.nonzero, aten.nonzero_static, aten.is_nonzero, aten.equal, aten.masked_select),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.repeat_interleave),
    aten.lift_fresh,  # of a tensor made of Python's numbers, which has to be copied to the device
}
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


def tensors(*nested: Any) -> list[torch.Tensor]:
    """All tensors in nested lists and dictionaries."""
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, torch.Tensor)]


class OnDevice(TorchDispatchMode):
    """Refuses what a device refuses while it records.

    Raises:
        RuntimeError: at an operation that waits for the device, or copies between it and the host.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, kwargs = func.overloadpacket, kwargs or {}
        flags = packet in INDEXED and any(one.dtype in (torch.bool, torch.uint8) for one in tensors(args[1]))
        if packet in HOST or flags:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        out = func(*args, **kwargs)
        if packet is aten._to_copy and out.device != args[0].device:
            raise RuntimeError(f"copied from {args[0].device} to {out.device} when stream is capturing")
        self.done(func, args, kwargs, out)
        return out

    def done(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Is told of each operation, after it."""


class Tape(OnDevice):
    """Records what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def done(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Keeps it, and with it all memory that it is about."""
        self.calls.append((func, args, kwargs, out))

    @torch.no_grad()
    def replay(self) -> None:
        """Does all once more; what gave a new tensor writes to that one."""
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            if all(one.alias_info is None for one in func._schema.returns):
                for old, new in zip(tensors(out), tensors(again), strict=True):
                    old.copy_(new)


class Emulated:
    """A `Recorder` for tests; it counts what it is asked."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.warmed = self.replayed = 0

    def warm(self, work: Callable[[], Any]) -> Any:
        """Does the work."""
        self.warmed += 1
        return work()

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        """Records the work; other than on a device, it is done."""
        with Tape() as tape:
            work()
        self.tapes.append(tape)

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return replay


class Left(OnDevice):
    """Knows what was made, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[torch.Tensor]] = []

    def done(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Notes what it gave."""
        self.made += [weakref.ref(one) for one in tensors(out)]

    def alive(self) -> list[torch.Tensor]:
        """What is still there."""
        return [one for one in (reference() for reference in self.made) if one is not None]


def moved(model: nn.Module, where: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Puts other tensors in the place of a module's own, the same one for each that is there twice."""
    known: dict[int, Any] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in known:
                    new = where(tensor)
                    known[id(tensor)] = (
                        nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
                    )
                table[name] = known[id(tensor)]
