"""The configuration: the engine's keys, those that all of XCoOp shares, and (in `plugins`) each trainer's node."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from xcoop.config.augmentation import AUTO, KEY, KINDS
from xcoop.config.identity import flatten
from xcoop.engine.config import KEYS as ENGINE
from xcoop.engine.config import node_of, rules_of
from xcoop.utils.rules import SOUND, TEXT, Rule, each, one_of, whole

# Each key with its default and what it takes (None: a flag or a text, of which nothing more is asked).
_SHARED_KEYS: dict[str, tuple[Any, Rule | None]] = {
    # base (the first half of the classes) or new (the rest)
    "DATASET.SUBSAMPLE_CLASSES": ("all", one_of("all", "base", "new")),
    "DATASET.TASK": ("", None),  # which labels; "" is the dataset's own default
    "DATASET.CASES": (0, whole(0)),  # phantom: how many cases are drawn; 0 is the default number
    "DATASET.PATH": ("", None),  # the dataset's folder or file; "" looks below DATASET.ROOT
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
    KEY: (["auto"], each(one_of(AUTO, *KINDS))),  # augmentations to leave out; see `xcoop.config.augmentation`
    "DATASET.SPLIT_SEED": (0, whole(0)),  # of the split that is made for a user's own data
    "MODEL.BACKBONE.PATH": ("", None),  # local weights of the backbone
    "FEATURES.CACHE": (True, None),  # features of a frozen image tower are computed once
    "FEATURES.DIR": ("", None),  # "" is the cache folder of this user
    "WANDB.PROJECT": ("", None),  # Weights & Biases, beside TensorBoard; "" does not track
    # files in the run's folder, or sent
    "WANDB.MODE": ("offline", one_of("offline", "online", "disabled")),
}
SHARED = node_of(_SHARED_KEYS)
# What every key takes that does not take anything; `register_trainer` adds those of the trainers' nodes.
RULES: dict[str, Rule] = rules_of(ENGINE) | rules_of(_SHARED_KEYS)


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


def add_missing(cfg: CfgNode, defaults: CfgNode) -> None:
    """Adds to `cfg`, in place, each key of `defaults` that it lacks; what it has stays as it is."""
    for key, value in defaults.items():
        if key not in cfg:
            cfg[key] = value.clone() if isinstance(value, CfgNode) else value
        elif isinstance(value, CfgNode) and isinstance(cfg[key], CfgNode):
            add_missing(cfg[key], value)


def get_cfg() -> CfgNode:
    """Every key that a run can have, with its default: the engine's, the shared ones, the trainers'."""
    from dassl.config import get_cfg_default

    from xcoop.config.plugins import plug_in

    cfg = get_cfg_default()
    plug_in(cfg)
    return cfg
