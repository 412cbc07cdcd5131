"""Where a user's own images are: the place that a path means, the file that lists them, or the directories of classes.

What may be meant in two ways is refused, with the ways to say it; what is left aside is named.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from xcoop.concepts.bank import same_name
from xcoop.data.about import MissingDatasetError
from xcoop.data.folders import NameIndex, has_images, list_images, name_some, shown_kinds, unread_files
from xcoop.data.owntable import PERSON, Row, Table, split_of
from xcoop.data.splitfile import SPLIT_FILE, read_splits
from xcoop.data.splits import Remark, shown_some
from xcoop.utils.console import DatasetError, escaped, names_like
from xcoop.utils.images import is_image_name

TABLES = (".csv", ".tsv")
# Files that somebody may name, or leave alone in a folder, though they are not read, and what to do instead.
OTHERS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as CSV (UTF-8)"),
    **dict.fromkeys((".zip", ".gz", ".tgz", ".tar", ".7z", ".rar", ".xz"), "unpack it, and name the folder"),
    **dict.fromkeys((".npz", ".npy", ".h5", ".hdf5", ".mat", ".pkl", ".pt", ".parquet", ".tfrecord"),
                    "save its images as files, e.g. PNG (MedMNIST's own are datasets: see `xcoop data list`)"),
    **dict.fromkeys((".dcm", ".nii", ".mha", ".mhd", ".nrrd"), "save its images as PNG or TIFF"),
}  # fmt: skip
PATIENT = re.compile(rf"(?:{PERSON}|sub)[ _.-]*\d+", re.IGNORECASE)  # a directory of one patient's images
MASKS = re.compile(
    r"(?:binary|lesion|lung|image|ground|roi)?[ _.-]*(?:masks?|segmentations?|truths?|annotations?|superpixels)"
    r"|labels?(?:Tr|Ts|Val)?|images?(?:Tr|Ts|Val)|bbox(?:es)?",
    re.IGNORECASE,
)
HOLDERS = re.compile(r"(?:all[ _-]*)?(?:images?|imgs?|pictures?|photos?|jpe?gs?|pngs?|data|dataset|raw)", re.IGNORECASE)
MAX_NAMED = 5
PARTS = (["test", "train"], ["test", "train", "val"], ["train", "val"])  # splits that may have a table each
ENOUGH = 2  # directories with images that may be classes


def not_there(place: Path, root: str) -> MissingDatasetError:
    """The error for a path that leads nowhere: as it was meant, what is there, and the nearest name.

    Args:
        place: absolute.
        root: the data root, below which it may lie.
    """
    here = Path.cwd()
    inside = place.is_relative_to(here)
    told = f"{place.relative_to(here)} (below the current folder: {place})" if inside else str(place)
    lines = [f"There is no folder or file {escaped(told)}, which DATASET.PATH names."]
    parent = next(folder for folder in place.parents if folder.is_dir())
    wanted = place.relative_to(parent).parts[0]
    try:
        there = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(parent))
    except OSError as error:
        there, lines = [], [*lines, f"{escaped(str(parent))} cannot be listed: {error.strerror}"]
    there = [name for name in there if name[0] != "."]
    near = names_like(wanted, [name.rstrip("/") for name in there])
    lines.append(f"{escaped(str(parent))} holds {name_some(list(map(escaped, there)), MAX_NAMED) or 'nothing'}.{near}")
    if root and inside and (below := Path(root).expanduser() / place.relative_to(here)).exists():
        lines.append(f"It lies below the data root, which DATASET.PATH does not start from: DATASET.PATH {below}")
    return MissingDatasetError("\n".join(lines))


def refuse_file(path: Path) -> None:
    """DatasetError for a file that lists no images, and is known not to: what to do instead."""
    suffix = path.suffix.lower()
    if suffix in OTHERS:
        raise DatasetError(f"{path} is not read: {OTHERS[suffix]}; {TAKEN}")
    if is_image_name(path.name):
        raise DatasetError(f"{path} is a single image; {TAKEN}")


TAKEN = "DATASET.PATH takes a folder, a table (.csv, .tsv) or splits (split_*.json)"


# The file that lists.


def is_list(name: str) -> bool:
    """Whether a file of that name may list images: a table, or splits."""
    return name.lower().endswith(TABLES) or SPLIT_FILE.fullmatch(name) is not None


def find_listings(folder: Path, classes: Sequence[str]) -> tuple[list[Path], list[Remark]]:
    """The file in a folder that lists its images, if there is one, and what has to be said of others.

    Where directories are classes by themselves, a table counts as such a file if it has a column of paths that finds
    images of the folder, and one of labels, splits or patients. Else the only one counts, whatever it holds. Of several
    all count if each is called like a split (`train.csv`, `val.csv`).

    Raises:
        DatasetError: several may be meant.
    """
    listings = sorted(path for path in folder.iterdir() if is_list(path.name) and path.name[0] != ".")
    alone = stand_alone(folder)
    if len(listings) < ENOUGH and not (listings and alone):
        return listings, []
    images = NameIndex(folder)
    named = {path: _names_of_images(path, images, classes) for path in listings}
    meant = [path for path, names in named.items() if names]
    in_parts = sorted(split_of(path.stem) for path in meant) in PARTS
    if not in_parts and (len(meant) > 1 or not (meant or alone)):
        several = meant or listings
        example = next((path for path in several if split_of(path.stem) == "train"), several[0])
        names = ", ".join(path.name for path in several)
        raise DatasetError(f"{folder} holds several tables ({names}): name the one to read with DATASET.PATH {example}")
    remarks = []
    if others := [escaped(path.name) for path in listings if path not in meant]:
        use = (
            f"{', '.join(path.name for path in meant)} lists the images" if meant else "the directories are the classes"
        )
        hint = f"if it lists the images: DATASET.PATH {folder / others[0]}"
        text = f"{folder}: {use}; left unread: {shown_some(others)} ({hint})"
        remarks.append(Remark(text, matters=not meant))
    listed = sum(len(named[path]) for path in meant)
    if alone and meant and 2 * listed < len(images):
        text = f"{meant[0].name} lists {listed} of {len(images)} images, and the others are left out"
        remarks.append(Remark(f"{folder}: {text}; move it elsewhere if the directories are the classes", True))
    return meant, remarks


def stand_alone(folder: Path) -> bool:
    """Whether the directories of a folder can be read without any table."""
    names = directories(folder)
    splits = [folder / name for name in names if split_of(name)]
    classes = [split / name for split in splits for name in directories(split)] or [folder / name for name in names]
    return sum(has_images(place) for place in classes if place not in splits) >= ENOUGH


def _names_of_images(listing: Path, images: NameIndex, classes: Sequence[str]) -> list[str]:
    """What a file lists, if it is splits, or a table that finds images and tells something of them; else nothing."""
    if listing.suffix.lower() == ".json":
        return [item.path for item in read_splits(listing).all()]
    names, tells_more = Table(listing, classes).names_of_images()
    return names if tells_more and any(map(images.may_mean, names)) else []


# Directories.


def directories(folder: Path) -> list[str]:
    """The directories that may hold images, sorted."""
    entries = (entry for entry in os.scandir(folder) if entry.is_dir())
    names = (entry.name for entry in entries if not entry.name.startswith((".", "__")))
    return sorted(name for name in names if name != "split_fewshot")  # which is written here


def read_directories(folder: Path, classes: Sequence[str] = ()) -> list[Row]:
    """The images of a directory a class, the class names being those of the directories.

    Args:
        folder: holds the directories, or one for each split that holds them.
        classes: if stated, the directories of these names are meant, on whichever of two levels they are.

    Raises:
        DatasetError: a directory holds no image, or no class; or the classes may be meant otherwise.
    """
    tops = directories(folder)
    splits = {name: split_of(name) for name in tops}
    others = [name for name in tops if not splits[name]]
    if others and len(others) < len(tops):
        mixed = [name for name in tops if splits[name]]
        raise DatasetError(
            f"{folder} holds directories of splits ({', '.join(mixed)}) beside others: {others}. Move away what is no "
            "split, or rename a class that is called like one"
        )
    wanted = set(map(same_name, classes))
    places = [] if any(splits.values()) else _classes_of_splits(folder, tops)
    if not places and not any(splits.values()):
        places = [(place, posixpath.basename(place), "") for place in _class_places(folder, "", wanted)]
    for top in (name for name in tops if splits[name]):
        found = _class_places(folder, f"{top}/", wanted)
        if not found and (loose := list_images(folder / top)):
            raise DatasetError(
                f"{folder / top} holds {len(loose)} images ({shown_some(map(escaped, loose))}) and no directory of a "
                "class: put each into that of its class; images without a label are not used, move them elsewhere"
            )
        places += [(place, posixpath.basename(place), splits[top]) for place in found]
    rows = []
    for below, label, split in places:
        images = list_images(folder / below, deep=True)
        if not images:
            kinds = shown_kinds(unread_files(folder, [below]))
            there = f" that is read ({kinds})" if kinds else ""
            raise DatasetError(f"{escaped(str(folder / below))} holds no image{there}: fill it or remove it")
        rows += [Row(f"{below}/{image}", unicodedata.normalize("NFC", label), split) for image in images]
    return rows


def _classes_of_splits(folder: Path, tops: Sequence[str]) -> list[tuple[str, str, str]]:
    """Directories of splits below those of the classes, each with class and split; none if any top has another."""
    lower = {top: directories(folder / top) for top in tops}
    if not all(names and all(map(split_of, names)) for names in lower.values()):
        return []
    if loose := [f"{top}/{name}" for top in tops for name in list_images(folder / top)]:
        raise DatasetError(
            f"{folder}: {len(loose)} images lie beside the directories of splits, in none of them: "
            f"{shown_some(map(escaped, loose))}"
        )
    return [(f"{top}/{name}", top, split_of(name)) for top in tops for name in lower[top]]


def _class_places(folder: Path, below: str, wanted: set[str]) -> list[str]:
    """The directories of classes in one of the folder's own (`below`, with `/`; "" is the folder), as relative paths.

    DatasetError if those of its first level are none, or those of its second level may be meant.
    """
    parent = folder / below
    tops = directories(parent)
    if wanted and set(map(same_name, tops)) == wanted:
        return [f"{below}{top}" for top in tops]
    if len(tops) == 1 and not below and (inner := parent / tops[0]) and _looks_right(inner):
        raise DatasetError(
            f"{parent} holds one directory, {tops[0]!r}, which is no class, but looks like the folder that is meant: "
            f"DATASET.PATH {inner}"
        )
    lower = {top: directories(parent / top) for top in tops}
    odd = [top for top in tops if MASKS.fullmatch(top) or (HOLDERS.fullmatch(top) and len(lower[top]) >= ENOUGH)]
    if odd:
        inside = [parent / top for top in odd if not MASKS.fullmatch(top) and _looks_right(parent / top)]
        advice = f"name the folder of the classes (DATASET.PATH {inside[0]})" if inside else "move them elsewhere"
        raise DatasetError(
            f"{parent}: {', '.join(map(repr, odd))} {'is' if len(odd) == 1 else 'are'} no class by name: {advice}; or "
            f'state that each directory is one: DATASET.CLASSES "{tops}"'
        )
    levels = [{same_name(name) for name in names} for names in lower.values()]
    most = max(levels, key=len, default=set())
    if len(tops) > 1 and len(most) >= ENOUGH and all(level and level <= most for level in levels):
        names = lower[tops[levels.index(most)]]
        if most == wanted:
            return [f"{below}{top}/{name}" for top in tops for name in lower[top]]
        own = any(re.search(r"\d", name) or MASKS.fullmatch(name) or HOLDERS.fullmatch(name) for name in names)
        if not own and not any(list_images(parent / top) for top in tops):
            raise DatasetError(
                f"{parent}: each of {', '.join(map(repr, tops))} holds {', '.join(map(repr, names))}. State which of "
                f'them are the classes: DATASET.CLASSES "{tops}" or DATASET.CLASSES "{names}"'
            )
    return [f"{below}{top}" for top in tops]


def _looks_right(folder: Path) -> bool:
    """Whether a folder looks like one of own data: with splits or classes, or a list."""
    return stand_alone(folder) or any(is_list(entry.name) for entry in os.scandir(folder) if entry.is_file())


def nothing_found(source: Path) -> DatasetError:
    """The error for a folder or a list that holds no image, with what it holds instead."""
    advice = "put those of each class into a directory of its own, or name a CSV"
    if not source.is_dir():
        return DatasetError(f"{source} holds no image; {advice}")
    loose = list_images(source)
    beside = [name for name in directories(source.parent) if name != source.name] if loose else []
    if any(list_images(source.parent / name) for name in beside):
        return DatasetError(
            f"{source} holds {len(loose)} images and no directory of a class, and lies beside "
            f"{shown_some(map(repr, map(escaped, beside)))}: it looks like one class of DATASET.PATH {source.parent}"
        )
    if loose:
        return DatasetError(f"{source} holds {len(loose)} images and nothing that tells their classes: {advice}")
    kinds = unread_files(source, [""])
    known: Mapping[str, str] = {kind: OTHERS[kind] for kind in kinds if kind in OTHERS}
    there = f"{source} holds no image" + (f" that is read ({shown_kinds(kinds)})" if kinds else "")
    return DatasetError(f"{there}; {'; '.join([f'{kind}: {what}' for kind, what in known.items()] or [advice])}")


def part_of_more(folder: Path) -> list[Remark]:
    """A word on a folder that is one of several splits, and is read as a whole."""
    if not split_of(folder.name):
        return []
    others = [name for name in directories(folder.parent) if name != folder.name and split_of(name)]
    if not others:
        return []
    text = f"{folder} is divided anew, and {shown_some(map(escaped, others))} beside it left unread"
    return [Remark(f"{text}: DATASET.PATH {folder.parent} reads them as splits", True)]
