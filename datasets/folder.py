"""Your own images: a folder with a directory a class, a table, or a file of splits, and nothing else."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import left_out
from xcoop.data.ownfolder import read_own
from xcoop.data.ownguide import BANK, guide
from xcoop.data.ownplace import is_list, not_there
from xcoop.data.ownsplit import kept_split, made_split, testless
from xcoop.data.splits import Remark, Splits
from xcoop.utils.console import DatasetError

TASK = "classes"


@register_dataset()
class Folder(MedicalDataset):
    """`DATASET.PATH` names the folder, or the file that lists; see `read_own`. Without a split one is made and kept."""

    guide = staticmethod(guide)

    def set_up(self, cfg: CfgNode) -> None:
        """Reads the folder or the file that lists its images, which alone tell the classes."""
        if not cfg.DATASET.PATH:
            raise DatasetError(
                "This dataset is your own: name the folder of its images, its CSV file, or its JSON file of splits "
                "(such as DATASET.PATH my_images). `xcoop data info folder` says how they may lie"
            )
        (place,) = self.places(cfg)
        if not place.exists():
            raise not_there(place, cfg.DATASET.ROOT)
        self._own, self._seed = read_own(place, list(cfg.DATASET.CLASSES)), int(cfg.DATASET.SPLIT_SEED)
        self._from: list[Remark] = []  # on where the test images are from
        self.tasks = {TASK: self._own.classes}
        bank = self._own.folder / BANK
        self.concept_bank = str(bank) if bank.is_file() else ""

    def kept_split(self) -> Path | None:
        """The file beside the images, or below the cache."""
        return kept_split(self._own, self._seed)

    def find(self, cfg: CfgNode) -> Path:
        """The folder to which the paths of the images are relative."""
        return self._own.folder

    def read(self, folder: Path) -> Splits:
        """The splits that directories, table or file of splits state; without a test, what `DATASET.TEST_FROM` says."""
        return self._own.splits

    def tested(self, cfg: CfgNode, folder: Path, splits: Splits) -> Splits:
        """The splits with the test images that `DATASET.TEST_FROM` gives to a set that has none."""
        source = self._own.source
        if not splits.divided or splits.test:
            return super().tested(cfg, folder, splits)
        chosen, self._from = testless(source, splits, cfg.DATASET.TEST_FROM, self._seed)
        return chosen

    def remarks(self, folder: Path, splits: Splits) -> list[Remark]:
        """How the file was read; what lies below the directories of the classes, or beside them, and is not read.

        A table or a file of splits may choose among images: what it does not list is mentioned, and is no fault.
        """
        taken = {item.path for item in splits.all()}
        if self._own.table:
            beside = left_out(
                folder,
                {posixpath.dirname(path) for path in taken},
                lambda path: path in taken or is_list(posixpath.basename(path)),
            )
            return [*self._own.remarks, *self._from, *(replace(remark, matters=False) for remark in beside)]
        return [
            *self._own.remarks,
            *self._from,
            *left_out(folder, [""], lambda path: path in taken or ("/" not in path and is_list(path))),
        ]

    @classmethod
    def classes_of(cls, cfg: CfgNode) -> tuple[str, ...] | None:
        """The classes in the files, if there are any."""
        places = cls.places(cfg) if cfg.DATASET.PATH else []
        return read_own(places[0], list(cfg.DATASET.CLASSES)).classes if places and places[0].exists() else None

    def _divide(self, splits: Splits, val_share: float, hashes: Mapping[str, str]) -> Splits:
        if splits.divided:
            return super()._divide(splits, val_share, hashes)
        return made_split(splits.train, self._own, self._seed, val_share, hashes)
