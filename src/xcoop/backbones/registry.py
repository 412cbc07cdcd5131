"""Backbones by name. Each module of this package may register some; importing it is enough."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from xcoop import names
from xcoop.backbones.base import Backbone

if TYPE_CHECKING:
    from yacs.config import CfgNode

Loader = Callable[[str, str], Backbone]
AnyLoader = TypeVar("AnyLoader", bound=Loader)

_loaders: dict[str, Loader] = {}


def register_backbone(*offered: str) -> Callable[[AnyLoader], AnyLoader]:
    """Offers the decorated function as the loader of these backbones.

    The function takes the name and `MODEL.BACKBONE.PATH` ("" if not set), and returns the backbone.

    Raises:
        KeyError: one of the names is taken by another function.
    """

    def register(loader: AnyLoader) -> AnyLoader:
        for name in offered:
            if name in _loaders:
                raise KeyError(f"backbone {name!r} is registered twice: by {_loaders[name]} and by {loader}")
        _loaders.update(dict.fromkeys(offered, loader))
        return loader

    return register


def backbone_names() -> list[str]:
    """Every registered backbone, sorted."""
    _import_all()
    return sorted(_loaders)


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
    if name not in backbone_names():
        raise ValueError(names.unknown("backbone", name, _loaders))
    backbone = _loaders[name](name, cfg.MODEL.BACKBONE.get("PATH", ""))
    return backbone.float().eval().requires_grad_(False)


def _import_all() -> None:
    package = importlib.import_module("xcoop.backbones")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"xcoop.backbones.{module.name}")
