"""BUSI: 780 breast ultrasound images, benign, malignant or normal, with masks (Al-Dhabyani et al. 2020)."""

from __future__ import annotations

import re
from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import read_class_folders
from xcoop.data.splits import Splits

ARCHIVE = "Dataset_BUSI_with_GT"
FOLDERS = ("benign", "malignant", "normal")
MASK = re.compile(r"_mask(_\d+)?$", re.IGNORECASE)  # `benign (4)_mask.png`, `benign (4)_mask_1.png`


@register_dataset()
class BUSI(MedicalDataset):
    """The archive's class folders without their masks. There are no official splits, and patients are not told.

    `DATASET.TASK`: `three-classes` (default); `benign-vs-malignant`, without the normal scans.
    """

    dataset_dir = "BUSI"
    about_name = "busi"
    concept_bank = "busi"
    positive_class = "malignant tumor"
    tasks = {  # noqa: RUF012 - the engine's base class is untyped
        "three-classes": ("benign tumor", "malignant tumor", "normal scan"),
        "benign-vs-malignant": ("benign tumor", "malignant tumor"),
    }

    def find(self, cfg: CfgNode) -> Path:
        """The folder that holds `benign/`, `malignant/` and `normal/`."""
        places = self.places(cfg, "BUSI", "busi", "")
        candidates = [place / below for place in places for below in (ARCHIVE, f"{ARCHIVE}/{ARCHIVE}", "")]
        return self.first_holding(candidates, *FOLDERS)

    def read(self, folder: Path) -> Splits:
        """The images of the task's classes, to be divided."""
        labels = {name: label for label, name in enumerate(FOLDERS[: len(self.class_names)])}
        return Splits.undivided(
            read_class_folders(folder, labels, self.class_names, keep=lambda name: not is_mask(name))
        )

    def is_companion(self, path: str) -> bool:
        """Whether it is a mask."""
        return is_mask(path)


def is_mask(name: str) -> bool:
    """Whether a file of this name is the mask of another."""
    return MASK.search(Path(name).stem) is not None
