"""The engine's configuration: every key of Dassl 0.6.3 with its default."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from yacs.config import CfgNode

from xcoop.utils.rules import TEXT, Rule, each, number, one_of, whole


def _sampling(sampler: str, **more: Any) -> dict[str, Any]:
    return {"SAMPLER": sampler, "BATCH_SIZE": 32} | more


_DEFAULTS: dict[str, Any] = {
    "VERSION": 1,
    "OUTPUT_DIR": "./output",
    "RESUME": "",  # a folder whose checkpoints are gone on from; "" looks in OUTPUT_DIR
    "SEED": -1,  # below 0: no fixed seed
    "USE_CUDA": True,
    "VERBOSE": True,
    "INPUT": {
        "SIZE": (224, 224),  # height, width in pixels
        "INTERPOLATION": "bilinear",  # bilinear, bicubic, nearest
        "TRANSFORMS": (),
        "NO_TRANSFORM": False,
        "PIXEL_MEAN": [0.485, 0.456, 0.406],
        "PIXEL_STD": [0.229, 0.224, 0.225],
        "CROP_PADDING": 4,
        "RRCROP_SCALE": (0.08, 1.0),
        "CUTOUT_N": 1,
        "CUTOUT_LEN": 16,
        "GN_MEAN": 0.0,
        "GN_STD": 0.15,
        "RANDAUGMENT_N": 2,
        "RANDAUGMENT_M": 10,
        "COLORJITTER_B": 0.4,
        "COLORJITTER_C": 0.4,
        "COLORJITTER_S": 0.4,
        "COLORJITTER_H": 0.1,
        "RGS_P": 0.2,
        "GB_P": 0.5,
        "GB_K": 21,
    },
    "DATASET": {
        "ROOT": "",
        "NAME": "",
        "SOURCE_DOMAINS": (),
        "TARGET_DOMAINS": (),
        "NUM_LABELED": -1,
        "NUM_SHOTS": -1,
        "VAL_PERCENT": 0.1,
        "STL10_FOLD": -1,
        "CIFAR_C_TYPE": "",
        "CIFAR_C_LEVEL": 1,
        "ALL_AS_UNLABELED": False,
    },
    "DATALOADER": {
        "NUM_WORKERS": 4,
        "K_TRANSFORMS": 1,  # how many augmented views of each training image
        "RETURN_IMG0": False,  # also give the image without augmentation
        "TRAIN_X": _sampling("RandomSampler", N_DOMAIN=0, N_INS=16),
        "TRAIN_U": _sampling("RandomSampler", N_DOMAIN=0, N_INS=16, SAME_AS_X=True),
        "TEST": _sampling("SequentialSampler"),
    },
    "MODEL": {
        "INIT_WEIGHTS": "",
        "BACKBONE": {"NAME": "", "PRETRAINED": True},
        "HEAD": {"NAME": "", "HIDDEN_LAYERS": (), "ACTIVATION": "relu", "BN": True, "DROPOUT": 0.0},
    },
    "OPTIM": {
        "NAME": "adam",
        "LR": 0.0003,
        "WEIGHT_DECAY": 5e-4,
        "MOMENTUM": 0.9,
        "SGD_DAMPNING": 0,
        "SGD_NESTEROV": False,
        "RMSPROP_ALPHA": 0.99,
        "ADAM_BETA1": 0.9,
        "ADAM_BETA2": 0.999,
        "STAGED_LR": False,
        "NEW_LAYERS": (),
        "BASE_LR_MULT": 0.1,
        "LR_SCHEDULER": "single_step",
        "STEPSIZE": (-1,),
        "GAMMA": 0.1,
        "MAX_EPOCH": 10,
        "WARMUP_EPOCH": -1,
        "WARMUP_TYPE": "linear",
        "WARMUP_CONS_LR": 1e-5,
        "WARMUP_MIN_LR": 1e-5,
        "WARMUP_RECOUNT": True,
    },
    "TRAIN": {"CHECKPOINT_FREQ": 0, "PRINT_FREQ": 10, "COUNT_ITER": "train_x"},
    "TEST": {
        "EVALUATOR": "Classification",
        "PER_CLASS_RESULT": False,
        "COMPUTE_CMAT": False,
        "NO_TEST": False,
        "SPLIT": "test",
        "FINAL_MODEL": "last_step",  # or best_val
    },
    "TRAINER": {"NAME": ""},
}

_SHARE, _RATE = number(0, 1), number(0)


def _transforms() -> Iterable[str]:
    """Those of the engine that runs: Dassl itself has two that ours does not."""
    from dassl.data.transforms import transforms

    from xcoop.engine.transforms import OFFERED

    return getattr(transforms, "AVAI_CHOICES", OFFERED)


def _evaluators() -> Iterable[str]:
    from dassl.evaluation.build import EVALUATOR_REGISTRY

    return list(EVALUATOR_REGISTRY.registered_names())


def _sampling_rules(node: str) -> dict[str, Rule]:
    samplers = ("RandomSampler", "SequentialSampler", "RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler")
    rules = {"SAMPLER": one_of(*samplers), "BATCH_SIZE": whole(1), "N_DOMAIN": whole(0), "N_INS": whole(1)}
    return {f"DATALOADER.{node}.{key}": rule for key, rule in rules.items() if key in _DEFAULTS["DATALOADER"][node]}


# What the keys take, by their dotted name; `xcoop.config.defaults.check_settings` applies it.
RULES: dict[str, Rule] = {
    "SEED": whole(high=2**32 - 1),  # numpy's limit
    "INPUT.SIZE": each(whole(1, 4096), 2),
    "INPUT.INTERPOLATION": one_of("bilinear", "bicubic", "nearest"),
    "INPUT.TRANSFORMS": each(one_of(of=_transforms)),
    "INPUT.PIXEL_MEAN": each(number(), 3),
    "INPUT.PIXEL_STD": each(number(above=0), 3),
    "INPUT.CROP_PADDING": whole(0),
    "INPUT.RRCROP_SCALE": Rule(
        "two shares of the image in (0, 1], the smaller one first",
        lambda value: each(number(above=0, high=1), 2).holds(value) and value[0] <= value[1],
    ),
    "INPUT.CUTOUT_N": whole(0),
    "INPUT.CUTOUT_LEN": whole(0),
    "INPUT.GN_MEAN": number(),
    "INPUT.GN_STD": number(0),
    "INPUT.RANDAUGMENT_N": whole(0),
    "INPUT.RANDAUGMENT_M": whole(0, 30),
    **{f"INPUT.COLORJITTER_{which}": number(0) for which in "BCS"},
    "INPUT.COLORJITTER_H": number(0, 0.5),
    "INPUT.RGS_P": _SHARE,
    "INPUT.GB_P": _SHARE,
    "INPUT.GB_K": Rule(
        "an odd whole number below 4096", lambda value: type(value) is int and 0 < value < 4096 and value % 2 == 1
    ),
    "DATASET.SOURCE_DOMAINS": each(TEXT),
    "DATASET.TARGET_DOMAINS": each(TEXT),
    "DATASET.NUM_LABELED": whole(-1),
    "DATASET.NUM_SHOTS": Rule(
        "the training images a class, a whole number above 0, or -1 for all",
        lambda value: type(value) is int and (value > 0 or value == -1),
    ),
    "DATASET.VAL_PERCENT": number(0, below=1),
    "DATASET.CIFAR_C_LEVEL": whole(1, 5),
    "DATALOADER.NUM_WORKERS": whole(0),
    "DATALOADER.K_TRANSFORMS": whole(1),
    **_sampling_rules("TRAIN_X"),
    **_sampling_rules("TRAIN_U"),
    **_sampling_rules("TEST"),
    "MODEL.HEAD.HIDDEN_LAYERS": each(whole(1)),
    "MODEL.HEAD.DROPOUT": _SHARE,
    "OPTIM.NAME": one_of("adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"),
    "OPTIM.LR": number(above=0),
    "OPTIM.WEIGHT_DECAY": _RATE,
    "OPTIM.MOMENTUM": _SHARE,
    "OPTIM.SGD_DAMPNING": _SHARE,
    "OPTIM.RMSPROP_ALPHA": _SHARE,
    "OPTIM.ADAM_BETA1": number(0, below=1),
    "OPTIM.ADAM_BETA2": number(0, below=1),
    "OPTIM.BASE_LR_MULT": _RATE,
    "OPTIM.LR_SCHEDULER": one_of("single_step", "multi_step", "cosine"),
    "OPTIM.STEPSIZE": Rule(
        "a list of epochs, each a whole number above 0 (or -1 alone)",
        lambda value: (
            isinstance(value, (list, tuple)) and bool(value) and all(type(e) is int and e >= -1 for e in value)
        ),
    ),
    "OPTIM.GAMMA": number(0),
    "OPTIM.MAX_EPOCH": whole(1),
    "OPTIM.WARMUP_EPOCH": whole(-1),
    "OPTIM.WARMUP_TYPE": one_of("linear", "constant"),
    "OPTIM.WARMUP_CONS_LR": _RATE,
    "OPTIM.WARMUP_MIN_LR": _RATE,
    "TRAIN.CHECKPOINT_FREQ": whole(0),
    "TRAIN.PRINT_FREQ": whole(1),
    "TRAIN.COUNT_ITER": one_of("train_x", "train_u", "smaller_one"),
    "TEST.EVALUATOR": one_of(of=_evaluators),
    "TEST.SPLIT": one_of("test", "val"),
    "TEST.FINAL_MODEL": one_of("last_step", "best_val"),
}

# Trainers of Dassl's own that this engine does not have. Their nodes exist and take any key, so that a config file
# which mentions them can be read.
_FOREIGN = (
    "MCD MME CDAC SE M3SDA DAEL CROSSGRAD DDAIG DAELDG DOMAINMIX ENTMIN MEANTEACHER MIXMATCH FIXMATCH".split()  # noqa: SIM905
)


def _build() -> CfgNode:
    cfg = CfgNode(_DEFAULTS)
    for name in _FOREIGN:
        cfg.TRAINER[name] = CfgNode(new_allowed=True)
    return cfg


cfg_default = _build()


def get_cfg_default() -> CfgNode:
    """A fresh copy of the defaults."""
    return cfg_default.clone()


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Removes, in place, the nodes of all trainers but one, so that a printed config is short."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            del cfg.TRAINER[key]
