"""The restricted unpickler for torch 2.2 to 2.4, which cannot be told about further allowed classes.

It looks names up in a fixed table, and never imports; it builds objects of the stand-ins' classes only.
"""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

_Base: Any = pickle._Unpickler


def unpickler_module(torchs_own: Any, stand_ins: dict[str, Any]) -> SimpleNamespace:
    """What takes the place of torch's module of the weights-only unpickler.

    Args:
        torchs_own: that module; its table of allowed objects is used.
        stand_ins: dotted name -> object, in addition to it.
    """
    import _codecs

    plain = {"_codecs.encode": _codecs.encode, "__builtin__.dict": dict, "collections.Counter": Counter}
    allowed = {**plain, **torchs_own._get_allowed_globals(), **stand_ins}
    buildable = tuple(thing for thing in stand_ins.values() if isinstance(thing, type) and thing is not dict)

    class Unpickler(_Base):
        """Knows the allowed names only."""

        dispatch: ClassVar[dict[int, Any]] = dict(_Base.dispatch)

        def find_class(self, module: str, name: str) -> Any:
            full = f"{module}.{name}"
            if full not in allowed:
                raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {full} was not an allowed global")
            return allowed[full]

        def load_build(self) -> None:
            target = self.stack[-2]
            if type(target) not in (torch.Tensor, torch.nn.Parameter, OrderedDict, *buildable):
                raise pickle.UnpicklingError(f"an object of the type {type(target)} is not to be built")
            super().load_build()

        dispatch[pickle.BUILD[0]] = load_build

    def load(file: Any, *, encoding: str = "ASCII") -> Any:
        return Unpickler(file, encoding=encoding).load()

    return SimpleNamespace(Unpickler=Unpickler, load=load)
