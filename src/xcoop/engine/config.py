"""The engine's configuration: the keys of Dassl 0.6.3, with their defaults and what they take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from yacs.config import CfgNode

from xcoop.utils.rules import TEXT, Rule, each, number, one_of, whole

_SHARE, _RATE = number(0, 1), number(0)
# The last three are Dassl's alone; which engine has which is told when the loader is built.
_SAMPLER = one_of("RandomSampler", "SequentialSampler", "RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler")


def _transforms() -> Iterable[str]:
    """Those of the engine that runs: Dassl itself has two that ours does not."""
    from dassl.data.transforms import transforms

    from xcoop.engine.parts import OFFERED

    return getattr(transforms, "AVAI_CHOICES", OFFERED)


def _evaluators() -> Iterable[str]:
    from dassl.evaluation.build import EVALUATOR_REGISTRY

    return list(EVALUATOR_REGISTRY.registered_names())


def _is_crop_scale(value: Any) -> bool:
    return each(number(above=0, high=1), 2).holds(value) and value[0] <= value[1]


def _are_epochs(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(type(e) is int and e >= -1 for e in value)


# Each key with its default and what it takes (None: a flag or a text, of which nothing more is asked).
KEYS: dict[str, tuple[Any, Rule | None]] = {
    "VERSION": (1, None),
    "OUTPUT_DIR": ("./output", None),
    "RESUME": ("", None),  # a folder whose checkpoints are gone on from; "" looks in OUTPUT_DIR
    "SEED": (-1, whole(high=2**32 - 1)),  # below 0: no fixed seed; numpy's limit
    "USE_CUDA": (True, None),
    "VERBOSE": (True, None),
    "INPUT.SIZE": ((224, 224), each(whole(1, 4096), 2)),  # height, width in pixels
    "INPUT.INTERPOLATION": ("bilinear", one_of("bilinear", "bicubic", "nearest")),
    "INPUT.TRANSFORMS": ((), each(one_of(of=_transforms))),
    "INPUT.NO_TRANSFORM": (False, None),
    "INPUT.PIXEL_MEAN": ([0.485, 0.456, 0.406], each(number(), 3)),
    "INPUT.PIXEL_STD": ([0.229, 0.224, 0.225], each(number(above=0), 3)),
    "INPUT.CROP_PADDING": (4, whole(0)),
    "INPUT.RRCROP_SCALE": (
        (0.08, 1.0),
        Rule("two shares of the image in (0, 1], the smaller one first", _is_crop_scale),
    ),
    "INPUT.CUTOUT_N": (1, whole(0)),
    "INPUT.CUTOUT_LEN": (16, whole(0)),
    "INPUT.GN_MEAN": (0.0, number()),
    "INPUT.GN_STD": (0.15, number(0)),
    "INPUT.RANDAUGMENT_N": (2, whole(0)),
    "INPUT.RANDAUGMENT_M": (10, whole(0, 30)),
    "INPUT.COLORJITTER_B": (0.4, number(0)),
    "INPUT.COLORJITTER_C": (0.4, number(0)),
    "INPUT.COLORJITTER_S": (0.4, number(0)),
    "INPUT.COLORJITTER_H": (0.1, number(0, 0.5)),
    "INPUT.RGS_P": (0.2, _SHARE),
    "INPUT.GB_P": (0.5, _SHARE),
    "INPUT.GB_K": (
        21,
        Rule(
            "an odd whole number below 4096", lambda value: type(value) is int and 0 < value < 4096 and value % 2 == 1
        ),
    ),
    "DATASET.ROOT": ("", None),
    "DATASET.NAME": ("", None),
    "DATASET.SOURCE_DOMAINS": ((), each(TEXT)),  # set by every train.py; read by Dassl's own datasets alone
    "DATASET.TARGET_DOMAINS": ((), each(TEXT)),
    "DATASET.NUM_SHOTS": (
        -1,
        Rule(
            "the training images a class, a whole number above 0, or -1 for all",
            lambda value: type(value) is int and (value > 0 or value == -1),
        ),
    ),
    "DATASET.VAL_PERCENT": (0.1, number(0, below=1)),
    "DATALOADER.NUM_WORKERS": (4, whole(0)),
    "DATALOADER.K_TRANSFORMS": (1, whole(1)),  # how many augmented views of each training image
    "DATALOADER.RETURN_IMG0": (False, None),  # also give the image without augmentation
    "DATALOADER.TRAIN_X.SAMPLER": ("RandomSampler", _SAMPLER),
    "DATALOADER.TRAIN_X.BATCH_SIZE": (32, whole(1)),
    "DATALOADER.TEST.SAMPLER": ("SequentialSampler", _SAMPLER),
    "DATALOADER.TEST.BATCH_SIZE": (32, whole(1)),
    "MODEL.INIT_WEIGHTS": ("", None),
    "MODEL.BACKBONE.NAME": ("", None),
    "MODEL.HEAD.NAME": ("", None),  # set by every train.py, read by none
    "OPTIM.NAME": ("adam", one_of("adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw")),
    "OPTIM.LR": (0.0003, number(above=0)),
    "OPTIM.WEIGHT_DECAY": (5e-4, _RATE),
    "OPTIM.MOMENTUM": (0.9, _SHARE),
    "OPTIM.SGD_DAMPNING": (0, _SHARE),
    "OPTIM.SGD_NESTEROV": (False, None),
    "OPTIM.RMSPROP_ALPHA": (0.99, _SHARE),
    "OPTIM.ADAM_BETA1": (0.9, number(0, below=1)),
    "OPTIM.ADAM_BETA2": (0.999, number(0, below=1)),
    "OPTIM.STAGED_LR": (False, None),
    "OPTIM.NEW_LAYERS": ((), None),
    "OPTIM.BASE_LR_MULT": (0.1, _RATE),
    "OPTIM.LR_SCHEDULER": ("single_step", one_of("single_step", "multi_step", "cosine")),
    "OPTIM.STEPSIZE": ((-1,), Rule("a list of epochs, each a whole number above 0 (or -1 alone)", _are_epochs)),
    "OPTIM.GAMMA": (0.1, number(0)),
    "OPTIM.MAX_EPOCH": (10, whole(1)),
    "OPTIM.WARMUP_EPOCH": (-1, whole(-1)),
    "OPTIM.WARMUP_TYPE": ("linear", one_of("linear", "constant")),
    "OPTIM.WARMUP_CONS_LR": (1e-5, _RATE),
    "OPTIM.WARMUP_MIN_LR": (1e-5, _RATE),
    "OPTIM.WARMUP_RECOUNT": (True, None),
    "TRAIN.CHECKPOINT_FREQ": (0, whole(0)),
    "TRAIN.PRINT_FREQ": (10, whole(1)),
    "TEST.EVALUATOR": ("Classification", one_of(of=_evaluators)),
    "TEST.PER_CLASS_RESULT": (False, None),
    "TEST.COMPUTE_CMAT": (False, None),
    "TEST.NO_TEST": (False, None),
    "TEST.SPLIT": ("test", one_of("test", "val")),
    "TEST.FINAL_MODEL": ("last_step", one_of("last_step", "best_val")),
    "TRAINER.NAME": ("", None),
}

# What only domain adaptation and Dassl's own networks read. Dassl's configs set these keys, and programmes with a copy
# of its `DataManager` read some. A run whose config lacks them has the hash of one with these defaults.
_UNREAD: dict[str, tuple[Any, Rule | None]] = {
    "DATALOADER.TRAIN_U.SAMPLER": ("RandomSampler", _SAMPLER),
    "DATALOADER.TRAIN_U.BATCH_SIZE": (32, whole(1)),
    "DATALOADER.TRAIN_U.N_DOMAIN": (0, whole(0)),
    "DATALOADER.TRAIN_U.N_INS": (16, whole(1)),
    "DATALOADER.TRAIN_U.SAME_AS_X": (True, None),
    "DATALOADER.TRAIN_X.N_DOMAIN": (0, whole(0)),
    "DATALOADER.TRAIN_X.N_INS": (16, whole(1)),
    "DATASET.ALL_AS_UNLABELED": (False, None),
    "DATASET.CIFAR_C_LEVEL": (1, whole(1, 5)),
    "DATASET.CIFAR_C_TYPE": ("", None),
    "DATASET.NUM_LABELED": (-1, whole(-1)),
    "DATASET.STL10_FOLD": (-1, whole(-1, 9)),
    "MODEL.BACKBONE.PRETRAINED": (True, None),
    "MODEL.HEAD.ACTIVATION": ("relu", None),
    "MODEL.HEAD.BN": (True, None),
    "MODEL.HEAD.DROPOUT": (0.0, _SHARE),
    "MODEL.HEAD.HIDDEN_LAYERS": ([], each(whole(1))),
    "TRAIN.COUNT_ITER": ("train_x", one_of("train_x", "train_u", "smaller_one")),
}
KEYS |= _UNREAD
UNREAD = {key: default for key, (default, _) in _UNREAD.items()}


def node_of(keys: dict[str, tuple[Any, Rule | None]]) -> CfgNode:
    """A config of these defaults."""
    cfg = CfgNode()
    for key, (default, _) in keys.items():
        *above, leaf = key.split(".")
        node = cfg
        for name in above:
            node = node.setdefault(name, CfgNode())
        node[leaf] = default
    return cfg


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


cfg_default = node_of(KEYS)


def get_cfg_default() -> CfgNode:
    """A fresh copy of the defaults."""
    return cfg_default.clone()


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Removes, in place, the nodes of all trainers but one, so that a printed config is short."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            del cfg.TRAINER[key]
