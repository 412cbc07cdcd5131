"""A user's own images: a directory a class, or a table. Whatever is wrong with them is named."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xcoop.concepts.bank import same_name
from xcoop.data.folders import list_images
from xcoop.data.items import DatasetError, Item, Splits
from xcoop.data.owntable import SPLIT_WORDS, Row, read_rows

logger = logging.getLogger(__name__)

TABLES = (".csv", ".tsv")
NO_CLASSES = frozenset({"split_fewshot"})  # directories that are written here
MAX_NAMED = 5


@dataclass(frozen=True)
class Own:
    """What was found.

    Attributes:
        folder: the paths of the items are relative to it.
        classes: in label order: sorted, by value if all are numbers.
        splits: undivided if no split is stated.
        table: the name of the table without its suffix; empty for directories.
    """

    folder: Path
    classes: tuple[str, ...]
    splits: Splits
    table: str = ""


def read_own(place: Path) -> Own:
    """The images of a folder or of a table.

    Args:
        place: a CSV file; a folder with exactly one CSV file; or a folder with a directory for each class, either
            below it or below its directories `train`, `test` and, if there is one, `val`.

    Raises:
        DatasetError: a fault that the message names, with the file and the line.
    """
    table = place if place.is_file() else _only_table(place)
    folder = place if table is None else table.parent
    source = table or folder
    rows = read_rows(table) if table else read_directories(folder)
    if not rows:
        raise DatasetError(
            f"{source} holds no image; put those of each class into a directory of its own, or name a CSV"
        )
    _refuse_duplicates(source, rows)
    _refuse_absent(source, folder, rows)
    classes = _class_names(source, rows)
    return Own(folder, classes, _splits(source, rows, classes), table.stem if table else "")


def _only_table(folder: Path) -> Path | None:
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES and path.name[0] != ".")
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise DatasetError(f"{folder} holds several tables ({names}): name the one to read with DATASET.PATH")
    return tables[0] if tables else None


def read_directories(folder: Path) -> list[Row]:
    """The images of a directory a class, the class names being those of the directories."""
    tops = _directories(folder)
    splits = {name: SPLIT_WORDS.get(name.casefold(), "") for name in tops}
    others = [name for name in tops if not splits[name]]
    if loose := list_images(folder):
        logger.warning("%s: %d images lie in no class directory and are left out", folder, len(loose))
    if len(others) == len(tops):
        return [row for name in tops for row in _class_rows(folder, name, name, "")]
    if others:
        mixed = [name for name in tops if splits[name]]
        raise DatasetError(f"{folder} holds directories of splits ({', '.join(mixed)}) beside others: {others}")
    pairs = [(top, name) for top in tops for name in _directories(folder / top)]
    return [row for top, name in pairs for row in _class_rows(folder, f"{top}/{name}", name, splits[top])]


def _directories(folder: Path) -> list[str]:
    entries = (entry for entry in os.scandir(folder) if entry.is_dir())
    return sorted(e.name for e in entries if not e.name.startswith((".", "__")) and e.name not in NO_CLASSES)


def _class_rows(folder: Path, below: str, label: str, split: str) -> list[Row]:
    images = list_images(folder / below, deep=True)
    if not images:
        raise DatasetError(f"{folder / below} holds no image: fill it or remove it")
    return [Row(f"{below}/{image}", label, split) for image in images]


def _refuse_duplicates(source: Path, rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(posixpath.normpath(row.path), row)
        if other is not row:
            how = "" if other.label == row.label else f", as {other.label!r} and as {row.label!r}"
            raise DatasetError(f"{source} lists {row.path} twice, in the lines {other.line} and {row.line}{how}")


def _refuse_absent(source: Path, folder: Path, rows: Sequence[Row]) -> None:
    if absent := [row for row in rows if not (folder / row.path).is_file()]:
        raise DatasetError(
            f"{len(absent)} of the {len(rows)} images that {source} lists are not there; paths are relative to "
            f"{folder}:\n" + _named(f"line {row.line}: {row.path}" for row in absent)
        )


def _class_names(source: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    labels = {row.label for row in rows}
    spelt: dict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        spelt[same_name(label)].append(label)
    if same := [names for names in spelt.values() if len(names) > 1]:
        raise DatasetError(f"{source}: the classes {' and '.join(map(repr, same[0]))} are one (case, '_', '-' aside)")
    if len(labels) < 2:
        raise DatasetError(f"{source} has one class only, {min(labels)!r}: at least two are needed")
    numbers = all(re.fullmatch(r"\d{1,9}", label) for label in labels)
    return tuple(sorted(labels, key=int if numbers else None))


def _splits(source: Path, rows: Sequence[Row], classes: Sequence[str]) -> Splits:
    label = {name: number for number, name in enumerate(classes)}
    by_split: dict[str, list[Item]] = defaultdict(list)
    for row in rows:
        by_split[row.split].append(Item(posixpath.normpath(row.path), label[row.label], row.label, row.patient))
    if set(by_split) == {""}:
        return Splits.undivided(by_split[""])
    for split in ("train", "test"):
        if not by_split[split]:
            raise DatasetError(
                f"{source} has no {split} images; it has {sorted(key for key in by_split if by_split[key])}"
            )
    trained = {item.classname for item in by_split["train"]}
    for split in ("val", "test"):
        if unseen := sorted({item.classname for item in by_split[split]} - trained):
            raise DatasetError(f"{source}: {', '.join(map(repr, unseen))} stands in {split}, but not in train")
    return Splits.of(by_split["train"], by_split["val"], by_split["test"])


def _named(lines: Iterable[str]) -> str:
    shown = [f"  {line}" for line in lines]
    more = [f"  ... and {len(shown) - MAX_NAMED} more"] if len(shown) > MAX_NAMED else []
    return "\n".join([*shown[:MAX_NAMED], *more])
