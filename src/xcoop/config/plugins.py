"""The keys that XCoOp adds to the engine's, and the plug-ins: what `trainers/` and `datasets/` offer to either engine.

The decorators only collect. `load_plugins` registers with the engine what the engine does not have yet, so that a
user's own `CoOp`, registered before, stays theirs; ours is `xcoop.CoOp` then.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from yacs.config import CfgNode

from xcoop.config import labels
from xcoop.config.augmentation import AUTO, KEY, KINDS
from xcoop.engine.config import KEYS as ENGINE
from xcoop.engine.config import flatten, node_of
from xcoop.utils.console import shown, unknown
from xcoop.utils.process_cache import imported_for_good
from xcoop.utils.rules import SOUND, TEXT, Rule, each, one_of, whole

logger = logging.getLogger(__name__)

PREFIX = "xcoop."  # before the name of a trainer or dataset of ours, where the programme has its own of that name

Class = TypeVar("Class", bound=type)

_trainers: dict[str, type] = {}
_datasets: dict[str, type] = {}
_nodes: dict[str, CfgNode] = {}

# Each key with its default and what it takes (None: a flag or a text, of which nothing more is asked).
_SHARED_KEYS: dict[str, tuple[Any, Rule | None]] = {
    # base (the first half of the classes) or new (the rest)
    "DATASET.SUBSAMPLE_CLASSES": ("all", one_of("all", "base", "new")),
    "DATASET.TASK": ("", None),  # which labels; "" is the dataset's own default
    "DATASET.CASES": (0, whole(0)),  # phantom: how many cases are drawn; 0 is the default number
    "DATASET.PATH": ("", None),  # the dataset's folder or file; "" looks below DATASET.ROOT
    # the name of the dataset in folders, tables and pages; "" is that of its configuration, or of the own folder
    labels.KEY: ("", labels.RULE),
    "DATASET.CONCEPT_BANK": ("", None),  # a bank's name or a YAML file; "" is the dataset's own bank
    "DATASET.SET": ("", None),  # which set of a family that shares one reader, e.g. MedMNIST
    # the class names in the order of their labels; [] is the order of the dataset
    "DATASET.CLASSES": ([], each(TEXT)),
    # of two, what average precision is about; "" is the dataset's own, or told by names
    "DATASET.POSITIVE_CLASS": ("", None),
    "DATASET.SIZE": (0, whole(0)),  # pixels, of sets that come in several sizes; 0 is the largest at hand
    # what stands in two splits is dropped from train and val, or left with a report
    "DATASET.HYGIENE": ("drop", one_of("drop", "report")),
    # validation images a class beside few shots; 0 is min(shots, 4), as in CoOp; -1 is all
    "DATASET.VAL_SHOTS": (0, whole(-1)),
    # of own data without test images: the split that gives them; "" gives none
    "DATASET.TEST_FROM": ("", one_of("", "val", "train")),
    KEY: (["auto"], each(one_of(AUTO, *KINDS))),  # augmentations to leave out; see `xcoop.config.augmentation`
    "DATASET.SPLIT_SEED": (0, whole(0)),  # of the split that is made for a user's own data
    "MODEL.BACKBONE.PATH": ("", None),  # local weights of the backbone: a file or a folder
    "MODEL.BACKBONE.SOURCE": ("", None),  # a name on a hub, or of an architecture, for names that leave it open
    # what a file of weights does not tell; "" and 0 are as the family has it
    "MODEL.BACKBONE.ACTIVATION": ("", one_of("", "quick_gelu", "gelu", "gelu_tanh")),
    "MODEL.BACKBONE.HEAD_WIDTH": (0, whole(0)),
    "FEATURES.CACHE": (True, None),  # features of a frozen image tower are computed once
    "FEATURES.DIR": ("", None),  # "" is the cache folder of this user
    # the blocks of a trained image tower are computed again in the backward pass: less memory, more time
    "TRAIN.RECOMPUTE_TOWER": (False, None),
    # on a GPU, the steps of a frozen image tower's methods are recorded once and replayed (not yet run on any device)
    "TRAIN.CUDA_GRAPH": (False, None),
    # MiB of decoded images that a run and its workers keep together; 0 keeps none
    "FEATURES.IMAGES_MB": (1024, whole(0)),
    "WANDB.PROJECT": ("", None),  # Weights & Biases, beside TensorBoard; "" does not track
    # files in the run's folder, or sent
    "WANDB.MODE": ("offline", one_of("offline", "online", "disabled")),
}
SHARED = node_of(_SHARED_KEYS)
# What every key takes that does not take anything; `register_trainer` adds those of the trainers' nodes.
RULES: dict[str, Rule] = {key: rule for key, (_, rule) in (ENGINE | _SHARED_KEYS).items() if rule is not None}


def check_settings(cfg: Any, node: str = "", section: str = "") -> None:
    """Refuses values that no run could mean. Nothing has been built or written when it is called.

    Args:
        cfg: a merged config, of either engine.
        node: the node below TRAINER that is read; the others are not looked at. "" looks at all.
        section: look at this one alone, e.g. DATASET.

    Raises:
        ValueError: a value is no name of its key's closed set, is out of its range, or is of another type; the message
            names key and value, and what would be right.
    """
    for key, value in flatten({section: cfg[section]} if section else cfg).items():
        if not node or not key.startswith("TRAINER.") or key.startswith(f"TRAINER.{node}."):
            RULES.get(key, SOUND).check(key, value)


# Plug-ins: collected, registered, asked for.


def register_trainer(node: str, defaults: CfgNode, rules: Mapping[str, Rule] | None = None) -> Callable[[Class], Class]:
    """Offers the decorated class as a trainer under its own name.

    Args:
        node: its config node, below `TRAINER`; the class knows it as `node`.
        defaults: the keys of that node with their defaults.
        rules: what these keys take; those that the class's `node_rules` know need none.
    """

    def collect(cls: Class) -> Class:
        _collect(_trainers, cls)
        cls.node = node  # type: ignore[attr-defined]
        _nodes[node] = defaults
        stated = {**getattr(cls, "node_rules", {}), **(rules or {})}
        RULES.update({f"TRAINER.{node}.{key}": rule for key, rule in stated.items() if key in defaults})
        return cls

    return collect


def register_dataset() -> Callable[[Class], Class]:
    """Offers the decorated class as a dataset under its own name."""
    return lambda cls: _collect(_datasets, cls)


def _collect(known: dict[str, type], cls: Class) -> Class:
    other = known.get(cls.__name__, cls)
    if other.__module__ != cls.__module__:
        raise KeyError(f"{cls.__name__!r} is offered by {other.__module__} and by {cls.__module__}")
    known[cls.__name__] = cls
    return cls


def load_plugins() -> None:
    """Imports every trainer and dataset of this package, and registers them.

    Under their own names; or, where the engine has another of that name, as `xcoop.<name>`.
    """
    with nullcontext() if _trainers else imported_for_good():
        from dassl.data.datasets import DATASET_REGISTRY
        from dassl.engine import TRAINER_REGISTRY

        for package in ("xcoop.trainers", "xcoop.datasets"):
            for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
                importlib.import_module(module.name)
    _register(TRAINER_REGISTRY, _trainers)
    _register(DATASET_REGISTRY, _datasets)


def _register(registry: Any, offered: dict[str, type]) -> None:
    for name, cls in offered.items():
        if name not in registry.registered_names():
            registry.register(cls)
        elif registry.get(name) is not cls and f"{PREFIX}{name}" not in registry.registered_names():

            def make(cfg: Any, cls: type = cls) -> Any:
                return cls(cfg)

            make.__name__ = f"{PREFIX}{name}"  # registries go by it
            registry.register(make)


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


def trains(name: str) -> bool:
    """Whether a registered trainer learns from images, in epochs or at once (its class may say `trains = False`)."""
    from dassl.engine import TRAINER_REGISTRY

    return bool(getattr(TRAINER_REGISTRY.get(name), "trains", True))


def trainer_names() -> list[str]:
    """The trainers of this package, sorted."""
    load_plugins()
    return sorted(_trainers)


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


# Our keys in a config: of a run of ours, or of another programme.


def get_cfg() -> CfgNode:
    """Every key that a run can have, with its default: the engine's, the shared ones, the trainers'."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    plug_in(cfg)
    return cfg


def plug_in(cfg: CfgNode) -> None:
    """Registers the plug-ins and adds to `cfg`, in place, the nodes and keys that it lacks."""
    load_plugins()
    add_missing(cfg, SHARED)
    add_missing(cfg.TRAINER, CfgNode(_nodes))


def add_missing(cfg: CfgNode, defaults: CfgNode) -> None:
    """Adds to `cfg`, in place, each key of `defaults` that it lacks; what it has stays as it is."""
    for key, value in defaults.items():
        if key not in cfg:
            cfg[key] = value.clone() if isinstance(value, CfgNode) else value
        elif isinstance(value, CfgNode) and isinstance(cfg[key], CfgNode):
            add_missing(cfg[key], value)


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
        if not fits:
            if key in cfg:
                logger.warning(
                    "%s%s is %s in this programme, which is not what xcoop reads there; it goes by its default, %s",
                    *(above, key, shown(value), shown(default)),
                )
            cfg[key] = default.clone() if isinstance(default, CfgNode) else default
