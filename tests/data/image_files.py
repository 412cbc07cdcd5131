"""Picture files of every kind, written byte by byte: what is read of them is compared with what was written."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def packed(values: np.ndarray, bits: int) -> list[bytes]:
    """The rows of samples of 1, 2, 4, 8 or 12 bits, each filled up to whole bytes."""
    texts = ["".join(f"{int(value):0{bits}b}" for value in row) for row in values.reshape(len(values), -1)]
    return [int(text + "0" * (-len(text) % 8), 2).to_bytes(-(-len(text) // 8), "big") for text in texts]


def tiff(values: np.ndarray, bits: int, tags: dict[int, list[int]], order: str = "<", packing: int = 1) -> bytes:
    """A TIFF of samples (H, W) or (H, W, C); `tags` are shorts beside those that the array tells.

    `packing` 8 is Deflate. With PlanarConfiguration (284) 2 each channel is a strip of its own. Of 8 bits and more
    the array's type is that of the samples; below, and of 12 bits, they are packed.
    """
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    planes = [values[..., c] for c in range(samples)] if tags.get(284) == [2] else [values]
    whole = values.dtype.newbyteorder(order)
    strips = [b"".join(packed(p, bits)) if bits % 8 else p.astype(whole).tobytes() for p in planes]
    if tags.get(266) == [2]:  # FillOrder: the lowest bit first
        strips = [bytes(int(f"{byte:08b}"[::-1], 2) for byte in strip) for strip in strips]
    strips = [zlib.compress(strip) for strip in strips] if packing == 8 else strips
    places = [8 + sum(len(s) + len(s) % 2 for s in strips[:n]) for n in range(len(strips))]
    body = b"".join(strip + b"\0" * (len(strip) % 2) for strip in strips)
    entries = {256: [width], 257: [height], 258: [bits] * samples, 259: [packing], 273: places, 277: [samples]}
    entries |= {278: [height], 279: [len(strip) for strip in strips]} | tags
    rows, extra = b"", b""
    for tag, numbers in sorted(entries.items()):
        long = tag in (273, 279)
        data = struct.pack(f"{order}{len(numbers)}{'I' if long else 'H'}", *numbers)
        place = struct.pack(f"{order}I", 8 + len(body) + len(extra)) if len(data) > 4 else data.ljust(4, b"\0")
        extra += data + b"\0" * (len(data) % 2) if len(data) > 4 else b""
        rows += struct.pack(f"{order}HHI", tag, 4 if long else 3, len(numbers)) + place
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(entries)) + rows + b"\0" * 4
    return magic + struct.pack(f"{order}I", 8 + len(body) + len(extra)) + body + extra + directory


def png(values: np.ndarray, bits: int, kind: int, transparent: bytes = b"", palette: bytes = b"") -> bytes:
    """A PNG; `kind` is its colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    rows = [row.astype(">u2").tobytes() for row in values] if bits == 16 else packed(values, bits)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", transparent), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
        if body or name == b"IEND"
    )


def pnm(values: np.ndarray, largest: int) -> bytes:
    """A PGM of (H, W), or a PPM of (H, W, 3), whose largest value is stated."""
    head = f"P{5 if values.ndim == 2 else 6} {values.shape[1]} {values.shape[0]} {largest}\n".encode()
    return head + values.astype(">u2" if largest > 255 else "u1").tobytes()
