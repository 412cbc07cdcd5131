"""The engine's configuration: every key of Dassl 0.6.3 with its default."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode


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
