"""Datasets that are drawn on first use, and kept: no download, and the same pictures are found again."""

from __future__ import annotations

import logging
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import absolute, writable
from xcoop.utils.files import cache_dir

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

CASES = 1200
SEED = 2019  # of the drawing; the runs' own seeds choose shots, not pictures


class DrawnDataset(MedicalDataset):
    """A phantom of `DATASET.CASES` cases (0: 1,200), drawn if it is not there.

    It lies below `DATASET.ROOT`, or below the cache if no root is given or it cannot be written to;
    `DATASET.PATH` names another folder, drawn into if it is missing.
    """

    is_phantom = True

    @abstractmethod
    def folder_name(self, cases: int) -> str:
        """Of the drawing; other pictures have another name."""

    @abstractmethod
    def draw(self, out: Path, cases: int) -> None:
        """Draws whole or not at all; FileExistsError if another process was faster."""

    @abstractmethod
    def inside(self, folder: Path) -> Path | None:
        """What is read of a drawing's folder; None if it holds no drawing."""

    def find(self, cfg: CfgNode) -> Path:
        """What is read of the phantom; drawn if it is not there."""
        cases = int(cfg.DATASET.CASES) or CASES
        for folder in _places(cfg, self.folder_name(cases)):
            if found := self.inside(folder):
                return found
        if folder.exists() and any(folder.iterdir()):
            raise self.missing([folder])
        logger.info("drawing %d phantom cases into %s, once", cases, folder)
        try:
            self.draw(folder, cases)
        except OSError:
            if not self.inside(folder):
                raise
            logger.info("another process drew %s first; it is used", folder)
        return self.inside(folder) or folder


def _places(cfg: CfgNode, name: str) -> list[Path]:
    """Where the phantom may lie; it is drawn into the last one."""
    if cfg.DATASET.PATH:
        return [absolute(cfg.DATASET.PATH)]
    cached = cache_dir() / name
    if not cfg.DATASET.ROOT:
        return [cached]
    below_root = absolute(cfg.DATASET.ROOT) / name
    return [cached, below_root] if writable(below_root) else [below_root, cached]
