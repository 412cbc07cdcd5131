"""The sets of the BiomedCoOp benchmark: a folder of images each, and a JSON file that lists its published splits."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import FamilyDataset
from xcoop.data.folders import name_some
from xcoop.data.splits import SPLITS, Item, Splits
from xcoop.utils.console import DatasetError, shown
from xcoop.utils.reading import MOST_JSON, parse_json, read_bytes

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
        names: dict[int, set[str]] = defaultdict(set)
        for item in splits.all():
            names[item.label].add(item.classname)
        if dict(names) != {label: {name} for label, name in enumerate(self.class_names)}:
            found = ", ".join(f"{label}: {' and '.join(map(repr, sorted(names[label])))}" for label in sorted(names))
            expected = ", ".join(f"{label}: {name!r}" for label, name in enumerate(self.class_names))
            raise DatasetError(
                f"{source} has other classes than the published.\n  there:     {found}\n  published: {expected}"
            )
        paths = [item.path for item in splits.all()]
        if absent := [path for path in paths if not (folder / path).is_file()]:
            few = name_some(absent, 5)
            raise DatasetError(
                f"{len(absent)} of the {len(paths)} images that {source} lists are not in {folder}: {few}"
            )
        return splits


def read_splits(source: Path) -> Splits:
    """The splits that a JSON file lists as `{"train": [[path, label, class name], ...], "val": ..., "test": ...}`.

    Raises:
        DatasetError: the file is no JSON, lacks a split, or has a row of another form.
    """
    try:
        tree = parse_json(read_bytes(source, MOST_JSON), "it")
    except ValueError as error:
        raise DatasetError(f"{source} is damaged: {error}; fetch it again") from error
    found = list(tree) if isinstance(tree, dict) else type(tree).__name__
    if not isinstance(tree, dict) or not set(SPLITS) <= set(tree):
        raise DatasetError(f"{source} must hold the keys {', '.join(SPLITS)}; it has {found}")
    items: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        rows = tree[split]
        if not isinstance(rows, list) or not rows:
            raise DatasetError(f"{source}: {split} must be a list of rows, not {shown(rows)}")
        for index, row in enumerate(rows):
            where = f"{source}: {split}[{index}]"
            if not isinstance(row, list) or [type(value) for value in row] != [str, int, str]:
                raise DatasetError(f"{where} must be [path, whole number, class name], not {shown(row)}")
            path = row[0]
            if re.match(r"[A-Za-z]:", path) or "\\" in path or {"", ".", ".."} & set(path.split("/")):
                told = "leads out of the folder of the images, or is no relative path with '/'"
                raise DatasetError(f"{where}: {path!r} {told}")
            items[split].append(Item(*row))
    return Splits.of(items["train"], items["val"], items["test"])
