"""A training run in a second: 32 px pictures of two kinds, a concept bank for them, and a CLIP with random weights."""

from __future__ import annotations

import xcoop  # isort: skip  # first: it answers to `import dassl`  # noqa: F401

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from PIL import Image
from yacs.config import CfgNode

from xcoop.config.plugins import get_cfg

ConfigMaker = Callable[..., CfgNode]  # the fixture `make_cfg`


@dataclass
class Made:
    """A finished run, and what its model was before: all tensors, those of its checkpoint, its text features."""

    trainer: Any
    before: dict[str, torch.Tensor]
    started: dict[str, torch.Tensor]
    text: torch.Tensor


Usual = Callable[[str], Made]  # the fixture `usual`

NAMES = ["dark_spot", "bright spot"]
SPLITS = {"train": 10, "val": 4, "test": 7}  # images a class; odd numbers leave short batches
PLACES = [(8, 8), (8, 22), (22, 8), (22, 22)]

BANK = """
name: spots
version: "1"
dataset: TinyImages
template: "a photo of a {class}, {concepts}."
reviewed_by: []
sources: {tests: "Made for the tests."}
classes:
  dark_spot:
    - {concept: low brightness, source: tests}
    - {concept: deep shadow, source: tests}
  bright spot:
    - {concept: high brightness, source: tests}
    - {concept: white glow, source: tests}
"""


class TinyImages(DatasetBase):
    """Pictures drawn below DATASET.ROOT: grey noise with a dark or a bright spot; the bank lies beside them."""

    is_phantom = True
    patients = None
    split_hash = "of-the-tests"

    def __init__(self, cfg: CfgNode) -> None:
        self.dataset_dir = cfg.DATASET.ROOT
        root = Path(cfg.DATASET.ROOT)
        self.concept_bank = str(root / "bank.yaml")
        train, val, test = (self._items(root / split) for split in SPLITS)
        super().__init__(train_x=train, val=val, test=test)

    @staticmethod
    def _items(folder: Path) -> list[Datum]:
        return [
            Datum(impath=str(path), label=int(path.name[0]), classname=NAMES[int(path.name[0])])
            for path in sorted(folder.glob("*.png"))
        ]


if "TinyImages" not in DATASET_REGISTRY.registered_names():
    DATASET_REGISTRY.register(TinyImages)


def draw(root: Path) -> Path:
    """Draws the dataset, unless it is there."""
    if (root / "bank.yaml").is_file():
        return root
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        (root / split).mkdir(parents=True)
        for label in (0, 1):
            for i in range(count):
                Image.fromarray(_picture(rng, label)).save(root / split / f"{label}-{i:02d}.png")
    (root / "bank.yaml").write_text(BANK)
    return root


def _picture(rng: np.random.Generator, label: int) -> np.ndarray:
    picture = rng.normal(128, 25, (32, 40, 3))  # not square: cropping and squeezing differ
    y, x = PLACES[rng.integers(4)]
    picture[y - 5 : y + 5, x - 1 : x + 9] += 90 if label else -90
    return picture.clip(0, 255).astype(np.uint8)


def config(trainer: str, data: Path, weights: Path, output: Path, *pairs: Any) -> CfgNode:
    """The frozen config of a short run; `pairs` are KEY, VALUE, ..."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("TRAINER.NAME", trainer, "DATASET.NAME", "TinyImages", "DATASET.ROOT", str(data), "SEED", 1),
            *("OUTPUT_DIR", str(output), "USE_CUDA", False, "VERBOSE", False),
            *("MODEL.BACKBONE.NAME", "ViT-B/16", "MODEL.BACKBONE.PATH", str(weights)),
            *("INPUT.SIZE", [32, 32], "INPUT.INTERPOLATION", "bicubic", "INPUT.TRANSFORMS", ["normalize"]),
            *("INPUT.PIXEL_MEAN", [0.48145466, 0.4578275, 0.40821073]),
            *("INPUT.PIXEL_STD", [0.26862954, 0.26130258, 0.27577711]),
            *("DATALOADER.NUM_WORKERS", 0, "DATALOADER.TRAIN_X.BATCH_SIZE", 8, "DATALOADER.TEST.BATCH_SIZE", 5),
            *("OPTIM.NAME", "sgd", "OPTIM.LR", 0.01, "OPTIM.MAX_EPOCH", 2, "OPTIM.LR_SCHEDULER", "cosine"),
            *("OPTIM.WARMUP_EPOCH", 1, "OPTIM.WARMUP_TYPE", "constant", "TRAIN.CHECKPOINT_FREQ", 1),
        ]
    )
    for node in cfg.TRAINER.values():
        if isinstance(node, CfgNode) and "PREC" in node:
            node.PREC = "fp32"
    cfg.merge_from_list(list(pairs))
    cfg.freeze()
    return cfg


def build(cfg: CfgNode) -> Any:
    """The trainer, seeded as a run is."""
    set_random_seed(cfg.SEED)
    return build_trainer(cfg)


def trained(cfg: CfgNode) -> Any:
    """The trainer after its run."""
    trainer = build(cfg)
    trainer.train()
    return trainer


def stop_in_the_third_epoch(trainer: Any) -> None:
    """Trains, and is interrupted in the second batch of the third epoch."""
    step = trainer.forward_backward

    def interrupted(batch: dict[str, object]) -> dict[str, float]:
        if trainer.epoch == 2 and trainer.batch_idx == 1:
            raise KeyboardInterrupt
        shown: dict[str, float] = step(batch)
        return shown

    trainer.forward_backward = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


def logits(trainer: Any, split: str = "test") -> torch.Tensor:
    """Logits of all images of a split, without any cache, (N, C)."""
    loader = getattr(trainer.dm, f"{split}_loader")
    trainer.set_model_mode("eval")
    with torch.no_grad():
        return torch.cat([trainer.model(batch["img"]) for batch in loader])


def stored(trainer: Any, epoch: int) -> dict[str, Any]:
    """The checkpoint after so many epochs."""
    path = Path(trainer.output_dir, "prompt_learner", f"model.pth.tar-{epoch}")
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def table_of(registry: Any) -> dict[str, Any]:
    """What a registry of either engine holds, by name: for tests that put it back."""
    table: dict[str, Any] = next(value for value in vars(registry).values() if isinstance(value, dict))
    return table
