"""Which settings make a run what it is: their hash, and how two of them differ.

Two runs with the same hash differ in nothing but the seed and the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xcoop.config import augmentation
from xcoop.engine.config import UNREAD
from xcoop.utils.reading import read_yaml

# Where things lie, how fast and how talkative: none of these changes what a run computes.
MACHINE = (
    "DATALOADER.NUM_WORKERS",
    "DATASET.ROOT",
    "FEATURES",
    "OUTPUT_DIR",
    "RESUME",
    "TEST.COMPUTE_CMAT",
    "TEST.PER_CLASS_RESULT",
    "TRAIN.CHECKPOINT_FREQ",
    "TRAIN.PRINT_FREQ",
    "USE_CUDA",
    "VERBOSE",
    "VERSION",
    "WANDB",
)
# Seeds of one setting are averaged, so the seed is no part of the setting; each lies in a folder of its own.
SEED = "SEED"
# Keys that older runs lack, with the value that stands for what those did: a run has one hash, with them or without.
LATER = {"DATASET.POSITIVE_CLASS": ""}
# Of these only the file name counts; the content is recorded by its own hash.
FILES = ("DATASET.CONCEPT_BANK", "DATASET.PATH", "MODEL.BACKBONE.PATH", "MODEL.INIT_WEIGHTS")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted path: `{"A": {"B": 1}}` gives `{"A.B": 1}`."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{path}.")
        else:
            leaves[path] = list(value) if isinstance(value, tuple) else value
    return leaves


def settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What the hash covers: all leaves of `cfg` but those of the machine, the seed, and other trainers' nodes."""
    trainer, nodes = cfg["TRAINER"]["NAME"], cfg["TRAINER"]
    own = {key: value for key, value in (UNREAD | flatten(cfg)).items() if not _below(key, (*MACHINE, SEED))}
    own = {key: value for key, value in own.items() if concerns(key, trainer, nodes) and LATER.get(key, ...) != value}
    if not augmentation.augmented(cfg):
        own.pop(augmentation.KEY, None)  # then it has no say
    return {key: Path(value).name if key in FILES and value else value for key, value in own.items()}


def config_hash(cfg: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of the merged config `cfg`, as far as it concerns the result; see `settings`."""
    text = json.dumps(settings(cfg), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each setting in which two merged configs differ, sorted by key."""
    a, b = settings(old), settings(new)
    return [
        f"{key}: {a.get(key, 'not set')!r} there, {b.get(key, 'not set')!r} now"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def read_config(path: Path) -> dict[str, Any]:
    """A merged config that a run has saved.

    Raises:
        ValueError: the file is no such config; the message names it.
    """
    try:
        saved = read_yaml(path)
        config_hash(saved)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not the saved config of a run ({error})") from error
    return dict(saved)


def _below(key: str, nodes: Iterable[str]) -> bool:
    return any(key == node or key.startswith(f"{node}.") for node in nodes)


def concerns(key: str, trainer: str, nodes: Mapping[str, Any]) -> bool:
    """Whether a trainer can see a key: below TRAINER only its own node, the one spelled like it, counts."""
    section, _, rest = key.partition(".")
    node, _, leaf = rest.partition(".")
    if section != "TRAINER" or not leaf:
        return True
    spelled = {name.upper() for name in nodes}
    return node.upper() == trainer.upper() or trainer.upper() not in spelled
