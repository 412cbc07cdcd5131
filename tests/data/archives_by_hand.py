"""Archives written byte by byte: what no honest tool would write can be written here."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

BLOCK = 512
REGULAR, HARD, SYMBOLIC, CHARACTER, FIFO, FOLDER, LONG_NAME, PAX = b"0", b"1", b"2", b"3", b"6", b"5", b"L", b"x"


@dataclass(frozen=True)
class Entry:
    """One member of a zip file; what is None follows from the content."""

    name: str | bytes
    content: bytes = b"content"
    mode: int = stat.S_IFREG | 0o644
    flags: int = 0
    deflated: bool = False
    stated: int | None = None  # unpacked size
    crc: int | None = None
    local_name: bytes | None = None
    method: int | None = None

    @property
    def raw(self) -> bytes:
        return self.name.encode() if isinstance(self.name, str) else self.name

    @property
    def packed(self) -> bytes:
        if not self.deflated:
            return self.content
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(self.content) + packer.flush()

    def header(self, local: bool) -> bytes:
        """What both headers state: version, flags, method, time, date, CRC, sizes, length of the name and the extra."""
        method = (8 if self.deflated else 0) if self.method is None else self.method
        crc = zlib.crc32(self.content) if self.crc is None else self.crc
        stated = len(self.content) if self.stated is None else self.stated
        name = self.local_name if local and self.local_name is not None else self.raw
        flags = self.flags | (0x800 if isinstance(self.name, str) else 0)
        return struct.pack("<HHHHHIIIHH", 20, flags, method, 0, 0x21, crc, len(self.packed), stated, len(name), 0)


def zip_bytes(entries: Sequence[Entry], offsets: Sequence[int] | None = None) -> bytes:
    """A zip file; `offsets` makes the directory point elsewhere."""
    body, starts = b"", []
    for entry in entries:
        starts.append(len(body))
        name = entry.raw if entry.local_name is None else entry.local_name
        body += b"PK\x03\x04" + entry.header(local=True) + name + entry.packed
    directory = b""
    for entry, start in zip(entries, offsets or starts, strict=True):
        directory += b"PK\x01\x02" + struct.pack("<H", 3 << 8 | 20) + entry.header(local=False)
        directory += struct.pack("<HHHII", 0, 0, 0, entry.mode << 16, start) + entry.raw
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end


def tar_member(
    name: str | bytes, content: bytes = b"content", kind: bytes = REGULAR, link: str = "", mode: int = 0o644,
    size: int | None = None,
) -> bytes:  # fmt: skip
    """Header and content of one member."""
    raw = name.encode() if isinstance(name, str) else name
    content = content if kind in (REGULAR, LONG_NAME, PAX) else b""
    size = len(content) if size is None else size
    number = b"%011o\x00" % size if size >= 0 else b"\xff" * 4 + struct.pack(">q", size)  # base 256
    head = raw.ljust(100, b"\x00") + b"%07o\x00" % mode + b"0000000\x00" * 2 + number + b"%011o\x00" % 0
    tail = kind + link.encode().ljust(100, b"\x00") + b"ustar\x0000"
    block = bytearray((head + b" " * 8 + tail).ljust(BLOCK, b"\x00"))
    block[148:156] = b"%06o\x00 " % sum(block)
    return bytes(block) + content + bytes(-len(content) % BLOCK)


def long_named(name: str) -> bytes:
    """A member whose name stands in a GNU header of its own."""
    raw = name.encode() + b"\x00"
    return tar_member("././@LongLink", raw, LONG_NAME) + tar_member(name.encode()[:100])


def pax(content: bytes = b"content", **records: str) -> bytes:
    """A member whose facts stand in a pax header of its own."""
    lines = b"".join(_pax_line(key, value) for key, value in records.items())
    return tar_member("PaxHeader", lines, PAX) + tar_member("plain.txt", content)


def tar_bytes(*members: bytes) -> bytes:
    """A tar file with its end."""
    return b"".join(members) + bytes(2 * BLOCK)


PACKERS = {"": lambda data: data, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def _pax_line(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    length = len(text) + 1
    while len(str(length)) + len(text) != length:
        length = len(str(length)) + len(text)
    return str(length).encode() + text
