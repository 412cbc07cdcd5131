"""A dataset of coloured squares and a linear trainer, registered with whichever engine answers to `import dassl`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dassl
import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from PIL import Image
from torch import nn
from torch.nn import functional as F

from xcoop.engine.imports import Facade

ANY = re.compile(r"(?s).*")  # where the engines' words differ

IS_REAL = not isinstance(dassl, Facade)
CLASSES = ("red", "green", "blue")
COUNTS = {"train": 6, "val": 3, "test": 5}  # images a class


def real_is_wrong(reason: str) -> pytest.MarkDecorator:
    """For behaviour that we promise and that the real Dassl is known not to have."""
    return pytest.mark.xfail(IS_REAL, reason=f"Dassl: {reason}", strict=True)


def ours_only(reason: str) -> pytest.MarkDecorator:
    """For promises about which the real Dassl says nothing."""
    return pytest.mark.skipif(IS_REAL, reason=f"a promise of our own engine: {reason}")


def draw_squares(folder: Path) -> None:
    """20 x 24 pictures `<split>-<class>-<i>.png`, noisy, brightest in the channel of their class."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for label in range(len(CLASSES)):
            for i in range(count):
                pixels = rng.integers(0, 120, (20, 24, 3))
                pixels[..., label] += 60
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{split}-{label}-{i}.png")


def items_of(folder: Path, split: str) -> list[Any]:
    """The datums of one split, class by class."""
    return [
        Datum(impath=str(folder / f"{split}-{label}-{i}.png"), label=label, classname=CLASSES[label])
        for label in range(len(CLASSES))
        for i in range(COUNTS[split])
    ]


class Squares(DatasetBase):
    """The coloured squares in the folder DATASET.ROOT."""

    def __init__(self, cfg: Any) -> None:
        splits = {split: items_of(Path(cfg.DATASET.ROOT), split) for split in COUNTS}
        super().__init__(train_x=splits["train"], val=splits["val"], test=splits["test"])


class SquaresWithoutVal(DatasetBase):
    """The same without a validation split."""

    def __init__(self, cfg: Any) -> None:
        root = Path(cfg.DATASET.ROOT)
        super().__init__(train_x=items_of(root, "train"), test=items_of(root, "test"))


class Linear(TrainerX):
    """One linear layer on the pixels, written as CoOp's trainers are."""

    def build_model(self) -> None:
        height, width = self.cfg.INPUT.SIZE
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, self.num_classes)).to(self.device)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("linear", self.model, self.optim, self.sched)
        self.rates: list[float] = []

    def parse_batch_train(self, batch: Any) -> Any:
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def forward_backward(self, batch: Any) -> dict[str, float]:
        images, labels = self.parse_batch_train(batch)
        output = self.model(images)
        loss = F.cross_entropy(output, labels)
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.rates.append(self.get_current_lr())
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, labels)[0].item()}


class KilledError(Exception):
    """Stands for a process that dies."""


class Dying(Linear):
    """Dies in the middle of the fourth epoch."""

    def forward_backward(self, batch: Any) -> dict[str, float]:
        if self.epoch == 3 and self.batch_idx == 1:
            raise KilledError
        return super().forward_backward(batch)


class Unread(Linear):
    """Gives scalar tensors, which nobody has read yet, in the place of numbers."""

    def forward_backward(self, batch: Any) -> dict[str, Any]:
        return {name: torch.tensor(value) for name, value in super().forward_backward(batch).items()}


for _dataset in (Squares, SquaresWithoutVal):
    DATASET_REGISTRY.register(_dataset, force=True)
for _trainer in (Linear, Dying, Unread):
    TRAINER_REGISTRY.register(_trainer, force=True)


def make_cfg(root: Path, out: Path, *options: Any) -> Any:
    """A config of six short epochs with a cosine after one epoch of warm-up; `options` are KEY, VALUE, ..."""
    cfg = get_cfg_default()
    base = {
        "DATASET.NAME": "Squares",
        "DATASET.ROOT": str(root),
        "TRAINER.NAME": "Linear",
        "OUTPUT_DIR": str(out),
        "USE_CUDA": False,
        "INPUT.SIZE": (16, 16),
        "INPUT.TRANSFORMS": ("random_resized_crop", "random_flip", "normalize"),
        "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.TRAIN_X.BATCH_SIZE": 8,
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": 0.002,
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.MAX_EPOCH": 6,
        "OPTIM.WARMUP_EPOCH": 1,
        "OPTIM.WARMUP_TYPE": "constant",
        "TRAIN.CHECKPOINT_FREQ": 3,
    }
    cfg.merge_from_list([part for pair in base.items() for part in pair])
    cfg.merge_from_list(list(options))
    return cfg


def weights_of(trainer: Any) -> torch.Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
