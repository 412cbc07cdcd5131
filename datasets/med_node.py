"""MED-NODE: 170 clinical photographs of melanomas and nevi, not dermoscopic (Giotis et al. 2015)."""

from __future__ import annotations

from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import read_class_folders
from xcoop.data.splits import Splits

ARCHIVE = "complete_mednode_dataset"
LABELS = {"naevus": 0, "melanoma": 1}


@register_dataset()
class MedNode(MedicalDataset):
    """The two folders of the archive. There are no official splits, and patients are not told."""

    dataset_dir = "MED-NODE"
    about_name = "med_node"
    concept_bank = "med_node"
    positive_class = "melanoma"
    tasks = {"nevus-vs-melanoma": ("nevus", "melanoma")}  # noqa: RUF012 - the engine's base class is untyped

    def find(self, cfg: CfgNode) -> Path:
        """The folder that holds `melanoma/` and `naevus/`."""
        places = self.places(cfg, "MED-NODE", "med_node", "mednode", "")
        candidates = [place / below for place in places for below in (ARCHIVE, f"{ARCHIVE}/{ARCHIVE}", "")]
        return self.first_holding(candidates, *LABELS)

    def read(self, folder: Path) -> Splits:
        """All images, to be divided."""
        return Splits.undivided(read_class_folders(folder, LABELS, self.class_names))
