"""A user's own images as items: from a table, a file of splits or directories, with whatever tells patients."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xcoop.concepts.bank import same_name
from xcoop.data.folders import NameIndex, name_some
from xcoop.data.ownplace import (
    MASKS,
    PATIENT,
    find_listings,
    nothing_found,
    part_of_more,
    read_directories,
    refuse_file,
    stand_alone,
)
from xcoop.data.owntable import Row, read_rows, split_of
from xcoop.data.splitfile import read_own_splits
from xcoop.data.splits import Item, Remark, Splits, shown_some
from xcoop.utils.console import DatasetError, escaped

SIDE = re.compile(r"(.+?)[ _.-](?:left|right|l|r|os|od)", re.IGNORECASE)  # a pair of eyes, hands, breasts
MASK = re.compile(
    r"(.+?)[ _.-]*(?:mask|segmentation|seg|groundtruth|gt|annotation|superpixels)[ _.-]*\d*", re.IGNORECASE
)
MAX_NAMED = 5
GROUPS = 3  # directories a class, from which on they may be patients


@dataclass(frozen=True)
class Own:
    """What was found."""

    source: Path  # the folder, or the file in it that lists
    folder: Path  # the paths of the items are relative to it
    classes: tuple[str, ...]  # in label order: sorted, by value if all are numbers
    splits: Splits  # undivided if no split is stated
    table: str  # the name of the file that lists, without its suffix; empty for directories
    remarks: tuple[Remark, ...]  # on how it was read


def read_own(place: Path, wanted: Sequence[str] = ()) -> Own:
    """The images of a folder, of a table, or of a file of splits.

    Args:
        place: a CSV file, or a JSON file of splits (see `xcoop.data.splitfile`); a folder with one of them (see
            `find_listings`; of JSON files those called `split_*.json` count); or a folder with a directory for each
            class, either below it or below its directories `train`, `val` and `test`.
        wanted: classes, if any are stated; see `read_rows`.

    Raises:
        DatasetError: a fault that the message names, with the file and the line.
    """
    remarks: list[Remark] = []
    if place.is_file():
        refuse_file(place)
        listings = [place]
    else:
        listings, remarks = find_listings(place, wanted)
    folder = place.parent if place.is_file() else place
    source = listings[0] if len(listings) == 1 else folder
    stated: tuple[str, ...] = ()  # the classes in the order of labels that a file states
    rows: list[Row] = []
    for listing in listings:
        if listing.suffix.lower() == ".json":
            stated, splits = read_own_splits(listing)
            rows = [Row(item.path, item.classname, split) for split, items in splits for item in items]
            continue
        own, told = _rows_of(listing, wanted, beside=folder if place == folder and stand_alone(folder) else None)
        remarks += told
        if len(listings) > 1:  # each is a split
            if other := next((row for row in own if row.split not in ("", split_of(listing.stem))), None):
                raise DatasetError(f"{listing}, line {other.line}: {other.split!r}; its name says {listing.stem!r}")
            own = [replace(row, split=split_of(listing.stem)) for row in own]
        rows += own
    if not listings:
        rows = read_directories(folder, wanted)
        remarks += part_of_more(folder)
    if not rows:
        raise nothing_found(source)
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(posixpath.normpath(row.path), row)
        if other is not row:
            how = "" if other.label == row.label else f", as {other.label!r} and as {row.label!r}"
            how += "" if other.split == row.split else f", in {other.split} and in {row.split}"
            raise DatasetError(f"{source} lists {row.path} twice, in the lines {other.line} and {row.line}{how}")
    if not any(row.patient for row in rows):
        rows = _patients_of_paths(source, rows, remarks)
    classes = _class_names(source, rows)
    classes = stated or classes
    remarks += _doubtful(folder, rows, deep=not listings)
    return Own(source, folder, classes, _splits(source, rows, classes), source.stem if listings else "", tuple(remarks))


def _rows_of(table: Path, wanted: Sequence[str], beside: Path | None) -> tuple[list[Row], list[Remark]]:
    """The rows of a table with the paths as on disk; `beside` is a folder whose directories would do without it."""
    try:
        rows, remarks = read_rows(table, wanted)
        rows = _as_on_disk(table, rows, remarks) if rows else []
        if beside is not None:
            remarks += _contrary(table, rows)
        return rows, remarks
    except DatasetError as error:
        if beside is None:
            raise
        raise DatasetError(
            f"{error}\nIf the directories of {beside} are the classes, and {table.name} does not list their images, "
            "move it elsewhere"
        ) from error


def _contrary(table: Path, rows: Sequence[Row]) -> list[Remark]:
    """Labels that are not the name of a directory that the image lies in, where directories might be the classes."""
    other = [row for row in rows if same_name(row.label) not in map(same_name, row.path.split("/")[:-1])]
    if not other:
        return []
    told = f"{len(other)} of {len(rows)} labels are not the directory of their image, the first {other[0].label!r} of"
    hint = "the table counts; if the directories are the classes, move it elsewhere"
    return [Remark(f"{table.name}: {told} {escaped(other[0].path)}; {hint}", True)]


def _as_on_disk(table: Path, rows: Sequence[Row], remarks: list[Remark]) -> list[Row]:
    """The rows with the paths of the images as they are spelt on disk.

    A path may differ from that of the file in case, in its Unicode form, or in a suffix that is left out; a name
    without a folder finds the one image of this name, wherever below the table's folder it lies. Paths may all
    begin with folders above it.
    """
    folder = table.parent
    if all((folder / row.path).is_file() for row in rows):
        return list(rows)
    index = NameIndex(folder)
    above = next(filter(None, (index.folders_above(row.path) for row in rows)), "")
    names = [row.path.removeprefix(above) for row in rows]
    try:
        found = [name if (folder / name).is_file() else index.find(name) for name in names]
    except DatasetError as error:
        raise DatasetError(f"{table}: {error}") from error
    if absent := [row for row, path in zip(rows, found, strict=True) if path is None]:
        shown = name_some([f"line {row.line}: {row.path}" for row in absent], MAX_NAMED)
        raise DatasetError(
            f"{len(absent)} of the {len(rows)} images that {table} lists are not there; paths are relative to "
            f"{folder}: {shown}"
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
        many = len({posixpath.dirname(path) for path in lower}) >= GROUPS * len({row.label for row in rows})
        unknown = many and len(lower) == len(rows) and not any(row.patient for row in rows)
        hint = "; if each is of one patient, call them patient_1, ..., or name a CSV with a column 'patient'"
        shown = shown_some(map(escaped, lower))
        remarks.append(Remark(f"{folder}: {text}: {shown}{hint if unknown else ''}", unknown))
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
    if not by_split["train"]:
        raise DatasetError(f"{source} has no train images; it has {sorted(key for key in by_split if by_split[key])}")
    trained = {item.classname for item in by_split["train"]}
    for split in ("val", "test"):
        if unseen := sorted({item.classname for item in by_split[split]} - trained):
            raise DatasetError(f"{source}: {', '.join(map(repr, unseen))} stands in {split}, but not in train")
    return Splits.of(by_split["train"], by_split["val"], by_split["test"])
