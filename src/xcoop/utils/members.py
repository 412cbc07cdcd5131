"""The members of zip and tar archives that somebody else made, read within limits and without trust.

Nothing here writes. What a member is called is judged in `member_names`.
"""

from __future__ import annotations

import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from xcoop.utils.archive_limits import ArchiveError, Limits, refused, too_large
from xcoop.utils.member_names import FILE, FOLDER
from xcoop.utils.tar_stream import TarStream

BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class Member:
    """One member.

    Attributes:
        name: as it stands in the archive.
        kind: `file` or `folder`.
        size: stated, in bytes.
        blocks: gives the content; it must be read before the next member is asked for.
    """

    name: str
    kind: str
    size: int
    blocks: Callable[[], Iterator[bytes]]


def members(archive: Path, limits: Limits) -> Iterator[Member]:
    """The members in order.

    Raises:
        ArchiveError: it is no zip or tar file, is damaged or encrypted, holds anything but files and folders, or more
            than `limits` allow: as stated (before anything is read), or as it turns out.
    """
    with archive.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        read = _zip_members if start[:2] == b"PK" else _tar_members
        total, allowed = 0, limits.bytes_of(archive)
        for count, member in enumerate(read(archive, file, limits), start=1):
            total += member.size
            if count > limits.members:
                raise refused(archive, member.name, f"is one too many: at most {limits.members:,} members are allowed")
            if total > allowed:
                raise refused(archive, member.name, too_large(archive, limits))
            yield member


@contextmanager
def _reading(archive: Path, name: str = "") -> Iterator[None]:
    """Whatever a decoder throws on a bad file becomes one ArchiveError; faults of the disk stay what they are."""
    try:
        yield
    except ArchiveError:
        raise
    except MemoryError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(archive, name, error) from error
    except Exception as error:  # zlib, lzma, struct, zipfile and tarfile each have errors of their own
        raise _damaged(archive, name, error) from error


def _damaged(archive: Path, name: str, error: Exception) -> ArchiveError:
    reason = f"{type(error).__name__}: {error}"
    if name:
        return refused(archive, name, f"cannot be read: it is damaged or cut off ({reason})")
    return ArchiveError(f"{archive} is neither a zip nor a tar file, or it is damaged or cut off ({reason})")


def _copy(archive: Path, name: str, size: int, source: IO[bytes]) -> Iterator[bytes]:
    """The content in blocks; it must have the stated size."""
    done = 0
    while True:
        with _reading(archive, name):
            block = source.read(BLOCK)
        if not block:
            break
        done += len(block)
        yield block
    if done != size:
        raise refused(archive, name, f"is damaged or cut off: it has {done:,} bytes, and {size:,} are stated")


def _zip_members(archive: Path, file: IO[bytes], limits: Limits) -> Iterator[Member]:
    with _reading(archive):
        opened = zipfile.ZipFile(file)
    with opened:
        infos = opened.infolist()
        if sum(info.file_size for info in infos) > limits.bytes_of(archive):
            largest = max(infos, key=lambda info: info.file_size)
            raise refused(archive, largest.orig_filename, too_large(archive, limits))
        for info in infos:
            _check_zip_member(archive, info)
        _check_overlap(archive, file, infos, opened.start_dir)
        for info in infos:
            yield _zip_member(archive, opened, info)


def _zip_member(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    name = info.orig_filename  # `filename` ends at a NUL

    def blocks() -> Iterator[bytes]:
        with _reading(archive, name):
            source = opened.open(info)
        with source:
            yield from _copy(archive, name, info.file_size, source)

    return Member(name, FOLDER if name.endswith("/") else FILE, info.file_size, blocks)


def _check_zip_member(archive: Path, info: zipfile.ZipInfo) -> None:
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & 0x41:
        raise refused(archive, name, "is encrypted")
    if kind == stat.S_IFLNK:
        raise refused(archive, name, "is a link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refused(archive, name, "is no file and no folder")
    if kind == stat.S_IFDIR and not name.endswith("/"):
        raise refused(archive, name, "is stated to be both a file and a folder")
    if name.endswith("/") and info.file_size:
        raise refused(archive, name, "is a folder with a content")


def _check_overlap(archive: Path, file: IO[bytes], infos: list[zipfile.ZipInfo], end: int) -> None:
    """Members that share bytes are how a small zip file becomes a huge one (older Pythons unpack them)."""
    rows = sorted((info.header_offset, info.orig_filename, info.compress_size) for info in infos)
    nexts = [row[0] for row in rows[1:]] + [end]
    for (start, name, size), following in zip(rows, nexts, strict=False):
        with _reading(archive, name):
            file.seek(start)
            name_length, extra_length = struct.unpack("<26x2H", file.read(30))
        if start + 30 + name_length + extra_length + size > following:
            raise refused(archive, name, "overlaps another one")


def _tar_members(archive: Path, file: IO[bytes], limits: Limits) -> Iterator[Member]:
    with _reading(archive):
        stream = TarStream(file, archive, limits)
        tar: Any = tarfile.open(fileobj=cast(Any, stream), mode="r:")  # noqa: SIM115 - the caller closes the file
    while True:
        with _reading(archive):
            info = tar.next()
        if info is None:
            break
        stream.member = info.name
        _check_tar_member(archive, info)
        yield _tar_member(archive, tar, info)
        tar.members.clear()  # else it keeps all of them
    with _reading(archive):
        stream.finish()


def _tar_member(archive: Path, tar: Any, info: tarfile.TarInfo) -> Member:
    def blocks() -> Iterator[bytes]:
        with _reading(archive, info.name):
            source = tar.extractfile(info)
        yield from _copy(archive, info.name, info.size, cast("IO[bytes]", source))

    return Member(info.name, FOLDER if info.isdir() else FILE, 0 if info.isdir() else info.size, blocks)


def _check_tar_member(archive: Path, info: tarfile.TarInfo) -> None:
    if info.issym() or info.islnk():
        raise refused(archive, info.name, f"is a link (to {info.linkname[:120]!r})")
    if not (info.isreg() or info.isdir()) or info.issparse():
        raise refused(archive, info.name, "is no plain file and no folder")
    if info.size < 0:
        raise refused(archive, info.name, f"has the size {info.size}")
