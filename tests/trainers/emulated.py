"""A CUDA graph without a device: operations are recorded with the memory they read and write, and done again there.

What a CUDA graph freezes is frozen here, too: every number that is no tensor, every decision of Python, and the memory
of all tensors. What it refuses is refused: to read a number on the host, and sizes that depend on numbers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
HOST = {  # operations that wait for the device: for a number, or for a size
    *(aten._local_scalar_dense, aten.nonzero, aten.nonzero_static, aten.is_nonzero, aten.equal, aten.masked_select),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.repeat_interleave),
    aten.lift_fresh,  # of a tensor made of Python's numbers: it would have to be copied to the device
}
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


def tensors(*nested: Any) -> list[torch.Tensor]:
    """All tensors in nested lists and dictionaries."""
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, torch.Tensor)]


class Tape(TorchDispatchMode):
    """Records what is done, as a device would.

    Raises:
        RuntimeError: at an operation that waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, kwargs = func.overloadpacket, kwargs or {}
        flags = packet in INDEXED and any(one.dtype in (torch.bool, torch.uint8) for one in tensors(args[1]))
        if packet in HOST or flags:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        """Does all once more: what gave a new tensor then writes to the same one."""
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            fresh = [one.alias_info is None for one in func._schema.returns]
            if all(fresh):
                for old, new in zip(tensors(out), tensors(again), strict=True):
                    old.copy_(new)


class Emulated:
    """A `Recorder` for tests, which keeps what it recorded."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.warmed = self.replayed = 0

    def warm(self, work: Callable[[], Any]) -> Any:
        """Nothing else than the work."""
        self.warmed += 1
        return work()

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        """Records it; other than on a device, it is done."""
        with Tape() as tape:
            work()
        self.tapes.append(tape)

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return replay


class Again(Emulated):
    """A `Recorder` whose replay is the work itself: Python decides anew at each step."""

    def record(self, work: Callable[[], Any]) -> Callable[[], None]:
        """Has to be done once, as a recording is."""
        ...


def left(tape: Tape) -> list[weakref.ref[torch.Tensor]]:
    """References to what was made while a tape ran, which do not keep it alive."""
    return [weakref.ref(one) for *_, out in tape.calls for one in tensors(out)]
