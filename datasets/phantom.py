"""Drawn dermoscopic images with the concept frequencies of Derm7pt, in its layout: made on first use."""

from __future__ import annotations

from pathlib import Path

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import SEED, DrawnDataset
from xcoop.datasets.derm7pt import META, Derm7pt
from xcoop.phantom import VERSION

MIXES = {"mel-vs-nev": "balanced"}  # of the groups; the tasks that need all five take the real set's proportions


@register_dataset()
class Phantom(DrawnDataset, Derm7pt):
    """A dermoscopy phantom, read as Derm7pt is, for the same tasks."""

    dataset_dir = "phantom-derm7pt"
    concept_bank = "phantom"

    @property
    def mix(self) -> str:
        """Of the groups."""
        return MIXES.get(self.task, "real")

    def folder_name(self, cases: int) -> str:
        """With cases, seed, version and mix."""
        name = f"{self.dataset_dir}-{cases}-{SEED}-v{VERSION}"
        return name if self.mix == "balanced" else f"{name}-{self.mix}"

    def draw(self, out: Path, cases: int) -> None:
        """Draws the images and their masks."""
        from xcoop.phantom.layouts import write_derm7pt  # it imports scipy, and is needed once

        write_derm7pt(out, cases, SEED, self.mix)

    def inside(self, folder: Path) -> Path | None:
        """The folder with `meta/meta.csv`."""
        return next((path for path in (folder / "release_v0", folder) if (path / META).is_file()), None)
