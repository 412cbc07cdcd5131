"""Backbones by name. Each module of this package may register some; importing it is enough."""

from __future__ import annotations

import copy
import importlib
import logging
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from xcoop.backbones.base import Backbone
from xcoop.utils import process_cache
from xcoop.utils import suggest as names

if TYPE_CHECKING:
    import torch
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

Loader = Callable[[str, str], Backbone]
AnyLoader = TypeVar("AnyLoader", bound=Loader)

_loaders: dict[str, Loader] = {}
_limits: dict[str, TextLimits | None] = {}


@dataclass(frozen=True)
class TextLimits:
    """How long a backbone's texts may be; known without its weights.

    Attributes:
        context_length: tokens that a text may have, start and end included.
        count_tokens: how many a text has, start and end included.
    """

    context_length: int
    count_tokens: Callable[[str], int]

    def fit(self, text: str) -> bool:
        """Whether the text tower takes a text whole."""
        return self.count_tokens(text) <= self.context_length


def register_backbone(*offered: str, text: TextLimits | None = None) -> Callable[[AnyLoader], AnyLoader]:
    """Offers the decorated function as the loader of these backbones.

    The function takes the name and `MODEL.BACKBONE.PATH` ("" if not set), and returns the backbone.

    Args:
        offered: the names.
        text: how long their texts may be; None if that is known from the weights alone.

    Raises:
        KeyError: one of the names is taken by another function.
    """

    def register(loader: AnyLoader) -> AnyLoader:
        for name in offered:
            if name in _loaders:
                raise KeyError(f"backbone {name!r} is registered twice: by {_loaders[name]} and by {loader}")
        _loaders.update(dict.fromkeys(offered, loader))
        _limits.update(dict.fromkeys(offered, text))
        return loader

    return register


def backbone_names() -> list[str]:
    """Every registered backbone, sorted."""
    _import_all()
    return sorted(_loaders)


def require_backbone(name: str) -> None:
    """ValueError for a backbone that nobody registered; the message gives the nearest name."""
    if name not in backbone_names():
        raise ValueError(names.unknown("backbone", name, _loaders))


def text_limits(name: str) -> TextLimits | None:
    """How long the texts of a backbone may be, without loading it; None if it does not say.

    Raises:
        ValueError: unknown name.
    """
    require_backbone(name)
    return _limits[name]


def load_backbone(cfg: CfgNode) -> Backbone:
    """The backbone that a config names, frozen, in fp32 on the CPU. No random numbers are drawn.

    Args:
        cfg: its `MODEL.BACKBONE.NAME`, and `MODEL.BACKBONE.PATH` for a local weights file.

    Raises:
        ValueError: unknown name, or a weights file that does not fit.
        FileNotFoundError: no such weights file.
        ConnectionError: the weights are not here and cannot be downloaded.
    """
    name = cfg.MODEL.BACKBONE.NAME
    require_backbone(name)
    backbone = _loaders[name](name, cfg.MODEL.BACKBONE.get("PATH", ""))
    return backbone.float().eval().requires_grad_(False)


def backbone_of(cfg: CfgNode, device: torch.device) -> Backbone:
    """The backbone that a config names, on a device; in a scope that shares, a copy of the one loaded there.

    It belongs to the caller alone. Raises what `load_backbone` does.
    """
    shared = process_cache.current()
    if shared is None:
        return load_backbone(cfg).to(device)
    path = cfg.MODEL.BACKBONE.get("PATH", "")
    status = Path(path).expanduser().stat() if path and Path(path).expanduser().is_file() else None
    key = (cfg.MODEL.BACKBONE.NAME, path, status and (status.st_size, status.st_mtime_ns), device)
    if key not in shared.backbones:
        shared.backbones[key] = load_backbone(cfg).to(device)
    original: Backbone = shared.backbones[key]
    fingerprint = original.fingerprint()
    own = copy.deepcopy(original)
    own.take_fingerprint(fingerprint)  # it is not computed again
    return own


def check_input(cfg: CfgNode, backbone: Backbone) -> None:
    """Images must come as the backbone expects them: a wrong size is an error, another normalisation a warning.

    Raises:
        ValueError: the size.
    """
    if tuple(cfg.INPUT.SIZE) != (backbone.input_size, backbone.input_size):
        size = backbone.input_size
        raise ValueError(f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)}; {backbone.name} needs ({size}, {size})")
    for key, own in (("PIXEL_MEAN", backbone.pixel_mean), ("PIXEL_STD", backbone.pixel_std)):
        if max(abs(a - b) for a, b in zip(cfg.INPUT[key], own, strict=True)) > 1e-3:
            logger.warning(
                "INPUT.%s is %s; %s was trained with %s", key, list(cfg.INPUT[key]), backbone.name, list(own)
            )


def _import_all() -> None:
    package = importlib.import_module("xcoop.backbones")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"xcoop.backbones.{module.name}")
