"""Your own images: a folder with a directory a class, a table, or a file of splits, and nothing else."""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from yacs.config import CfgNode

from xcoop.concepts.bank import same_name
from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import TEST_SHARE, MedicalDataset
from xcoop.data.folders import NameIndex, left_out, list_images, name_some, shown_kinds, unread_files
from xcoop.data.owntable import PERSON, Row, read_rows, split_of
from xcoop.data.splitfile import SPLIT_FILE, read_own_splits
from xcoop.data.splits import SPLITS, Item, Remark, Splits, cached_place, shown_some, three_way, write_first
from xcoop.utils.console import DatasetError, escaped
from xcoop.utils.reading import read_json

logger = logging.getLogger(__name__)

BANK = "concepts.yaml"  # in the folder: the concept bank of its classes
TASK = "classes"
TABLES = (".csv", ".tsv")
PATIENT = re.compile(rf"(?:{PERSON}|sub)[ _.-]*\d+", re.IGNORECASE)  # a directory of one patient's images
SIDE = re.compile(r"(.+?)[ _.-](?:left|right|l|r|os|od)", re.IGNORECASE)  # a pair of eyes, hands, breasts
MASK = re.compile(
    r"(.+?)[ _.-]*(?:mask|segmentation|seg|groundtruth|gt|annotation|superpixels)[ _.-]*\d*", re.IGNORECASE
)
MASKS = re.compile(
    r"(?:binary|lesion|lung|image|ground|roi)?[ _.-]*(?:masks?|segmentations?|truths?|annotations?|superpixels)",
    re.IGNORECASE,
)
MAX_NAMED = 5


@register_dataset()
class Folder(MedicalDataset):
    """`DATASET.PATH` names the folder, or the file that lists; see `read_own`. Without a split one is made and kept."""

    def set_up(self, cfg: CfgNode) -> None:
        """Reads the folder or the file that lists its images, which alone tell the classes."""
        if not cfg.DATASET.PATH:
            raise DatasetError(
                "This dataset is your own: name the folder of its images, its CSV file, or its JSON file of splits "
                "(such as DATASET.PATH my_images)"
            )
        (place,) = self.places(cfg)
        if not place.exists():
            raise self.missing([place])
        self._own, self._seed = read_own(place, list(cfg.DATASET.CLASSES)), int(cfg.DATASET.SPLIT_SEED)
        self.tasks = {TASK: self._own.classes}
        bank = self._own.folder / BANK
        self.concept_bank = str(bank) if bank.is_file() else ""

    def find(self, cfg: CfgNode) -> Path:
        """The folder to which the paths of the images are relative."""
        return self._own.folder

    def read(self, folder: Path) -> Splits:
        """The splits that directories, table or file of splits state."""
        return self._own.splits

    def remarks(self, folder: Path, splits: Splits) -> list[Remark]:
        """How the file was read; what lies below the directories of the classes, or beside them, and is not read.

        A table or a file of splits may choose among images: what it does not list is mentioned, and is no fault.
        """
        taken = {item.path for item in splits.all()}
        if self._own.table:
            beside = left_out(
                folder,
                {posixpath.dirname(path) for path in taken},
                lambda path: path in taken or _lists(posixpath.basename(path)),
            )
            return [*self._own.remarks, *(replace(remark, matters=False) for remark in beside)]
        return [*self._own.remarks, *left_out(folder, [""], taken.__contains__)]

    @classmethod
    def classes_of(cls, cfg: CfgNode) -> tuple[str, ...] | None:
        """The classes in the files, if there are any."""
        places = cls.places(cfg) if cfg.DATASET.PATH else []
        return read_own(places[0], list(cfg.DATASET.CLASSES)).classes if places and places[0].exists() else None

    def _divide(self, splits: Splits, val_share: float, hashes: Mapping[str, str]) -> Splits:
        if splits.divided:
            return super()._divide(splits, val_share, hashes)
        return made_split(splits.train, self._own, self._seed, val_share, hashes)


@dataclass(frozen=True)
class Own:
    """What was found."""

    folder: Path  # the paths of the items are relative to it
    classes: tuple[str, ...]  # in label order: sorted, by value if all are numbers
    splits: Splits  # undivided if no split is stated
    table: str  # the name of the file that lists, without its suffix; empty for directories
    remarks: tuple[Remark, ...]  # on how it was read


def _lists(name: str) -> bool:
    """Whether a file of that name lists images: a table, or splits."""
    return name.lower().endswith(TABLES) or SPLIT_FILE.fullmatch(name) is not None


def read_own(place: Path, wanted: Sequence[str] = ()) -> Own:
    """The images of a folder, of a table, or of a file of splits.

    Args:
        place: a CSV file, or a JSON file of splits (see `xcoop.data.splitfile`); a folder with exactly one of them (of
            JSON files those called `split_*.json` count); or a folder with a directory for each class, either below it
            or below its directories `train`, `test` and, if there is one, `val`.
        wanted: classes, if any are stated; see `read_rows`.

    Raises:
        DatasetError: a fault that the message names, with the file and the line.
    """
    listing: Path | None = place if place.is_file() else None
    if not listing:
        listings = sorted(path for path in place.iterdir() if _lists(path.name) and path.name[0] != ".")
        if len(listings) > 1:
            names = ", ".join(path.name for path in listings)
            raise DatasetError(f"{place} holds several tables ({names}): name the one to read with DATASET.PATH")
        listing = listings[0] if listings else None
    folder = listing.parent if listing else place
    source = listing or folder
    stated: tuple[str, ...] = ()  # the classes in the order of labels that a file states
    remarks: list[Remark] = []
    if not listing:
        rows = read_directories(folder)
    elif listing.suffix.lower() == ".json":
        stated, splits = read_own_splits(listing)
        rows = [Row(item.path, item.classname, split) for split, items in splits for item in items]
    else:
        rows, remarks = read_rows(listing, wanted)
        rows = _as_on_disk(listing, rows, remarks) if rows else []
    if not rows:
        raise DatasetError(
            f"{source} holds no image; put those of each class into a directory of its own, or name a CSV"
        )
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(posixpath.normpath(row.path), row)
        if other is not row:
            how = "" if other.label == row.label else f", as {other.label!r} and as {row.label!r}"
            raise DatasetError(f"{source} lists {row.path} twice, in the lines {other.line} and {row.line}{how}")
    if not any(row.patient for row in rows):
        rows = _patients_of_paths(source, rows, remarks)
    classes = _class_names(source, rows)
    classes = stated or classes
    remarks += _doubtful(folder, rows, deep=not listing)
    return Own(folder, classes, _splits(source, rows, classes), listing.stem if listing else "", tuple(remarks))


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
    names = (entry.name for entry in entries if not entry.name.startswith((".", "__")))
    return sorted(name for name in names if name != "split_fewshot")  # which is written here


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


def made_split(items: Sequence[Item], own: Own, seed: int, val_share: float, hashes: Mapping[str, str]) -> Splits:
    """The split of undivided images: made once (see `three_way`), written down, and reused until it is removed.

    The file lies in the folder of the images, or below the cache if nothing can be written there. Each table that
    lists images has a split of its own.

    Raises:
        DatasetError: the file is damaged, or images were added or removed since it was written.
    """
    name = f"{own.table}.split-seed_{seed}.json" if own.table else f"split-seed_{seed}.json"
    cached, shares = cached_place(own.folder, "splits"), {"test_share": TEST_SHARE, "val_share": val_share}
    for path in (own.folder / name, cached / name):
        if path.is_file():
            return _reused(path, items, shares)
    splits = three_way(items, seed, TEST_SHARE, val_share, hashes)
    rows = {split: [item.path for item in part] for split, part in splits}
    text = json.dumps({"schema": 1, "seed": seed, **shares, **rows}, indent=1) + "\n"
    if written := write_first(own.folder, cached, name, text):
        logger.info("no split is stated; one was made (seed %d) and written to %s", seed, written)
    else:
        logger.warning("the split could not be written down; it stays the same as long as the images do")
    return splits


def _reused(path: Path, items: Sequence[Item], shares: Mapping[str, float]) -> Splits:
    try:
        tree = read_json(path)
        images = [image for split in SPLITS for image in tree[split]]
        if not all(isinstance(image, str) for image in images) or len(set(images)) < len(images):
            raise ValueError("an image stands twice, or is no path")
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged ({error}): restore it, or delete it for a new split") from error
    by_path = {item.path: item for item in items}
    spelt = {unicodedata.normalize("NFC", path): path for path in by_path}  # the file may come from another system
    divided = {
        split: [
            image if image in by_path else spelt.get(unicodedata.normalize("NFC", image), image)
            for image in tree[split]
        ]
        for split in SPLITS
    }
    known = {image for own in divided.values() for image in own}
    new, gone = sorted(by_path.keys() - known), sorted(known - by_path.keys())
    if new or gone:
        found = ", ".join(
            f"{len(paths)} {what}" + (f" ({shown_some(paths, MAX_NAMED)})" if paths else "")
            for what, paths in (("new", new), ("gone", gone))
        )
        raise DatasetError(
            f"{path} divides other images than there are: {found}.\n"
            "It is not remade by itself: figures would no longer compare. To have a new one made, delete that file, or "
            "set DATASET.SPLIT_SEED to another number."
        )
    if any(tree.get(key) != share for key, share in shares.items()):
        logger.warning("%s was made with other shares; it is used as it is. Delete it to have it made anew", path)
    logger.info("the split of %s is used", path)
    return Splits.of(*([by_path[image] for image in divided[split]] for split in SPLITS))
