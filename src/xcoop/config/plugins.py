"""The plug-ins: what `trainers/` and `datasets/` offer, handed to whichever engine is running.

The decorators only collect. `load_plugins` registers with the engine what the engine does not have yet, so that a
user's own `CoOp`, registered before, stays theirs; ours is `xcoop.CoOp` then.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from yacs.config import CfgNode

from xcoop.config.defaults import PREFIX, RULES, SHARED, add_missing, as_ours
from xcoop.utils.rules import Rule
from xcoop.utils.suggest import unknown

Class = TypeVar("Class", bound=type)

_trainers: dict[str, type] = {}
_datasets: dict[str, type] = {}
_nodes: dict[str, CfgNode] = {}


def register_trainer(node: str, defaults: CfgNode, rules: Mapping[str, Rule] | None = None) -> Callable[[Class], Class]:
    """Offers the decorated class as a trainer under its own name.

    Args:
        node: its config node, below `TRAINER`.
        defaults: the keys of that node with their defaults.
        rules: what these keys take; those that the class's `node_rules` know need none.
    """

    def collect(cls: Class) -> Class:
        _collect(_trainers, cls)
        _nodes[node] = defaults
        stated = {**getattr(cls, "node_rules", {}), **(rules or {})}
        RULES.update({f"TRAINER.{node}.{key}": rule for key, rule in stated.items() if key in defaults})
        return cls

    return collect


def register_dataset() -> Callable[[Class], Class]:
    """Offers the decorated class as a dataset under its own name."""
    return lambda cls: _collect(_datasets, cls)


def load_plugins() -> None:
    """Imports every trainer and dataset of this package, and registers them.

    Under their own names; or, where the engine has another of that name, as `xcoop.<name>`.
    """
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    for kind in ("trainers", "datasets"):
        _import_all(f"xcoop.{kind}")
    _register(TRAINER_REGISTRY, _trainers)
    _register(DATASET_REGISTRY, _datasets)


def plug_in(cfg: CfgNode) -> None:
    """Registers the plug-ins and adds to `cfg`, in place, the nodes and keys that it lacks."""
    load_plugins()
    add_missing(cfg, SHARED)
    for node, defaults in _nodes.items():
        if node not in cfg.TRAINER:
            cfg.TRAINER[node] = defaults.clone()
        else:
            add_missing(cfg.TRAINER[node], defaults)


def own_view(cfg: CfgNode, node: str = "") -> CfgNode:
    """A programme's config as our code reads it; see `xcoop.config.defaults.as_ours`.

    Args:
        cfg: the programme's; changed in nothing.
        node: of the trainer that asks, below TRAINER.
    """
    own = {"TRAINER": {node: _nodes[node]}} if node in _nodes else {}
    return as_ours(cfg, CfgNode({**SHARED, **own}))


def trainer_class(name: str) -> Any:
    """The class of a run's trainer: the one registered under its name, or ours where another programme's has it.

    Raises:
        ValueError: there is none; the message gives the nearest name.
    """
    from dassl.engine import TRAINER_REGISTRY

    load_plugins()
    found = TRAINER_REGISTRY.get(name) if name in TRAINER_REGISTRY.registered_names() else None
    if not hasattr(found, "model_of"):
        found = _trainers.get(name)
    if found is None:
        raise ValueError(unknown("trainer", name, _trainers))
    return found


def trainer_names() -> list[str]:
    """The trainers of this package, sorted."""
    load_plugins()
    return sorted(_trainers)


def trains(name: str) -> bool:
    """Whether a registered trainer learns from images, in epochs or at once (its class may say `trains = False`)."""
    from dassl.engine import TRAINER_REGISTRY

    return bool(getattr(TRAINER_REGISTRY.get(name), "trains", True))


def dataset_names() -> list[str]:
    """The datasets of this package, sorted."""
    load_plugins()
    return sorted(_datasets)


def plugin_path(kind: str, *parts: str) -> Path:
    """A file or folder of a plug-in folder, in a checkout and in an installation alike.

    Args:
        kind: `concept_banks`, `configs`, `datasets` or `trainers`.
        parts: the path below it.

    Raises:
        FileNotFoundError: no such plug-in folder; the message names where it was looked for.
    """
    roots = sys.modules["xcoop"].__path__  # in a checkout, its top folder, too
    for root in roots:
        if (Path(root) / kind).is_dir():
            return Path(root, kind, *parts)
    raise FileNotFoundError(f"no folder {kind!r} in {list(roots)}: is the installation whole?")


def _collect(known: dict[str, type], cls: Class) -> Class:
    other = known.setdefault(cls.__name__, cls)
    if other is not cls and other.__module__ != cls.__module__:
        raise KeyError(f"{cls.__name__!r} is offered by {other.__module__} and by {cls.__module__}")
    known[cls.__name__] = cls
    return cls


def _import_all(package: str) -> None:
    path = importlib.import_module(package).__path__
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")


def _register(registry: Any, offered: dict[str, type]) -> None:
    for name, cls in offered.items():
        if name not in registry.registered_names():
            registry.register(cls)
        elif registry.get(name) is not cls and f"{PREFIX}{name}" not in registry.registered_names():
            registry.register(_named(f"{PREFIX}{name}", cls))


def _named(name: str, cls: type) -> Callable[[Any], Any]:
    """What makes an object of a class, under another name: registries go by `__name__`."""

    def make(cfg: Any) -> Any:
        return cls(cfg)

    make.__name__ = name
    return make
