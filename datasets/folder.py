"""Your own images: a folder with a directory a class, or a table, and nothing else."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import TEST_SHARE, MedicalDataset
from xcoop.data.folders import left_out
from xcoop.data.items import Remark, Splits
from xcoop.data.own import TABLES, read_own
from xcoop.data.splits import Recipe, made_split
from xcoop.utils.console import DatasetError

if TYPE_CHECKING:
    from yacs.config import CfgNode

BANK = "concepts.yaml"  # in the folder: the concept bank of its classes
TASK = "classes"


@register_dataset()
class Folder(MedicalDataset):
    """`DATASET.PATH` names the folder or the table; see `read_own`. Without a split one is made and kept."""

    def set_up(self, cfg: CfgNode) -> None:
        """Reads the folder or the table, which alone tell the classes."""
        if not cfg.DATASET.PATH:
            raise DatasetError(
                "This dataset is your own: name the folder of its images, or its CSV file, with DATASET.PATH (such as "
                "DATASET.PATH my_images)"
            )
        (place,) = self.places(cfg)
        if not place.exists():
            raise self.missing([place])
        self._own, self._seed = read_own(place, list(cfg.DATASET.CLASSES)), int(cfg.DATASET.SPLIT_SEED)
        self.tasks = {TASK: self._own.classes}
        bank = self._own.folder / BANK
        self.concept_bank = str(bank) if bank.is_file() else ""

    def find(self, cfg: CfgNode) -> Path:
        """The folder to which the paths of the images are relative."""
        return self._own.folder

    def read(self, folder: Path) -> Splits:
        """The splits that directories or table state."""
        return self._own.splits

    def remarks(self, folder: Path, splits: Splits) -> list[Remark]:
        """How the table was read; what lies below the directories of the classes, or beside them, and is not read.

        A table may choose among images: what it does not list is mentioned, and is no fault.
        """
        taken = {item.path for item in splits.all()}
        if self._own.table:
            beside = left_out(
                folder,
                {posixpath.dirname(path) for path in taken},
                lambda path: path in taken or path.lower().endswith(TABLES),
            )
            return [*self._own.remarks, *(replace(remark, matters=False) for remark in beside)]
        return [*self._own.remarks, *left_out(folder, [""], taken.__contains__)]

    @classmethod
    def classes_of(cls, cfg: CfgNode) -> tuple[str, ...] | None:
        """The classes in the files, if there are any."""
        places = cls.places(cfg) if cfg.DATASET.PATH else []
        return read_own(places[0], list(cfg.DATASET.CLASSES)).classes if places and places[0].exists() else None

    def _divide(self, splits: Splits, val_share: float, hashes: Mapping[str, str]) -> Splits:
        if splits.divided:
            return super()._divide(splits, val_share, hashes)
        recipe = Recipe(self._seed, TEST_SHARE, val_share)
        return made_split(splits.train, recipe, hashes, self._own.folder, self._own.table)
