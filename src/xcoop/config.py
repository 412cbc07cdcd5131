"""The configuration: the engine's defaults, the keys that all of XCoOp shares, and each trainer's node."""

from __future__ import annotations

from yacs.config import CfgNode

SHARED = CfgNode(
    {
        "DATASET": {
            "SUBSAMPLE_CLASSES": "all",  # all, base (first half of the classes) or new (the rest)
            "TASK": "",  # which labels; "" is the dataset's own default
            "CASES": 0,  # phantom: how many cases are drawn; 0 is the default number
            "PATH": "",  # the dataset's folder or file; "" looks below DATASET.ROOT
            "CONCEPT_BANK": "",  # a bank's name or a YAML file; "" is the dataset's own bank
            "SET": "",  # which set of a family that shares one reader, e.g. MedMNIST
            "CLASSES": [],  # its class names, in label order
            "SIZE": 0,  # pixels, of sets that come in several sizes; 0 is the largest at hand
            "HYGIENE": "drop",  # what stands in two splits is dropped from train and val, or left with a report
            "VAL_SHOTS": 0,  # validation images a class beside few shots; 0 is min(shots, 4), as in CoOp; -1 is all
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

    from xcoop.plugins import plug_in

    cfg = get_cfg_default()
    plug_in(cfg)
    return cfg
