"""The configuration: the engine's defaults, the keys that all of XCoOp shares, and each trainer's node."""

from __future__ import annotations

import logging
from typing import Any

from yacs.config import CfgNode

from xcoop.config.augmentation import AUTO, KEY, KINDS
from xcoop.config.identity import flatten
from xcoop.engine.config import RULES as ENGINE
from xcoop.utils.rules import SOUND, TEXT, Rule, each, one_of, whole
from xcoop.utils.suggest import shown

logger = logging.getLogger(__name__)

SHARED = CfgNode(
    {
        "DATASET": {
            "SUBSAMPLE_CLASSES": "all",  # all, base (first half of the classes) or new (the rest)
            "TASK": "",  # which labels; "" is the dataset's own default
            "CASES": 0,  # phantom: how many cases are drawn; 0 is the default number
            "PATH": "",  # the dataset's folder or file; "" looks below DATASET.ROOT
            "CONCEPT_BANK": "",  # a bank's name or a YAML file; "" is the dataset's own bank
            "SET": "",  # which set of a family that shares one reader, e.g. MedMNIST
            "CLASSES": [],  # the class names in the order of their labels; [] is the order of the dataset
            "POSITIVE_CLASS": "",  # of two, what average precision is about; "" is the dataset's own, or told by names
            "SIZE": 0,  # pixels, of sets that come in several sizes; 0 is the largest at hand
            "HYGIENE": "drop",  # what stands in two splits is dropped from train and val, or left with a report
            "VAL_SHOTS": 0,  # validation images a class beside few shots; 0 is min(shots, 4), as in CoOp; -1 is all
            "CHANGES_LABELS": ["auto"],  # augmentations to leave out; see xcoop.config.augmentation
            "SPLIT_SEED": 0,  # of the split that is made for a user's own data
        },
        "MODEL": {"BACKBONE": {"PATH": ""}},  # local weights of the backbone
        "FEATURES": {
            "CACHE": True,  # features of a frozen image tower are computed once
            "DIR": "",  # "" is the cache folder of this user
        },
        "WANDB": {  # Weights & Biases, beside TensorBoard
            "PROJECT": "",  # "" does not track
            "MODE": "offline",  # offline (files in the run's folder), online or disabled
        },
    }
)

# What every key takes that does not take anything; `register_trainer` adds those of the trainers' nodes.
RULES: dict[str, Rule] = {
    **ENGINE,
    "DATASET.SUBSAMPLE_CLASSES": one_of("all", "base", "new"),
    "DATASET.CASES": whole(0),
    "DATASET.CLASSES": each(TEXT),
    "DATASET.SIZE": whole(0),
    "DATASET.HYGIENE": one_of("drop", "report"),
    "DATASET.VAL_SHOTS": whole(-1),
    "DATASET.SPLIT_SEED": whole(0),
    KEY: each(one_of(AUTO, *KINDS)),
    "WANDB.MODE": one_of("offline", "online", "disabled"),
}


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


PREFIX = "xcoop."  # before the name of a trainer or dataset of ours, where the programme has its own of that name


def add_missing(cfg: CfgNode, defaults: CfgNode) -> None:
    """Adds to `cfg`, in place, each key of `defaults` that it lacks; what it has stays as it is."""
    for key, value in defaults.items():
        if key not in cfg:
            cfg[key] = value.clone() if isinstance(value, CfgNode) else value
        elif isinstance(value, CfgNode) and isinstance(cfg[key], CfgNode):
            add_missing(cfg[key], value)


def as_ours(cfg: CfgNode, defaults: CfgNode) -> CfgNode:
    """A frozen copy of another programme's config, as our code reads it.

    A fork may use a name of ours for something else (`cfg.WANDB = False`, a `DATASET.SIZE` in words), or set it only
    after `plug_in`. In the copy such a key has our default, and that is said; the programme's own config stays as it
    is. `xcoop.NAME`, by which a trainer or dataset of ours is asked for where NAME is taken, is NAME in the copy.

    Args:
        cfg: what the programme made; changed in nothing.
        defaults: the keys that our code reads.
    """
    own = cfg.clone()
    own.defrost()
    _take_defaults(own, defaults, "")
    for node in (own.TRAINER, own.DATASET):
        node.NAME = node.NAME.removeprefix(PREFIX)
    own.freeze()
    return own


def _take_defaults(cfg: CfgNode, defaults: CfgNode, above: str) -> None:
    for key, default in defaults.items():
        if isinstance(default, CfgNode) and isinstance(cfg.get(key), CfgNode):
            _take_defaults(cfg[key], default, f"{above}{key}.")
            continue
        if key in cfg and not _fits(cfg[key], default):
            logger.warning(
                "%s%s is %s in this programme, which is not what xcoop reads there; it goes by its default, %s",
                *(above, key, shown(cfg[key]), shown(default)),
            )
            del cfg[key]
        if key not in cfg:
            cfg[key] = default.clone() if isinstance(default, CfgNode) else default


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of a default's type, as yacs sees it: lists and tuples are one, an integer is a float."""
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple))
    return type(value) is type(default) or (type(value) is int and isinstance(default, float))


def get_cfg() -> CfgNode:
    """Every key that a run can have, with its default: the engine's, the shared ones, the trainers'."""
    from dassl.config import get_cfg_default

    from xcoop.config.plugins import plug_in

    cfg = get_cfg_default()
    plug_in(cfg)
    return cfg
