"""The plug-ins: what `trainers/` and `datasets/` offer, handed to whichever engine is running.

The decorators only collect. `load_plugins` registers with the engine what the engine does not have yet, so that a
user's own `CoOp`, registered before, stays theirs; ours is `xcoop.CoOp` then.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from yacs.config import CfgNode

from xcoop.config.defaults import RULES, SHARED, add_missing
from xcoop.utils.rules import Rule
from xcoop.utils.suggest import shown, unknown

logger = logging.getLogger(__name__)

PREFIX = "xcoop."  # before the name of a trainer or dataset of ours, where the programme has its own of that name

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

    for package in ("xcoop.trainers", "xcoop.datasets"):
        path = importlib.import_module(package).__path__
        for module in sorted(info.name for info in pkgutil.iter_modules(path)):
            importlib.import_module(f"{package}.{module}")
    _register(TRAINER_REGISTRY, _trainers)
    _register(DATASET_REGISTRY, _datasets)


def plug_in(cfg: CfgNode) -> None:
    """Registers the plug-ins and adds to `cfg`, in place, the nodes and keys that it lacks."""
    load_plugins()
    add_missing(cfg, SHARED)
    add_missing(cfg.TRAINER, CfgNode(_nodes))


def own_view(cfg: CfgNode, node: str = "") -> CfgNode:
    """A frozen copy of another programme's config, as our code reads it.

    A fork may use a name of ours for something else (`cfg.WANDB = False`, a `DATASET.SIZE` in words), or set it only
    after `plug_in`. In the copy such a key has our default, and that is said; the programme's own config stays as it
    is. `xcoop.NAME`, by which a trainer or dataset of ours is asked for where NAME is taken, is NAME in the copy.

    Args:
        cfg: what the programme made; changed in nothing.
        node: of the trainer that asks, below TRAINER.
    """
    own = cfg.clone()
    own.defrost()
    _take_defaults(own, SHARED, "")
    if node in _nodes:
        _take_defaults(own.TRAINER, CfgNode({node: _nodes[node]}), "TRAINER.")
    for section in (own.TRAINER, own.DATASET):
        section.NAME = section.NAME.removeprefix(PREFIX)
    own.freeze()
    return own


def _take_defaults(cfg: CfgNode, defaults: CfgNode, above: str) -> None:
    """Puts our default, in place, where a key lacks or is of another type (as yacs sees it)."""
    for key, default in defaults.items():
        value = cfg.get(key)
        if isinstance(default, CfgNode) and isinstance(value, CfgNode):
            _take_defaults(value, default, f"{above}{key}.")
            continue
        if isinstance(default, (list, tuple)):
            fits = isinstance(value, (list, tuple))
        else:
            fits = type(value) is type(default) or (type(value) is int and isinstance(default, float))
        if key in cfg and not fits:
            logger.warning(
                "%s%s is %s in this programme, which is not what xcoop reads there; it goes by its default, %s",
                *(above, key, shown(value), shown(default)),
            )
        if not fits:
            cfg[key] = default.clone() if isinstance(default, CfgNode) else default


def trainer_class(name: str) -> Any:
    """The class of a run's trainer: the one registered under its name, or ours where another programme's has it.

    Raises:
        ValueError: there is none; the message gives the nearest name.
    """
    from dassl.engine import TRAINER_REGISTRY

    load_plugins()
    found = TRAINER_REGISTRY.get(name) if name in TRAINER_REGISTRY.registered_names() else None
    if not hasattr(found, "build_method"):
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


def _register(registry: Any, offered: dict[str, type]) -> None:
    for name, cls in offered.items():
        if name not in registry.registered_names():
            registry.register(cls)
        elif registry.get(name) is not cls and f"{PREFIX}{name}" not in registry.registered_names():

            def make(cfg: Any, cls: type = cls) -> Any:
                return cls(cfg)

            make.__name__ = f"{PREFIX}{name}"  # registries go by it
            registry.register(make)
