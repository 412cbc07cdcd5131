"""Sets that are handed out as a folder of pictures for each class, and what lies in such folders beside them."""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from xcoop.data.folders import list_images
from xcoop.data.items import Item, Remark
from xcoop.utils.console import DatasetError
from xcoop.utils.images import SUFFIXES
from xcoop.utils.suggest import escaped

# What programmes leave in every folder, and what is written here; it is nobody's data.
NO_DATA = re.compile(
    r"\._.*|\.(?:DS_Store|gitkeep|gitignore|gitattributes|directory|localized|nomedia)|Thumbs\.db|ehthumbs\.db|desktop\.ini"
    r"|(?:.*\.)?split-seed_\d+\.json|phantom\.json|concepts\.yaml",
    re.IGNORECASE,
)
DOCUMENTS = frozenset({"", ".txt", ".md", ".rst", ".pdf", ".json", ".yaml", ".yml", ".html", ".xml", ".bib", ".docx"})
EXAMPLES = 3


def read_class_folders(
    folder: Path,
    labels: Mapping[str, int],
    class_names: Sequence[str],
    keep: Callable[[str], bool] = lambda name: True,
) -> list[Item]:
    """The pictures of each class folder.

    Args:
        folder: that holds the class folders.
        labels: label of each class folder, by its name.
        class_names: in label order.
        keep: whether a file is a picture of the class, by its name; the others (masks) are left out.

    Raises:
        DatasetError: a class folder is missing, or holds no such picture.
    """
    return [
        Item(f"{name}/{file}", label, class_names[label])
        for name, label in labels.items()
        for file in _pictures(folder, name, labels, keep)
    ]


def _pictures(folder: Path, name: str, labels: Mapping[str, int], keep: Callable[[str], bool]) -> list[str]:
    if not (folder / name).is_dir():
        raise DatasetError(f"{folder / name} is missing: the set has the folders {', '.join(labels)}")
    files = [file for file in list_images(folder / name) if keep(file)]
    if not files:
        there = shown_kinds(unread_files(folder, [name]))
        raise DatasetError(f"{folder / name} holds no images" + (f", but {there}" if there else ""))
    return files


def left_out(folder: Path, places: Iterable[str], is_known: Callable[[str], bool]) -> list[Remark]:
    """Says what lies in folders of images and is none of the images that were read.

    Documents that lie directly in the dataset's folder are mentioned, and are no fault.

    Args:
        folder: of the dataset.
        places: folders in it, as relative paths; what lies anywhere below them counts.
        is_known: whether a path, relative to `folder`, is that of an image that was read, or of its companion.
    """
    kinds = unread_files(folder, places, is_known)
    documents = {
        kind: [path for path in paths if "/" not in path and kind in DOCUMENTS] for kind, paths in kinds.items()
    }
    others = {kind: [path for path in paths if path not in documents[kind]] for kind, paths in kinds.items()}
    return [
        Remark(f"{sum(map(len, found.values()))} files beside the images are left out: {text}", found is others)
        for found in (others, documents)
        if (text := shown_kinds(found))
    ]


def unread_files(
    folder: Path, places: Iterable[str], is_known: Callable[[str], bool] = lambda path: False
) -> dict[str, list[str]]:
    """The unknown files in some folders by their kind: a suffix in small letters, or "" without one."""
    found = {path for place in places for path in _files(folder / place, place, frozenset())}
    kinds: dict[str, list[str]] = defaultdict(list)
    for path in sorted(path for path in found if not is_known(path)):
        kinds[posixpath.splitext(path)[1].lower()].append(path)
    return dict(sorted(kinds.items(), key=lambda pair: -len(pair[1])))


def shown_kinds(kinds: Mapping[str, Sequence[str]]) -> str:
    """`5 .dcm (a/1.dcm, a/2.dcm, a/3.dcm, ...), 1 .txt (a/notes.txt)`; empty for none."""
    return ", ".join(
        f"{len(paths)} {escaped(kind) or 'without a suffix'} "
        f"({', '.join(map(escaped, paths[:EXAMPLES]))}{', ...' if len(paths) > EXAMPLES else ''})"
        for kind, paths in kinds.items()
        if paths
    )


def _files(folder: Path, below: str, above: frozenset[str]) -> Iterator[str]:
    """All files, those in folders of folders too; of hidden folders only what is called a picture."""
    here = os.path.realpath(folder)
    if here in above:
        return
    for entry in os.scandir(folder):
        path = posixpath.join(below, entry.name)
        if entry.is_dir():
            hidden = entry.name.startswith((".", "__"))
            inner = _files(Path(entry.path), path, above | {here}) if entry.name != "split_fewshot" else ()
            yield from (one for one in inner if not hidden or posixpath.splitext(one)[1].lower() in SUFFIXES)
        elif not NO_DATA.fullmatch(entry.name):
            yield path
