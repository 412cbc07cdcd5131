"""Folders: where data lies, what may be written, and which pictures are in them."""

from __future__ import annotations

import logging
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from xcoop.utils.console import DatasetError
from xcoop.utils.files import make_folder
from xcoop.utils.images import is_image_name

logger = logging.getLogger(__name__)


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path with `~` expanded and made absolute; links stay, so that names look as the user gave them."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder itself if it is missing.

    A folder that grants writing to nobody counts as read-only, for root too: it was closed on purpose.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and bool(folder.stat().st_mode & 0o222)


def make_once(final: Path, write: Callable[[Path], int]) -> Path:
    """A folder filled by `write`, or the one that is there; see `xcoop.utils.files.make_folder`."""
    if not final.is_dir():
        try:
            make_folder(final, write)
        except FileExistsError:
            logger.info("another process made %s first; it is used", final)
    return final


def list_images(folder: Path, deep: bool = False) -> list[str]:
    """The pictures below a folder, as sorted relative paths with `/`; stray and hidden files are left out.

    Args:
        folder: where to look; links are followed.
        deep: look into sub-folders too.
    """
    return sorted(_walk(folder, "", deep, frozenset()))


class NameIndex:
    """Finds the pictures of a folder by paths that are spelt otherwise than on disk, or are not whole.

    Case and the Unicode form of letters do not count (`nel026.JPG` for `Nel026.jpg`). The suffix may be left out; so
    may the folder, if one picture alone has the name.
    """

    def __init__(self, folder: Path) -> None:
        paths = list_images(folder, deep=True)
        self._exact = set(paths)
        self._by_key: tuple[dict[str, list[str]], ...] = ({}, {}, {}, {})
        for path in paths:
            whole, name = _key(path), _key(posixpath.basename(path))
            for found, key in zip(self._by_key, (whole, posixpath.splitext(whole)[0], name, _stem(path)), strict=True):
                found.setdefault(key, []).append(path)

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


class StemIndex:
    """Finds the pictures below a folder by their names alone, without folders and suffixes, whatever their case.

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
        """The path relative to the folder; None if there is none. A suffix of a picture may be given."""
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


def _stem(path: str) -> str:
    return _key(posixpath.splitext(posixpath.basename(path))[0])


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _walk(folder: Path, prefix: str, deep: bool, above: frozenset[str]) -> Iterator[str]:
    here = os.path.realpath(folder)
    if here in above:  # a link to a folder that it lies in
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            if deep and not entry.name.startswith((".", "__")):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", deep, above | {here})
        elif is_image_name(entry.name) and (entry.is_file() or not os.path.exists(entry.path)):
            yield prefix + entry.name  # a link to nothing is named later, when it is read; a pipe would never end
