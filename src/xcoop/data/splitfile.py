"""Splits in a JSON file, as CoOp and its forks write them for each of their sets (`split_zhou_<Set>.json`).

    {"train": [[path, label, class name], ...], "val": [...], "test": [...]}

Labels are whole numbers; paths are relative to the folder of the images, which is that of the file or one within it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from xcoop.data.folders import name_some
from xcoop.data.splits import SPLITS, Item, Splits
from xcoop.utils.console import DatasetError, shown
from xcoop.utils.reading import MOST_JSON, parse_json, read_bytes

SPLIT_FILE = re.compile(r"split_.+\.json")
MAX_NAMED = 5


def read_splits(source: Path) -> Splits:
    """The splits that a file lists; val alone may be empty.

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
        if not isinstance(rows, list) or not (rows or split == "val"):
            raise DatasetError(f"{source}: {split} must be a list of rows, not {shown(rows)}")
        for index, row in enumerate(rows):
            where = f"{source}: {split}[{index}]"
            if not isinstance(row, list) or [type(value) for value in row] != [str, int, str]:
                raise DatasetError(f"{where} must be [path, whole number, class name], not {shown(row)}")
            path = row[0]
            if re.match(r"[A-Za-z]:", path) or "\\" in path or "\0" in path or {"", ".", ".."} & set(path.split("/")):
                told = "leads out of the folder of the images, or is no relative path with '/'"
                raise DatasetError(f"{where}: {path!r} {told}")
            items[split].append(Item(*row))
    return Splits.of(items["train"], items["val"], items["test"])


def names_of_labels(splits: Splits) -> dict[int, set[str]]:
    """The class names that each label has, in label order; one each in a file that is right."""
    names: dict[int, set[str]] = defaultdict(set)
    for item in splits.all():
        names[item.label].add(item.classname)
    return dict(sorted(names.items()))


def refuse_absent(source: Path, splits: Splits, folder: Path) -> None:
    """DatasetError if any image that a file lists is not in the folder."""
    paths = [item.path for item in splits.all()]
    if absent := [path for path in paths if not os.path.isfile(os.path.join(folder, path))]:
        raise DatasetError(
            f"{len(absent)} of the {len(paths)} images that {source} lists are not in {folder}: "
            f"{name_some(absent, MAX_NAMED)}"
        )


def read_own_splits(source: Path) -> tuple[tuple[str, ...], Splits]:
    """A user's own file: the class names in label order, and the splits, with paths relative to the file's folder.

    Raises:
        DatasetError: what `read_splits` says; labels that do not count up from 0, or have several names; an image that
            stands twice, in one split or in two, or is not there.
    """
    splits = read_splits(source)
    names = names_of_labels(splits)
    if list(names) != list(range(len(names))):
        raise DatasetError(f"{source}: the labels must count up from 0 without a gap, not {shown(list(names))}")
    for label, own in names.items():
        if len(own) > 1:
            raise DatasetError(f"{source}: the label {label} has the names {' and '.join(map(repr, sorted(own)))}")
    classes = tuple(name for own in names.values() for name in own)
    if empty := [label for label, name in enumerate(classes) if not name.strip()]:
        raise DatasetError(f"{source}: the label {empty[0]} has no name")
    first: dict[str, tuple[str, Item]] = {}
    for split, items in splits:
        for item in items:
            other, twin = first.setdefault(item.path, (split, item))
            if twin is not item:
                where = f"twice in {split}" if other == split else f"in {other} and in {split}"
                raise DatasetError(f"{source}: {item.path} stands {where}")
    home = _home(source, splits.train[0].path)
    refuse_absent(source, splits, home)
    below = home.relative_to(source.parent).as_posix()
    moved = ([replace(item, path=posixpath.join(below, item.path)) for item in items] for _, items in splits)
    return classes, splits if below == "." else Splits.of(*moved)


def _home(source: Path, path: str) -> Path:
    """The folder that a path is relative to: that of the file, else the one within it that has the image."""
    folder = source.parent
    if (folder / path).is_file():
        return folder
    within = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    having = [home for home in within if (home / path).is_file()]
    if len(having) > 1:
        names = ", ".join(home.name for home in having)
        raise DatasetError(f"{source}: {path} is in several folders beside it ({names}): leave the one that is meant")
    return having[0] if having else folder
