"""What several runs in one process may share: backbone weights, image features, what they run on.

Nothing is shared outside the scope that `sharing` opens. Inside it, each run gets a backbone of its own (a copy of
the loaded one), so that what a run changes in it ends with the run.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # what is shared by light modules must not import torch
    import torch

    from xcoop.backbones import Backbone, ImageFeatures

Thing = TypeVar("Thing")

MAX_FEATURES = 1 << 30  # bytes of image features that are held in memory; the rest is read from disk again


@dataclass
class Shared:
    """What the runs of one scope have loaded so far.

    Attributes:
        backbones: as they were loaded, never handed out themselves.
        features: of image lists, by the key of `FeatureStore.path`; the ones used last stand last.
        facts: what is the same for all runs of a process, e.g. versions.
    """

    backbones: dict[Hashable, Backbone] = field(default_factory=dict)
    features: OrderedDict[Hashable, ImageFeatures] = field(default_factory=OrderedDict)
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


def fact(key: Hashable, make: Callable[[], Thing]) -> Thing:
    """What `make` gives; in a scope it is asked once. The value must not be changed by whoever gets it."""
    shared = _scope.get()
    if shared is None:
        return make()
    if key not in shared.facts:
        shared.facts[key] = make()
    found: Thing = shared.facts[key]
    return found


def backbone(cfg: Any, device: torch.device) -> Backbone:
    """The backbone that a config names, on a device; see `load_backbone`. It belongs to the caller alone."""
    from xcoop.backbones import load_backbone

    shared = _scope.get()
    if shared is None:
        return load_backbone(cfg).to(device)
    key = (*_source(cfg), device)
    if key not in shared.backbones:
        shared.backbones[key] = load_backbone(cfg).to(device)
    return own_copy(shared.backbones[key])


def own_copy(original: Backbone) -> Backbone:
    """A backbone with weights of its own, equal to those of `original`; their fingerprint is not computed again."""
    fingerprint = original.fingerprint()
    made = copy.deepcopy(original)
    made.take_fingerprint(fingerprint)
    return made


def features(key: Hashable, make: Callable[[], ImageFeatures]) -> ImageFeatures:
    """Image features by the key of what they depend on; in a scope they are made (or read) once."""
    shared = _scope.get()
    if shared is None:
        return make()
    if key not in shared.features:
        shared.features[key] = make()
    shared.features.move_to_end(key)
    while len(shared.features) > 1 and sum(map(_size, shared.features.values())) > MAX_FEATURES:
        shared.features.popitem(last=False)
    return shared.features[key]


def _size(images: ImageFeatures) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (images.pooled, images.patches))


def _source(cfg: Any) -> tuple[Hashable, ...]:
    """Which weights a config asks for: the name, and for a file its path, size and time of change."""
    path = cfg.MODEL.BACKBONE.get("PATH", "")
    status = Path(path).expanduser().stat() if path and Path(path).expanduser().is_file() else None
    return cfg.MODEL.BACKBONE.NAME, path, status and (status.st_size, status.st_mtime_ns)
