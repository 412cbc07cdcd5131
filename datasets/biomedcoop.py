"""The sets of the BiomedCoOp benchmark: a folder of images each, and a JSON file that lists its published splits."""

from __future__ import annotations

from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import FamilyDataset
from xcoop.data.splitfile import names_of_labels, read_splits, refuse_absent
from xcoop.data.splits import Splits
from xcoop.utils.console import DatasetError

MARK = "_BiomedCoOp"  # ends the name of a set that another format has as well; no folder has it


@register_dataset()
class BiomedCoOp(FamilyDataset):
    """The published splits, unchanged, with their class names and label order: figures compare with the published."""

    whole_folders = False

    def find(self, cfg: CfgNode) -> Path:
        """`<NAME>/<NAME>` beside `<NAME>/split_<NAME>.json`; `DATASET.PATH` is the outer folder."""
        name = self.name.removesuffix(MARK)
        places = self.places(cfg, name, "")
        for place in places:
            if (place / f"split_{name}.json").is_file() and (place / name).is_dir():
                return place / name
        raise self.missing([path for place in places for path in (place / f"split_{name}.json", place / name)])

    def read(self, folder: Path) -> Splits:
        """The rows of the JSON file; every image that they name must be there."""
        source = folder.parent / f"split_{folder.name}.json"
        splits = read_splits(source)
        names = names_of_labels(splits)
        if names != {label: {name} for label, name in enumerate(self.class_names)}:
            found = ", ".join(f"{label}: {' and '.join(map(repr, sorted(names[label])))}" for label in names)
            expected = ", ".join(f"{label}: {name!r}" for label, name in enumerate(self.class_names))
            raise DatasetError(
                f"{source} has other classes than the published.\n  there:     {found}\n  published: {expected}"
            )
        refuse_absent(source, splits, folder)
        return splits
