"""Folders of images: which are in them, what lies beside them, which cannot be read, and which are the same."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from xcoop.data.splits import Item, Remark, shown_some
from xcoop.utils.console import DatasetError, escaped
from xcoop.utils.files import atomic_write_text, cache_dir, make_folder
from xcoop.utils.images import READER, SUFFIXES, header, is_image_name, pixel_hash, reason_unreadable
from xcoop.utils.process_cache import fact
from xcoop.utils.reading import read_json

logger = logging.getLogger(__name__)

# What programmes leave in every folder, and what is written here; it is nobody's data.
NO_DATA = re.compile(
    r"\._.*|\.(?:DS_Store|gitkeep|gitignore|gitattributes|directory|localized|nomedia)|Thumbs\.db|ehthumbs\.db|desktop\.ini"
    r"|(?:.*\.)?split-seed_\d+\.json|phantom\.json|concepts\.yaml",
    re.IGNORECASE,
)
DOCUMENTS = frozenset({"", ".txt", ".md", ".rst", ".pdf", ".json", ".yaml", ".yml", ".html", ".xml", ".bib", ".docx"})


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path with `~` expanded and made absolute; links stay, so that names look as the user gave them."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def make_once(final: Path, write: Callable[[Path], int]) -> Path:
    """A folder filled by `write`, or the one that is there; see `xcoop.utils.files.make_folder`."""
    if not final.is_dir():
        try:
            make_folder(final, write)
        except FileExistsError:
            logger.info("another process made %s first; it is used", final)
    return final


def list_images(folder: Path, deep: bool = False) -> list[str]:
    """The images in a folder (`deep`: or below it), as sorted relative paths with `/`, without stray and hidden files.

    Links are followed.
    """
    return sorted(path for path in (_files(folder) if deep else os.listdir(folder)) if _is_image(folder, path))


def has_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it."""
    return any(_is_image(folder, path) for path in _files(folder))


def _is_image(folder: Path, path: str) -> bool:
    *folders, name = path.split("/")
    if not is_image_name(name) or any(part.startswith((".", "__")) for part in folders):
        return False
    # A link to nothing is named later, when it is read; a pipe would never end.
    place = os.path.join(folder, path)  # a `Path` of each of thousands of files would take longer than all else
    return os.path.isfile(place) or not os.path.exists(place)


def _files(folder: Path, below: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
    """All that is no folder, as relative paths; a link to a folder that it lies in is not followed."""
    here = os.path.realpath(folder)
    if here in above:
        return
    for entry in os.scandir(folder):
        path = posixpath.join(below, entry.name)
        if entry.is_dir():
            yield from _files(Path(entry.path), path, above | {here})
        else:
            yield path


class NameIndex:
    """Finds the images of a folder by paths that are spelt otherwise than on disk, or are not whole.

    Case and the Unicode form of letters do not count (`nel026.JPG` for `Nel026.jpg`). The suffix may be left out; so
    may the folder, if one image alone has the name.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = list_images(folder, deep=True)
        self._exact = set(self._paths)

    @cached_property
    def _by_key(self) -> tuple[dict[str, list[str]], ...]:
        """The paths by how they may be spelt, of the likeliest first; made when a name is not spelt as on disk."""
        by_key: tuple[dict[str, list[str]], ...] = ({}, {}, {}, {})
        for path in self._paths:
            whole, name = _key(path), _key(posixpath.basename(path))
            for found, key in zip(by_key, (whole, posixpath.splitext(whole)[0], name, _stem(path)), strict=True):
                found.setdefault(key, []).append(path)
        return by_key

    def find(self, name: str) -> str | None:
        """The path as it is spelt on disk; None if there is none.

        Raises:
            DatasetError: it may be any of several files.
        """
        name = posixpath.normpath(name.strip().replace("\\", "/"))
        if name in self._exact:
            return name
        found = next((by_key[_key(name)] for by_key in self._by_key if _key(name) in by_key), [])
        if len(found) > 1:
            what = "these files differ in case alone, or in folder or suffix"
            raise DatasetError(f"{name!r} may be any of {found}: {what}; write the path as it is on disk")
        return found[0] if found else None

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._paths)

    def folders_above(self, path: str) -> str:
        """What a path begins with (folders, with `/`) before that of an image of the folder; "" if it has none."""
        for match in re.finditer("/", path):
            if path[match.end() :] in self._exact and "/" in path[match.end() :]:
                return path[: match.end()]
        return ""

    def may_mean(self, name: str) -> bool:
        """Whether the folder has one or more files that may be meant."""
        try:
            return self.find(name) is not None
        except DatasetError:
            return True


class StemIndex:
    """Finds the images below a folder by their names alone, without folders and suffixes, whatever their case.

    Of several files of one name (some archives hold a folder twice) the first by path is given.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f"{folder} is missing: it holds the images")
        self._folder = folder
        self._by_stem: dict[str, str] = {}
        for path in list_images(folder, deep=True):
            self._by_stem.setdefault(_stem(path), path)

    def find(self, name: str) -> str | None:
        """The path relative to the folder; None if there is none. A suffix of an image may be given."""
        name = name.strip()
        return self._by_stem.get(_stem(name) if is_image_name(name) else _key(name))

    def find_all(self, names: list[str], source: Path) -> list[str]:
        """The paths of all names; raises `DatasetError` that names those without one, and the file that lists them."""
        found = {name: self.find(name) for name in names}
        if lost := [name for name, path in found.items() if path is None]:
            raise DatasetError(
                f"{self._folder} lacks {len(lost)} of {len(names)} images of {source.name}: {name_some(lost)}"
            )
        return [path for name in names if (path := found[name])]


def name_some(names: list[str], limit: int = 20) -> str:
    """The first names of a list for a message, and how many more there are."""
    more = f", ... and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def read_class_folders(
    folder: Path,
    labels: Mapping[str, int],
    class_names: Sequence[str],
    keep: Callable[[str], bool] = lambda name: True,
) -> list[Item]:
    """The images of a set that is handed out as a folder for each class; DatasetError if one is missing or empty.

    `labels` has the label of each folder by its name, `class_names` are in label order; what is not to `keep`, by its
    name, is left out (masks).
    """
    items = []
    for name, label in labels.items():
        if not (folder / name).is_dir():
            raise DatasetError(f"{folder / name} is missing: the set has the folders {', '.join(labels)}")
        files = [file for file in list_images(folder / name) if keep(file)]
        if not files:
            there = shown_kinds(unread_files(folder, [name]))
            raise DatasetError(f"{folder / name} holds no images" + (f", but {there}" if there else ""))
        items += [Item(f"{name}/{file}", label, class_names[label]) for file in files]
    return items


def left_out(folder: Path, places: Iterable[str], is_known: Callable[[str], bool]) -> list[Remark]:
    """Says what lies in folders of images and is none of the images that were read.

    Documents that lie directly in the dataset's folder are mentioned, and are no fault. `places` are folders in it, as
    relative paths; what lies anywhere below them counts. `is_known` tells of a path in it whether it is that of an
    image that was read, or of its companion.
    """
    remarks = []
    kinds = unread_files(folder, places, is_known)
    for matters in (True, False):
        found = {
            kind: [path for path in paths if ("/" in path or kind not in DOCUMENTS) == matters]
            for kind, paths in kinds.items()
        }
        if text := shown_kinds(found):
            count = sum(map(len, found.values()))
            remarks.append(Remark(f"{count} files beside the images are left out: {text}", matters))
    return remarks


def unread_files(
    folder: Path, places: Iterable[str], is_known: Callable[[str], bool] = lambda path: False
) -> dict[str, list[str]]:
    """The unknown files in some folders by their kind: a suffix in small letters, or "" without one."""

    def is_data(path: str) -> bool:
        """Files in hidden folders, too, but of these only what is called an image."""
        *folders, name = path.split("/")
        hidden = any(part.startswith((".", "__")) for part in folders)
        if NO_DATA.fullmatch(name) or "split_fewshot" in folders:
            return False
        return not hidden or posixpath.splitext(name)[1].lower() in SUFFIXES

    found = {path for place in places for path in _files(folder / place, place) if is_data(path)}
    kinds: dict[str, list[str]] = defaultdict(list)
    for path in sorted(path for path in found if not is_known(path)):
        kinds[posixpath.splitext(path)[1].lower()].append(path)
    return dict(sorted(kinds.items(), key=lambda pair: -len(pair[1])))


def shown_kinds(kinds: Mapping[str, Sequence[str]]) -> str:
    """`5 .dcm (a/1.dcm, a/2.dcm, a/3.dcm, ...), 1 .txt (a/notes.txt)`; empty for none."""
    return ", ".join(
        f"{len(paths)} {escaped(kind) or 'without a suffix'} ({shown_some(map(escaped, paths))})"
        for kind, paths in kinds.items()
        if paths
    )


def _stem(path: str) -> str:
    return _key(posixpath.splitext(posixpath.basename(path))[0])


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


MAX_NAMED = 200  # beyond that the fault is not in single files


@dataclass(frozen=True)
class Finding:
    """What is known of one file."""

    size: int  # bytes
    mtime: int  # last modification, in ns
    sides: str  # in pixels, the shorter first (a turn swaps them); empty if the image cannot be read
    content: str  # SHA-256 (hex) of the upright pixels; empty if no other image had its sides
    reason: str  # why the image cannot be read; empty if it can


def survey(folder: Path, paths: Iterable[str]) -> dict[str, Finding]:
    """What is known of each image, by its path in the dataset's folder: looked up, or found out by one full read.

    Equal images are equal in what a model sees of them: upright, as 8-bit RGB (see `xcoop.utils.images`), whatever the
    format, the metadata and the turn of the file. One that was compressed anew has other pixels, and is another. Only
    images whose sides another one has are decoded in full, the others at the coarsest scale. The answers are kept below
    `cache_dir()`, and asked again only for files whose size or modification time has changed.
    """
    wanted = list(dict.fromkeys(paths))
    known = dict(_known(folder))
    current = {path: known[path] for path in wanted if _is_current(known.get(path), folder / path)}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        new = [path for path in wanted if path not in current]
        sides = {path: found.sides for path, found in current.items()}
        sides |= zip(new, pool.map(_sides, [folder / path for path in new]), strict=True)
        often = Counter(sides.values())
        decode = {path: often[sides[path]] > 1 and not (path in current and current[path].content) for path in wanted}
        read = [path for path in wanted if decode[path] or path not in current]
        if read:
            logger.info("reading %d images of %s once, for their faults and what they share", len(read), folder)
            try:
                # Decoders release the interpreter lock: threads use all cores without the cost of processes.
                found = pool.map(lambda path: _read(folder / path, sides[path], decode[path]), read)
                bar = tqdm(found, total=len(read), desc="checking images", unit="image", disable=None, leave=False)
                known |= zip(read, bar, strict=True)
            finally:
                _store(folder, known)
    return {path: known[path] for path in wanted}


def refuse_unreadable(folder: Path, findings: Mapping[str, Finding]) -> None:
    """Raises one DatasetError that names the images that cannot be read, and why (the first `MAX_NAMED`)."""
    bad = [f"  {folder / path}: {finding.reason}" for path, finding in sorted(findings.items()) if finding.reason]
    if bad:
        more = [f"  ... and {len(bad) - MAX_NAMED} more"] if len(bad) > MAX_NAMED else []
        head = f"{len(bad)} of {len(findings)} images cannot be read:"
        raise DatasetError("\n".join([head, *bad[:MAX_NAMED], *more]))


def _sides(path: Path) -> str:
    found = header(path)
    return "" if found is None else "x".join(map(str, sorted(found[:2])))


def _read(path: Path, sides: str, decode: bool) -> Finding:
    try:
        stat, data = path.stat(), path.read_bytes()
    except OSError as error:
        return Finding(0, 0, "", "", error.strerror or type(error).__name__)
    content, reason = pixel_hash(path, data) if decode and sides else ("", reason_unreadable(path, data))
    return Finding(stat.st_size, stat.st_mtime_ns, sides, content, reason)


def _is_current(finding: Finding | None, path: Path) -> bool:
    try:
        stat = path.stat()
    except OSError:
        return False
    if finding is None or finding.reason:  # a fault may have been the machine's: it is looked at again
        return False
    return (finding.size, finding.mtime) == (stat.st_size, stat.st_mtime_ns)


def _store_path(folder: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.realpath(folder)) + READER.encode()).hexdigest()[:16]
    return cache_dir() / "surveys" / f"{key}.json"


def _known(folder: Path) -> dict[str, Finding]:
    """The stored findings; none if there are none or the file is damaged (they can be found out again)."""
    path = _store_path(folder)

    def load() -> dict[str, Finding]:
        stored = read_json(path)
        if stored.get("sha256") != _sha256(stored["files"]):
            raise ValueError("its findings are not those that were written")
        if any([type(value) for value in row] != [int, int, str, str, str] for row in stored["files"].values()):
            raise TypeError("a row is no finding")
        return {path: Finding(*row) for path, row in stored["files"].items()}

    try:
        return fact(("survey", path, path.stat().st_mtime_ns), load)  # runs that share a process read it once
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        logger.warning("%s is damaged and made anew (%s)", path, error)
        return {}


def _sha256(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _store(folder: Path, findings: Mapping[str, Finding]) -> None:
    rows = {path: astuple(finding) for path, finding in sorted(findings.items())}
    try:
        content = {"folder": str(folder), "sha256": _sha256(rows), "files": rows}
        atomic_write_text(_store_path(folder), json.dumps(content, indent=0))
    except OSError as error:
        logger.warning("the findings on %s cannot be kept, and will be found out again (%s)", folder, error)
