"""The bytes of a tar file, packed or not, as tarfile may safely read them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from pathlib import Path
from typing import IO, cast

from xcoop.utils.archive_limits import Limits, refused, too_large

BLOCK = 1 << 20  # bytes
MAX_HEADER = 1 << 24  # bytes: tarfile reads long names into memory whole, whatever their stated size


class TarStream:
    """What tarfile reads from: forward only, within the limits, and never much at once."""

    def __init__(self, file: IO[bytes], archive: Path, limits: Limits) -> None:
        self._source, self._archive, self._limits = _decompressed(file), archive, limits
        self._allowed = limits.bytes_of(archive)
        self._position = 0
        self._last = b""
        self.member = ""  # the last one that was met

    def tell(self) -> int:
        """How many unpacked bytes have been read."""
        return self._position

    def read(self, size: int) -> bytes:
        """That many bytes, or those that are left; ArchiveError beyond the limits."""
        if not 0 <= size <= MAX_HEADER:
            raise refused(self._archive, self.member, f"is followed by a header of {size:,} bytes")
        data = self._source.read(size)
        self._position += len(data)
        self._last = data
        if self._position > self._allowed:
            raise refused(self._archive, self.member, too_large(self._archive, self._limits))
        return data

    def seek(self, position: int) -> None:
        """Reads on to a position; ArchiveError for one that lies behind."""
        if position < 0:  # what tarfile of Python 3.10 looks for in an archive without members
            raise EOFError("no members")
        if position < self._position:
            raise refused(self._archive, self.member, "is followed by one that lies before it")
        while self._position < position and self.read(min(BLOCK, position - self._position)):
            pass

    def finish(self) -> None:
        """Reads to the end, so that check sums are compared; a tar file that is whole ends in a block of zeros."""
        if len(self._last) != tarfile.BLOCKSIZE or any(self._last):
            raise EOFError("the end of the archive is missing")
        while self.read(BLOCK):
            pass


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    start = file.read(6)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if start[:3] == b"BZh":
        return cast("IO[bytes]", bz2.BZ2File(file))
    return cast("IO[bytes]", lzma.LZMAFile(file)) if start == b"\xfd7zXZ\x00" else file
