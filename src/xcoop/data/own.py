"""A user's own images: a directory a class, or a table (see `owntable`). Whatever is wrong with them is named."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xcoop.concepts.bank import same_name
from xcoop.data.folders import NameIndex, list_images, shown_kinds, unread_files
from xcoop.data.items import Item, Remark, Splits, shown_some
from xcoop.data.owntable import PERSON, Row, read_rows, split_of
from xcoop.utils.console import DatasetError
from xcoop.utils.suggest import escaped

TABLES = (".csv", ".tsv")
PATIENT = re.compile(rf"(?:{PERSON}|sub)[ _.-]*\d+", re.IGNORECASE)  # a directory of one patient's images
SIDE = re.compile(r"(.+?)[ _.-](?:left|right|l|r|os|od)", re.IGNORECASE)  # a pair of eyes, hands, breasts
NO_CLASSES = frozenset({"split_fewshot"})  # directories that are written here
MASK = re.compile(
    r"(.+?)[ _.-]*(?:mask|segmentation|seg|groundtruth|gt|annotation|superpixels)[ _.-]*\d*", re.IGNORECASE
)
MASKS = re.compile(
    r"(?:binary|lesion|lung|image|ground|roi)?[ _.-]*(?:masks?|segmentations?|truths?|annotations?|superpixels)",
    re.IGNORECASE,
)
MAX_NAMED = 5


@dataclass(frozen=True)
class Own:
    """What was found.

    Attributes:
        folder: the paths of the items are relative to it.
        classes: in label order: sorted, by value if all are numbers.
        splits: undivided if no split is stated.
        table: the name of the table without its suffix; empty for directories.
        remarks: on how it was read.
    """

    folder: Path
    classes: tuple[str, ...]
    splits: Splits
    table: str = ""
    remarks: tuple[Remark, ...] = ()


def read_own(place: Path, wanted: Sequence[str] = ()) -> Own:
    """The images of a folder or of a table.

    Args:
        place: a CSV file; a folder with exactly one CSV file; or a folder with a directory for each class, either
            below it or below its directories `train`, `test` and, if there is one, `val`.
        wanted: classes, if any are stated; see `read_rows`.

    Raises:
        DatasetError: a fault that the message names, with the file and the line.
    """
    table: Path | None = place if place.is_file() else None
    if not table:
        tables = sorted(path for path in place.iterdir() if path.suffix.lower() in TABLES and path.name[0] != ".")
        if len(tables) > 1:
            names = ", ".join(path.name for path in tables)
            raise DatasetError(f"{place} holds several tables ({names}): name the one to read with DATASET.PATH")
        table = tables[0] if tables else None
    folder = table.parent if table else place
    source = table or folder
    rows, remarks = read_rows(table, wanted) if table else (read_directories(folder), [])
    if not rows:
        raise DatasetError(
            f"{source} holds no image; put those of each class into a directory of its own, or name a CSV"
        )
    if table:
        rows = _as_on_disk(table, rows, remarks)
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(posixpath.normpath(row.path), row)
        if other is not row:
            how = "" if other.label == row.label else f", as {other.label!r} and as {row.label!r}"
            raise DatasetError(f"{source} lists {row.path} twice, in the lines {other.line} and {row.line}{how}")
    if not any(row.patient for row in rows):
        rows = _patients_of_paths(source, rows, remarks)
    classes = _class_names(source, rows)
    remarks += _doubtful(folder, rows, deep=not table)
    return Own(folder, classes, _splits(source, rows, classes), table.stem if table else "", tuple(remarks))


def read_directories(folder: Path) -> list[Row]:
    """The images of a directory a class, the class names being those of the directories."""
    tops = _directories(folder)
    splits = {name: split_of(name) for name in tops}
    others = [name for name in tops if not splits[name]]
    if others and len(others) < len(tops):
        mixed = [name for name in tops if splits[name]]
        raise DatasetError(f"{folder} holds directories of splits ({', '.join(mixed)}) beside others: {others}")
    places = [(name, name, "") for name in others]
    places += [
        (f"{top}/{name}", name, splits[top]) for top in tops if splits[top] for name in _directories(folder / top)
    ]
    rows = []
    for below, label, split in places:
        images = list_images(folder / below, deep=True)
        if not images:
            kinds = shown_kinds(unread_files(folder, [below]))
            there = f" that is read ({kinds})" if kinds else ""
            raise DatasetError(f"{escaped(str(folder / below))} holds no image{there}: fill it or remove it")
        rows += [Row(f"{below}/{image}", unicodedata.normalize("NFC", label), split) for image in images]
    return rows


def _directories(folder: Path) -> list[str]:
    entries = (entry for entry in os.scandir(folder) if entry.is_dir())
    return sorted(e.name for e in entries if not e.name.startswith((".", "__")) and e.name not in NO_CLASSES)


def _as_on_disk(table: Path, rows: Sequence[Row], remarks: list[Remark]) -> list[Row]:
    """The rows with the paths of the images as they are spelt on disk.

    A path may differ from that of the file in case, in its Unicode form, or in a suffix that is left out; a name
    without a folder finds the one image of this name, wherever below the table's folder it lies.
    """
    folder = table.parent
    if all((folder / row.path).is_file() for row in rows):
        return list(rows)
    index = NameIndex(folder)
    try:
        found = [row.path if (folder / row.path).is_file() else index.find(row.path) for row in rows]
    except DatasetError as error:
        raise DatasetError(f"{table}: {error}") from error
    if absent := [row for row, path in zip(rows, found, strict=True) if path is None]:
        shown = "".join(f"\n  line {row.line}: {row.path}" for row in absent[:MAX_NAMED])
        more = f"\n  ... and {len(absent) - MAX_NAMED} more" if len(absent) > MAX_NAMED else ""
        raise DatasetError(
            f"{len(absent)} of the {len(rows)} images that {table} lists are not there; paths are relative to "
            f"{folder}:{shown}{more}"
        )
    other = [(row, path) for row, path in zip(rows, found, strict=True) if path and path != row.path]
    first, path = other[0]
    remarks.append(
        Remark(
            f"{table.name}: {len(other)} images are spelt or lie otherwise on disk than they are listed, and were "
            f"found by their names; the first is {first.path!a}, which is {path!a}"
        )
    )
    return [replace(row, path=path) for row, path in zip(rows, found, strict=True) if path]


def _patients_of_paths(source: Path, rows: Sequence[Row], remarks: list[Remark]) -> list[Row]:
    """The rows with the patients that their paths tell, where nothing else does.

    They are told by a directory (`patient00012/`), or by the names of the two images of a pair (`10_left`, `10_right`).
    Numbers within other names are not taken: they may begin anew in each class or split.
    """
    stems = {row: posixpath.splitext(posixpath.basename(row.path))[0] for row in rows}
    pairs = {row: side[1] for row, stem in stems.items() if (side := SIDE.fullmatch(stem))}
    paired = len({stems[row].casefold() for row in pairs}) > len({base.casefold() for base in pairs.values()})
    told = []
    for row in rows:
        folders = [part for part in row.path.split("/")[:-1] if PATIENT.fullmatch(part) and part != row.label]
        name = folders[-1] if folders else pairs.get(row, "") if paired else ""
        told.append(replace(row, patient=unicodedata.normalize("NFC", name).casefold()))
    if example := next((row for row in told if row.patient), None):
        text = f"the patients of {sum(bool(row.patient) for row in told)} images are told by their paths, as"
        remarks.append(Remark(f"{source}: {text} {example.patient!r} by {example.path}"))
    return told


def _doubtful(folder: Path, rows: Sequence[Row], deep: bool) -> list[Remark]:
    """Images that are taken as images of their class, though they may be none."""
    paths = {row.path for row in rows}
    stems = {posixpath.splitext(path)[0] for path in paths}
    masks = sorted(
        path
        for path in paths
        if ((m := MASK.fullmatch(posixpath.splitext(path)[0])) and m[1] in stems)
        or any(MASKS.fullmatch(part) for part in path.split("/")[:-1])
    )
    lower = sorted(row.path for row in rows if deep and row.path.count("/") > 1 + bool(row.split))
    remarks = []
    if masks:
        text = f"{len(masks)} images look like masks of others, and are taken as images of their class"
        remarks.append(Remark(f"{folder}: {text}: {shown_some(map(escaped, masks))}", True))
    if lower:
        text = f"{len(lower)} images lie in directories below those of the classes, and count as theirs"
        remarks.append(Remark(f"{folder}: {text}: {shown_some(map(escaped, lower))}"))
    return remarks


def _class_names(source: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    labels = {row.label for row in rows}
    spelt: dict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        spelt[same_name(label)].append(label)
    if same := [names for names in spelt.values() if len(names) > 1]:
        raise DatasetError(f"{source}: the classes {' and '.join(map(repr, same[0]))} are one (case, '_', '-' aside)")
    if len(labels) < 2:
        raise DatasetError(f"{source} has one class only, {min(labels)!r}: at least two are needed")
    numbers = all(re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", label) for label in labels)
    return tuple(sorted(labels, key=float if numbers else None))


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
