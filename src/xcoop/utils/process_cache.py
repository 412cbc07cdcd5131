"""What several runs in one process may share: weights, image features, images, what they run on; and its imports.

Nothing is shared outside the scope that `sharing` opens. Inside it, each run gets a backbone of its own (a copy of
the loaded one), so that what a run changes in it ends with the run.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

Thing = TypeVar("Thing")


@dataclass
class Shared:
    """What the runs of one scope have loaded so far.

    Attributes:
        backbones: as they were loaded, never handed out themselves; see `xcoop.backbones.base.backbone_of`.
        features: of image lists; the ones used last stand last; see `xcoop.training.feature_cache.shared_features`.
        images: decoded ones; see `xcoop.utils.image_memory.image_memory`.
        facts: what is the same for all runs of a process, e.g. versions.
    """

    backbones: dict[Hashable, Any] = field(default_factory=dict)
    features: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)
    images: Any = None
    facts: dict[Hashable, Any] = field(default_factory=dict)


_scope: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(shared: Shared) -> Iterator[Shared]:
    """Runs inside share what `shared` holds, and add to it."""
    token = _scope.set(shared)
    try:
        yield shared
    finally:
        _scope.reset(token)


def current() -> Shared | None:
    """What the scope shares that this code runs in; None outside of any."""
    return _scope.get()


def fact(key: Hashable, make: Callable[[], Thing]) -> Thing:
    """What `make` gives; in a scope it is asked once. The value must not be changed by whoever gets it."""
    shared = _scope.get()
    if shared is None:
        return make()
    if key not in shared.facts:
        shared.facts[key] = make()
    found: Thing = shared.facts[key]
    return found


@contextmanager
def imported_for_good() -> Iterator[None]:
    """Imports inside stay for the life of the process, so the garbage collector does not look through them.

    With torch they make more than half a million objects, and Python would look through all of them several times
    while they come, and again in every full collection afterwards.
    """
    gc.collect()  # what is garbage by now must not stay for good, too
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
