"""Drawn chest radiographs, normal or with pneumonia, in the layout of the pneumonia archive: made on first use."""

from __future__ import annotations

from pathlib import Path

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import SEED, DrawnDataset
from xcoop.datasets.pneumonia import Pneumonia
from xcoop.phantom import VERSION


@register_dataset()
class PhantomChest(DrawnDataset, Pneumonia):
    """A chest phantom, read as the archive is, for the same tasks."""

    dataset_dir = "phantom-chest"

    def folder_name(self, cases: int) -> str:
        """With cases, seed and version."""
        return f"{self.dataset_dir}-{cases}-{SEED}-v{VERSION}"

    def draw(self, out: Path, cases: int) -> None:
        """Draws the images and their masks."""
        from xcoop.phantom.layouts import write_chest  # it imports scipy, and is needed once

        write_chest(out, cases, SEED)

    def inside(self, folder: Path) -> Path | None:
        """The folder with `train/` and `test/`."""
        places = (folder / "chest_xray", folder)
        return next((path for path in places if (path / "train").is_dir() and (path / "test").is_dir()), None)
