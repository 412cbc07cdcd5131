"""Which names of archive members may become files: relative, plain, short, and each of them once."""

from __future__ import annotations

import re
import unicodedata

MAX_COMPONENT = 255  # bytes, as file systems have it
MAX_PATH = 1024  # bytes
MAX_DEPTH = 32  # folders
CONTROLS = frozenset({"Cc", "Zl", "Zp"})  # Unicode categories: NUL, line feeds, escapes, ...
DRIVE = re.compile(r"[A-Za-z]:")

FILE, FOLDER = "file", "folder"


class Names:
    """The paths of one unpacking: each member is checked for itself, and against those before it."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], tuple[str, str]] = {}  # folded path -> path, kind

    def add(self, name: str, kind: str) -> tuple[str, ...]:
        """The components of a member's path below the target; none for the target itself (`./`).

        Args:
            name: as it stands in the archive.
            kind: `FILE` or `FOLDER`.

        Raises:
            ValueError: it must not become a file; the message says why, without the name.
        """
        parts = components(name)
        if not parts and kind == FILE:
            raise ValueError("has no file name")
        for depth in range(1, len(parts)):
            self._register(parts[:depth], FOLDER, inside=True)
        if parts:
            self._register(parts, kind, inside=False)
        return parts

    def _register(self, parts: tuple[str, ...], kind: str, inside: bool) -> None:
        path = "/".join(parts)
        known, known_kind = self._seen.setdefault(_folded(parts), (path, ""))
        if not known_kind:
            self._seen[_folded(parts)] = (path, kind)
        elif known != path:
            raise ValueError(f"differs from {known!r} in case or spelling alone")
        elif inside and known_kind == FILE:
            raise ValueError(f"lies below {known!r}, which is a file")
        elif FILE in (kind, known_kind):
            raise ValueError("stands there twice")


def components(name: str) -> tuple[str, ...]:
    """The parts of a relative path, without `.`; see `Names.add`."""
    if any(unicodedata.category(letter) in CONTROLS for letter in name):
        raise ValueError("has control characters in its name")
    if "\\" in name:
        raise ValueError("has a backslash in its name")
    if name.startswith("/"):
        raise ValueError("is an absolute path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ValueError("leads outside with '..'")
    if any(DRIVE.match(part) for part in parts):
        raise ValueError("names a drive")
    sizes = [len(part.encode("utf-8", "surrogateescape")) for part in parts]
    if len(parts) > MAX_DEPTH or sum(sizes) + len(parts) > MAX_PATH or max(sizes, default=0) > MAX_COMPONENT:
        raise ValueError(f"is too long ({sum(sizes)} bytes in {len(parts)} parts)")
    return parts


def _folded(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Equal for paths that are one file on a system that ignores case or the composition of letters."""
    return tuple(unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold()) for part in parts)
