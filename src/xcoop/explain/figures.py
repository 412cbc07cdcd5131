"""What is laid over a picture: heat maps as small PNGs, the borders of masks as paths, and words for where they lie.

Plain images; no torch. A grid is (gh, gw), from the picture's upper left.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SIDE, LARGE = 1024, 2048  # px, the longer side of a picture, one of many or of few: larger ones are reduced
FINE = 64  # px, about the longer side of a heat map's PNG
MORE, LESS = (255, 150, 20), (30, 110, 255)  # colours of what is above and below zero, sRGB; zero is transparent


def thumbnail(image: Image.Image, side: int = SIDE) -> str:
    """An image as a data URI of a JPEG, at its own resolution unless it is larger than `side`."""
    small = image.convert("RGB")
    small.info.clear()  # a file's comment, which may name a patient, would be kept
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _uri(small, "JPEG", quality=85, optimize=True)


def heat_map(values: Floats, limit: float) -> str:
    """A map (gh, gw) as a data URI of a PNG, the more opaque the further a value is from zero.

    Args:
        values: above zero in one colour, below in the other.
        limit: the value, and less than nothing the other, that is fully opaque; more is drawn so, too.
    """
    even = np.clip(values / limit, -1, 1) if limit > 0 else np.zeros_like(values)
    factor = max(1, FINE // max(values.shape))
    size = (values.shape[1] * factor, values.shape[0] * factor)
    fine = Image.fromarray(even.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    level = np.rint(np.clip(np.asarray(fine), -1, 1) * 127).astype(np.int64) + 127  # 0 to 254
    image = Image.fromarray(level.astype(np.uint8))
    table = colours()
    image.putpalette(table[:, :3].tobytes())  # turns mode L into P
    return _uri(image, "PNG", optimize=True, transparency=table[:, 3].tobytes())


def colours() -> NDArray[np.uint8]:
    """Red, green, blue and opacity of the 255 values from the lowest to the highest, zero in the middle: (255, 4)."""
    steps = np.arange(-127, 128)
    table = np.where(steps[:, None] < 0, np.array(LESS), np.array(MORE))
    opacity = np.rint(255 * np.abs(steps) / 127)
    return np.column_stack([table, opacity]).astype(np.uint8)


def gradient() -> str:
    """The scale as a CSS gradient from left to right, over the ground that it is drawn on."""
    (below, above) = (",".join(map(str, colour)) for colour in (LESS, MORE))
    return f"linear-gradient(to right,rgba({below},1),rgba({below},0) 50%,rgba({above},0) 50%,rgba({above},1))"


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def outline(mask: Bools) -> str:
    """The border of a mask (h, w) as an SVG path in units of its cells."""
    inside = np.pad(mask, 1)
    level = inside[1:, 1:-1] != inside[:-1, 1:-1]  # (h + 1, w): an edge above cell (y, x)
    upright = inside[1:-1, 1:] != inside[1:-1, :-1]  # (h, w + 1): an edge left of cell (y, x)
    across = [f"M{start} {y}h{length}" for y, row in enumerate(level) for start, length in _stretches(row)]
    down = [f"M{x} {start}v{length}" for x, column in enumerate(upright.T) for start, length in _stretches(column)]
    return "".join(across + down)


def _stretches(row: Bools) -> list[tuple[int, int]]:
    """Start and length of each stretch of true values."""
    turns = np.flatnonzero(np.diff(np.pad(row, 1).astype(np.int8)))
    return [(int(start), int(end - start)) for start, end in zip(turns[::2], turns[1::2], strict=True)]


def strongest(values: Floats) -> str:
    """Where a grid (gh, gw) is largest, in words: "the upper left", "the centre", ...; of equals, the first."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return _place((row + 0.5) / values.shape[0], (column + 0.5) / values.shape[1])


def middle(mask: Bools) -> str:
    """Where the middle of a mask (h, w) lies, in words; it must not be empty."""
    rows, columns = np.nonzero(mask)
    return _place((rows.mean() + 0.5) / mask.shape[0], (columns.mean() + 0.5) / mask.shape[1])


def _place(down: float, across: float) -> str:
    """Words for a place; both shares are in [0, 1), from the upper left."""
    row, column = ("upper", "middle", "lower")[int(3 * down)], ("left", "centre", "right")[int(3 * across)]
    return "the centre" if (row, column) == ("middle", "centre") else f"the {row} {column}"
