"""Drawn dermoscopic images with the concept frequencies of Derm7pt, in its layout: made on first use."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from xcoop.data.folders import absolute, sweep, writable
from xcoop.datasets.derm7pt import META, Derm7pt
from xcoop.files import cache_dir
from xcoop.phantom.derm_layout import VERSION, write_derm7pt
from xcoop.plugins import register_dataset

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

CASES = 1200
SEED = 2019  # of the drawing; the runs' own seeds choose shots, not pictures
MIXES = {"mel-vs-nev": "balanced"}  # of the groups; the tasks that need all five take the real set's proportions


@register_dataset()
class Phantom(Derm7pt):
    """A dermoscopy phantom of `DATASET.CASES` cases (0: 1,200), read as Derm7pt is, for the same tasks.

    It lies below `DATASET.ROOT`, or below the cache if no root is given or it cannot be written to;
    `DATASET.PATH` names another folder, drawn into if it is missing.
    """

    dataset_dir = "phantom-derm7pt"
    concept_bank = "phantom"
    is_phantom = True

    def find(self, cfg: CfgNode) -> Path:
        """The phantom's `release_v0`; drawn if it is not there."""
        cases = int(cfg.DATASET.CASES) or CASES
        if cases < 0:
            raise ValueError(f"DATASET.CASES must be positive, or 0 for the default {CASES}; not {cases}")
        mix = MIXES.get(self.task, "real")
        name = f"{self.dataset_dir}-{cases}-{SEED}-v{VERSION}" + ("" if mix == "balanced" else f"-{mix}")
        for folder in _places(cfg, name):
            if found := _release(folder):
                return found
        if folder.exists() and any(folder.iterdir()):
            raise self.missing([folder / META])
        logger.info("drawing %d phantom cases into %s, once", cases, folder)
        sweep(folder)
        try:
            _draw(folder, cases, mix)
        except OSError:
            if not _release(folder):
                raise
            logger.info("another process drew %s first; it is used", folder)
        return _release(folder) or folder


def _places(cfg: CfgNode, name: str) -> list[Path]:
    """Where the phantom may lie; it is drawn into the last one."""
    if cfg.DATASET.PATH:
        return [absolute(cfg.DATASET.PATH)]
    cached = cache_dir() / name
    if not cfg.DATASET.ROOT:
        return [cached]
    below_root = absolute(cfg.DATASET.ROOT) / name
    return [cached, below_root] if writable(below_root) else [below_root, cached]


def _release(folder: Path) -> Path | None:
    """The folder with `meta/meta.csv` in a phantom; None if there is none."""
    return next((path for path in (folder / "release_v0", folder) if (path / META).is_file()), None)


def _draw(out: Path, cases: int, mix: str) -> None:
    """Whole or not at all; FileExistsError if another process was faster."""
    write_derm7pt(out, cases, SEED, mix=mix, progress=True)
