"""Pictures for the page: the thumbnail, a heat map as a small PNG, a mask's outline, and words for where they lie."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from xcoop.explain.page.colours import STEPS, scale

SIDE = 160  # px, the longer side of a thumbnail
MOST = 1024  # px, the longest side of a picture that is put into a page
FINE = 64  # px, about the longer side of a heat map's PNG
_URI = re.compile(r"data:image/(jpeg|png);base64,([A-Za-z0-9+/]+={0,2})")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def thumbnail(image: Image.Image, side: int = SIDE) -> str:
    """A picture as a data URI of a small JPEG.

    Args:
        image: what the model saw, that is, after resizing and cropping: the heat maps are laid over all of it.
        side: length of the longer side, px; smaller pictures are not enlarged.
    """
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _uri(small, "JPEG", quality=80, optimize=True)


def size(picture: str) -> tuple[int, int]:
    """Width and height of a data URI's picture.

    Raises:
        ValueError: it is no data URI of a JPEG or PNG, or more than `MOST` px wide or high.
    """
    found = _URI.fullmatch(picture)
    if not found:
        raise ValueError(f"a picture must be a data URI of a JPEG or PNG, got {picture[:40]!r}")
    try:
        with Image.open(io.BytesIO(base64.b64decode(found[2])), formats=[found[1].upper()]) as image:
            width, height = image.size
    except (OSError, ValueError) as error:
        raise ValueError(f"a picture's data URI cannot be read ({error})") from error
    if max(width, height) > MOST:
        raise ValueError(f"a picture has {width} x {height} px; at most {MOST} are put into a page: use `thumbnail`")
    return width, height


def grid(values: ArrayLike, what: str) -> Floats:
    """Values as a (gh, gw) array; what is not finite becomes the smallest finite value.

    Raises:
        ValueError: the rows have different lengths, or there are none; the message begins with `what`.
    """
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} is no grid of numbers ({error})") from error
    if found.ndim != 2 or not found.size:
        raise ValueError(f"{what} must be rows of equal length, got shape {found.shape}")
    finite = np.isfinite(found)
    return np.where(finite, found, found[finite].min() if finite.any() else 0.0)


def heat_map(values: Floats) -> str:
    """A map as a data URI of a PNG: its smallest value is the first colour, its largest the last.

    Args:
        values: (gh, gw), finite; upsampled bilinearly to about `FINE` px.
    """
    low, high = float(values.min()), float(values.max())
    even = (values - low) / (high - low) if high > low else np.zeros_like(values)
    factor = max(1, FINE // max(values.shape))
    fine = Image.fromarray(even.astype(np.float32)).resize(
        (values.shape[1] * factor, values.shape[0] * factor), Image.Resampling.BILINEAR
    )
    steps = np.rint(np.clip(np.asarray(fine), 0, 1) * (STEPS - 1)).astype(np.uint8)
    image = Image.fromarray(steps)
    image.putpalette(scale().tobytes())  # turns mode L into P
    return _uri(image, "PNG", optimize=True)


def outline(mask: Bools) -> str:
    """The border of a mask (h, w) as an SVG path in units of its cells."""
    inside = np.pad(mask, 1)
    level = inside[1:, 1:-1] != inside[:-1, 1:-1]  # (h + 1, w): an edge above cell (y, x)
    upright = inside[1:-1, 1:] != inside[1:-1, :-1]  # (h, w + 1): an edge left of cell (y, x)
    across = [f"M{start} {y}h{length}" for y, row in enumerate(level) for start, length in _stretches(row)]
    down = [f"M{x} {start}v{length}" for x, column in enumerate(upright.T) for start, length in _stretches(column)]
    return "".join(across + down)


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
    row, column = _third(down, ("upper", "middle", "lower")), _third(across, ("left", "centre", "right"))
    return "the centre" if (row, column) == ("middle", "centre") else f"the {row} {column}"


def _third(share: float, names: tuple[str, str, str]) -> str:
    return names[min(2, int(3 * share))]


def _stretches(row: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and length of each stretch of true values."""
    turns = np.flatnonzero(np.diff(np.pad(row, 1).astype(np.int8)))
    return [(int(start), int(end - start)) for start, end in zip(turns[::2], turns[1::2], strict=True)]


def _uri(image: Image.Image, format_: str, **options: int) -> str:
    data = io.BytesIO()
    image.save(data, format_, **options)
    return f"data:image/{format_.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
