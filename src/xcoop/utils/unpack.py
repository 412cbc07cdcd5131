"""Unpacking archives that somebody else made: inside their folder, whole or not at all, and over nothing.

`tarfile`'s data filter and `zipfile.extractall` keep members inside the folder, and no more: they follow links that
stay inside, overwrite, accept a name twice or in two spellings, and unpack whatever a few kilobytes grow to. So what is
taken from the libraries is the reading of members; what may become a file is judged here, and only plain files are
written.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import logging
import lzma
import os
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from tqdm import tqdm

from xcoop.utils.files import require_whole, staging

logger = logging.getLogger(__name__)

SMALL = 1 << 26  # bytes: below that the ratio does not matter
BLOCK = 1 << 20  # bytes
MAX_HEADER = 1 << 24  # bytes: tarfile reads long names into memory whole, whatever their stated size
MAX_COMPONENT = 255  # bytes of a name, as file systems have it
MAX_PATH = 1024  # bytes
MAX_DEPTH = 32  # folders
CONTROLS = frozenset({"Cc", "Zl", "Zp"})  # Unicode categories: NUL, line feeds, escapes, ...
PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
DRIVE = re.compile(r"[A-Za-z]:")


class ArchiveError(ValueError):
    """An archive that is damaged, or that is not to be trusted; the message names it and the member."""


@dataclass(frozen=True)
class Limits:
    """How much may come out of an archive."""

    members: int = 1_000_000
    total: int = 1 << 38  # bytes of all of them
    ratio: int = 200  # of the unpacked to the packed size; images are near 1, tables near 10


@dataclass(frozen=True)
class Member:
    """One member: its name as it stands in the archive, its stated size in bytes, and how its content is opened."""

    name: str
    is_folder: bool
    size: int
    open: Callable[[], IO[bytes] | None]


DEFAULT = Limits()


def unpack(archives: Sequence[Path], target: Path, limits: Limits = DEFAULT) -> list[Path]:
    """Unpacks zip and tar files (.gz, .bz2, .xz) into one folder, beside what it holds.

    They are unpacked under a temporary name and moved into place. Links, devices, owners, modes and times are not taken
    over: what comes out are plain files and folders of this user.

    The archives are the parts of one tree, which must not hold a name twice; `limits` hold for each. The folder and its
    parents are made if they are missing. Returns what was made at the top of the target, sorted.

    Raises:
        FileExistsError: the target holds a name that an archive has at its top; nothing was changed.
        ArchiveError: an archive is damaged, or would write elsewhere, or too much; nothing was unpacked.
        OSError: the disk is full or must not be written to; nothing was unpacked.
    """
    target = Path(os.path.realpath(target))
    # On the file system of the target: beside it if it is to be made, within it if it is not empty.
    within = target.is_dir() and any(target.iterdir())
    with staging(target / "unpacking" if within else target) as folder:
        names = Names()
        require_whole(folder, sum(_unpack_one(Archive(path, limits), folder, names) for path in archives))
        return _move(folder, target)


def _unpack_one(archive: Archive, folder: Path, names: Names) -> int:
    """How many files were written."""
    logger.info("unpacking %s", archive.path)
    written = 0
    for member in tqdm(archive.members(), desc=archive.path.name, unit="file", disable=None, leave=False):
        try:
            parts = names.add(member.name, member.is_folder)
        except ValueError as error:
            raise archive.refused(member.name, str(error)) from error
        try:
            _write(archive, member, folder, parts)
        except OSError as error:
            what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
            text = f"{what} at the member {member.name!r} ({member.size:,} bytes); nothing was unpacked"
            raise OSError(error.errno, f"{archive.path}: {text}") from error
        written += not member.is_folder
    if not written:
        raise ArchiveError(f"{archive.path} holds no files")
    return written


def _write(archive: Archive, member: Member, folder: Path, parts: Sequence[str]) -> None:
    path = folder
    for part in parts if member.is_folder else parts[:-1]:
        path = path / part  # one by one: the staging folder itself must not come back if it has vanished
        path.mkdir(exist_ok=True)
    if not member.is_folder:
        with (path / parts[-1]).open("xb") as file:  # a name that is there, however it came there, is an error
            for block in archive.blocks(member):
                file.write(block)


def _move(folder: Path, target: Path) -> list[Path]:
    names = sorted(os.listdir(folder))
    if not target.is_dir() or not any(target.iterdir()):
        folder.rename(target)  # an empty folder gives way
        return [target / name for name in names]
    present = {name.casefold() for name in os.listdir(target)}
    if clashes := [name for name in names if name.casefold() in present]:
        raise FileExistsError(f"{target} holds {', '.join(clashes)} already; nothing is overwritten: move it away")
    moved: list[Path] = []
    try:
        for name in names:
            (folder / name).rename(target / name)
            moved.append(target / name)
    except OSError:
        for path in moved:
            path.rename(folder / path.name)
        raise
    return moved


class Names:
    """The paths of one unpacking: each member is checked for itself, and against those before it."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], tuple[str, bool]] = {}  # folded path -> path, whether it is a folder

    def add(self, name: str, is_folder: bool) -> tuple[str, ...]:
        """The components of a member's path below the target; none for the target itself (`./`).

        Raises:
            ValueError: it must not become a file; the message says why, without the name.
        """
        parts = components(name)
        if not parts and not is_folder:
            raise ValueError("has no file name")
        for depth in range(1, len(parts) + 1):
            path, last = "/".join(parts[:depth]), depth == len(parts)
            as_folder = is_folder or not last
            folded = tuple(map(_folded, parts[:depth]))
            if folded not in self._seen:
                self._seen[folded] = (path, as_folder)
                continue
            known, known_folder = self._seen[folded]
            if known != path:
                raise ValueError(f"differs from {known!r} in case or spelling alone")
            if not last and not known_folder:
                raise ValueError(f"lies below {known!r}, which is a file")
            if not (as_folder and known_folder):
                raise ValueError("stands there twice")
        return parts


def _folded(part: str) -> str:
    """Equal for names that are one on a system that ignores case or the composition of letters."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold())


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


class Archive:
    """One zip or tar file, read within limits and without trust."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits, self.size = path, limits, path.stat().st_size
        self.allowed = min(limits.total, max(SMALL, limits.ratio * self.size))  # bytes that it may unpack to

    def refused(self, name: str, reason: str) -> ArchiveError:
        """The error for one member."""
        shown = name if len(name) <= 120 else f"{name[:100]}...({len(name)} characters)"
        return ArchiveError(f"{self.path}: the member {shown!r} {reason}; nothing was unpacked")

    def too_large(self, name: str) -> ArchiveError:
        """The error for the member that goes beyond the limits."""
        limit = f"the {self.allowed:,} bytes allowed for an archive of {self.size:,}"
        return self.refused(name, f"makes it unpack to more than {limit}")

    @contextmanager
    def reading(self, name: str = "") -> Iterator[None]:
        """Whatever a decoder throws on a bad file becomes one ArchiveError; faults of the disk stay what they are."""
        try:
            yield
        except (ArchiveError, MemoryError):
            raise
        except Exception as error:  # zlib, lzma, struct, zipfile and tarfile each have errors of their own
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = f"damaged or cut off ({type(error).__name__}: {error})"
            if name:
                raise self.refused(name, f"cannot be read: it is {reason}") from error
            raise ArchiveError(f"{self.path} is neither a zip nor a tar file, or it is {reason}") from error

    def members(self) -> Iterator[Member]:
        """The members in order; the content of one must be read before the next is asked for.

        Raises:
            ArchiveError: it is no zip or tar file, is damaged or encrypted, holds anything but files and folders, or
                more than the limits allow: as stated (before anything is read), or as it turns out.
        """
        with self.path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            total = 0
            for count, member in enumerate(self._zip(file) if is_zip else self._tar(file), start=1):
                total += member.size
                if count > self.limits.members:
                    most = f"{self.limits.members:,} members are allowed"
                    raise self.refused(member.name, f"is one too many: at most {most}")
                if total > self.allowed:
                    raise self.too_large(member.name)
                yield member

    def blocks(self, member: Member) -> Iterator[bytes]:
        """The content of a member, which must have the stated size."""
        done = 0
        with self.reading(member.name):
            content = cast("IO[bytes]", member.open())
        with content:
            while True:
                with self.reading(member.name):
                    block = content.read(BLOCK)
                if not block:
                    break
                done += len(block)
                yield block
        if done != member.size:
            stated = f"it has {done:,} bytes, and {member.size:,} are stated"
            raise self.refused(member.name, f"is damaged or cut off: {stated}")

    def _zip(self, file: IO[bytes]) -> Iterator[Member]:
        with self.reading():
            opened = zipfile.ZipFile(file)
        with opened:
            infos = opened.infolist()
            if sum(info.file_size for info in infos) > self.allowed:
                raise self.too_large(max(infos, key=lambda info: info.file_size).orig_filename)
            for info in infos:
                self._check_zip_member(info)
            # Members that share bytes are how a small zip file becomes a huge one (older Pythons unpack them).
            rows = sorted((info.header_offset, info.orig_filename, info.compress_size) for info in infos)
            ends = [start for start, _, _ in rows[1:]] + [opened.start_dir]
            for (start, name, size), end in zip(rows, ends, strict=False):
                with self.reading(name):
                    file.seek(start)
                    name_length, extra_length = struct.unpack("<26x2H", file.read(30))
                if start + 30 + name_length + extra_length + size > end:
                    raise self.refused(name, "overlaps another one")
            for info in infos:
                name = info.orig_filename  # `filename` ends at a NUL
                yield Member(name, name.endswith("/"), info.file_size, lambda info=info: opened.open(info))  # type: ignore[misc]

    def _check_zip_member(self, info: zipfile.ZipInfo) -> None:
        name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
        if info.flag_bits & 0x41:
            raise self.refused(name, "is encrypted")
        if kind == stat.S_IFLNK:
            raise self.refused(name, "is a link")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise self.refused(name, "is no file and no folder")
        if kind == stat.S_IFDIR and not name.endswith("/"):
            raise self.refused(name, "is stated to be both a file and a folder")
        if name.endswith("/") and info.file_size:
            raise self.refused(name, "is a folder with a content")

    def _tar(self, file: IO[bytes]) -> Iterator[Member]:
        with self.reading():
            stream = TarStream(file, self)
            tar: Any = tarfile.open(fileobj=cast(Any, stream), mode="r:")  # noqa: SIM115 - `members` closes the file
        while True:
            with self.reading():
                info = tar.next()
            if info is None:
                break
            stream.member = info.name
            if info.issym() or info.islnk():
                raise self.refused(info.name, f"is a link (to {info.linkname[:120]!r})")
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise self.refused(info.name, "is no plain file and no folder")
            if info.size < 0:
                raise self.refused(info.name, f"has the size {info.size}")
            size = 0 if info.isdir() else info.size
            yield Member(info.name, info.isdir(), size, lambda info=info: tar.extractfile(info))  # type: ignore[misc]
            tar.members.clear()  # else it keeps all of them
        with self.reading():
            stream.finish()


class TarStream:
    """What tarfile reads from, packed or not: forward only, within the limits, and never much at once."""

    def __init__(self, file: IO[bytes], archive: Archive) -> None:
        start = file.read(6)
        file.seek(0)
        packed = (opened for magic, opened in PACKED.items() if start.startswith(magic))
        self._source = cast("IO[bytes]", next(packed, lambda plain: plain)(file))
        self._archive, self._position, self._last = archive, 0, b""
        self.member = ""  # the last one that was met

    def tell(self) -> int:
        """How many unpacked bytes have been read."""
        return self._position

    def read(self, size: int) -> bytes:
        """That many bytes, or those that are left; ArchiveError beyond the limits."""
        if not 0 <= size <= MAX_HEADER:
            raise self._archive.refused(self.member, f"is followed by a header of {size:,} bytes")
        self._last = self._source.read(size)
        self._position += len(self._last)
        if self._position > self._archive.allowed:
            raise self._archive.too_large(self.member)
        return self._last

    def seek(self, position: int) -> None:
        """Reads on to a position; ArchiveError for one that lies behind."""
        if position < 0:  # what tarfile of Python 3.10 looks for in an archive without members
            raise EOFError("no members")
        if position < self._position:
            raise self._archive.refused(self.member, "is followed by one that lies before it")
        while self._position < position and self.read(min(BLOCK, position - self._position)):
            pass

    def finish(self) -> None:
        """Reads to the end, so that check sums are compared; a tar file that is whole ends in a block of zeros."""
        if len(self._last) != tarfile.BLOCKSIZE or any(self._last):
            raise EOFError("the end of the archive is missing")
        while self.read(BLOCK):
            pass
