"""`explanations.json` as one page, for every reader. Knows plain data and images; no torch.

The templates beside this file say what stands where: `report.html.j2`, with the card of one image in `card.html.j2`.
What they cannot say is here: heat maps as small PNGs, borders as paths, and words for both.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xcoop.explain.schema import Control, Explanations, Grid, ImageEntry, Mask, Run, Trust
from xcoop.page import percent, render

SIDE = 160  # px, the longer side of a thumbnail
FINE = 64  # px, about the longer side of a heat map's PNG
COVERED = 0.5  # share of a mask's cell from which it counts as inside

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def report(content: Explanations) -> str:
    """The whole page: the run and how far it can be trusted, what the prompts learned, and each image's card.

    Images come the least certain first, right and wrong both; those without a certainty come last.
    """
    images = sorted(content.images, key=lambda entry: math.inf if entry.certainty is None else entry.certainty)
    return render(
        "explain/report.html.j2",
        content=content,
        images=images,
        metrics=[(metric_name(name, content.run), value) for name, value in content.run.metrics.items()],
        reading=reading,
        view_of=view_of,
        gradient=gradient(),
    )


def image_page(entry: ImageEntry, is_phantom: bool) -> str:
    """A page with the card of one image alone."""
    view = view_of(entry)
    return render("explain/image.html.j2", entry=entry, view=view, is_phantom=is_phantom, gradient=gradient())


def metric_name(metric: str, run: Run) -> str:
    """A run's metric for readers; those of single classes carry the class's number there, and its name here."""
    stem, _, index = metric.rpartition("_")
    known = index.isdecimal() and int(index) < len(run.classnames)
    return (f"{stem} of {run.classnames[int(index)]}" if known else metric).replace("_", " ", 2)


def reading(metric: Trust) -> str:
    """What a metric says against its controls, in words.

    "clear of" means that the two 95 % intervals do not touch (stricter than a test at 5 %); a control without an
    interval stands for its value.
    """
    if not metric.controls:
        return "no control"
    if metric.value is None or metric.low is None or metric.high is None:
        return "no interval"
    sides = {control.name: _side(metric, control) for control in metric.controls}
    if worse := [name for name, side in sides.items() if side == "worse"]:
        return f"worse than: {', '.join(worse)}"
    if unclear := [name for name, side in sides.items() if side == "unclear"]:
        return f"not clear of: {', '.join(unclear)}"
    return "better than its controls"


def _side(metric: Trust, control: Control) -> str:
    has_interval = control.low is not None and control.high is not None
    low, high = (control.low, control.high) if has_interval else (control.value, control.value)
    if low is None or high is None or metric.low is None or metric.high is None:
        return "unclear"
    above, below = metric.low > high, metric.high < low
    if not above and not below:
        return "unclear"
    return "better" if above == (metric.direction == "higher") else "worse"


# The figures of a card.


@dataclass(frozen=True)
class Figure:
    """A picture over the card's image, which is kept once.

    Attributes:
        title: of the class or concept.
        kind: "class" or "concept" of a heat map; "known border" of a mask.
        said: where it is strongest, or what it covers.
        alt: all of it in words.
        heat: the heat map as a data URI; "" for none.
        ends: the values of its first and last colour.
        border: the mask's border as an SVG path; "" for none.
        scale: of that path, across and down, to the image.
    """

    title: str
    kind: str
    said: str
    alt: str
    heat: str = ""
    ends: tuple[float, float] = (0.0, 0.0)
    border: str = ""
    scale: str = ""


@dataclass(frozen=True)
class View:
    """What a card shows of an image beside its entry.

    Attributes:
        width: of the image, px.
        height: of the image, px.
        figures: what is laid over it.
        classes: that some concept adds to.
    """

    width: int
    height: int
    figures: Sequence[Figure]
    classes: Sequence[str]

    @property
    def for_classes(self) -> list[str]:
        """The heads of the columns that say so."""
        return [f"For {name}" for name in self.classes]


def view_of(entry: ImageEntry) -> View:
    """Its heat maps, with the border of a mask of their name, then the masks."""
    with Image.open(io.BytesIO(base64.b64decode(entry.picture.partition(",")[2])), formats=["JPEG", "PNG"]) as image:
        width, height = image.size
    drawn = []
    masks = {mask.concept: mask for mask in entry.masks}
    borders = {mask.concept: _border(mask, width, height) for mask in entry.masks}
    for one in entry.maps:
        values = np.asarray(one.values, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        said = f"strongest in {strongest(values)}" if high > low else "the same everywhere"
        alt = f"heat map for {one.target}: {said}"
        if one.target in masks:
            alt += f"; the line is the known border of {one.target}"
        path, scale = borders.get(one.target, ("", ""))
        drawn.append(Figure(one.target, one.kind, said, alt, heat_map(values), (low, high), path, scale))
    for mask in entry.masks:
        inside = _inside(mask.grid)
        said = f"{percent(float(inside.mean()))} of the image"
        where = f", around {middle(inside)}" if inside.any() else ""
        alt = f"known border of {mask.concept}: {said}{where}"
        path, scale = borders[mask.concept]
        drawn.append(Figure(mask.concept, "known border", said, alt, border=path, scale=scale))
    return View(width, height, drawn, list(dict.fromkeys(name for one in entry.concepts for name in one.adds)))


def _inside(grid: Grid) -> Bools:
    inside: Bools = np.asarray(grid) >= COVERED
    return inside


def _border(mask: Mask, width: int, height: int) -> tuple[str, str]:
    inside = _inside(mask.grid)
    return outline(inside), f"{width / inside.shape[1]:.6g} {height / inside.shape[0]:.6g}"


def thumbnail(image: Image.Image) -> str:
    """An image as a data URI of a small JPEG.

    Args:
        image: what the model saw, that is, after resizing and cropping: the heat maps are laid over all of it. Smaller
            ones than `SIDE` are not enlarged.
    """
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _uri(small, "JPEG", quality=80, optimize=True)


def heat_map(values: Floats) -> str:
    """A map (gh, gw) as a data URI of a PNG: its smallest value is the first colour, its largest the last."""
    low, high = float(values.min()), float(values.max())
    even = (values - low) / (high - low) if high > low else np.zeros_like(values)
    factor = max(1, FINE // max(values.shape))
    size = (values.shape[1] * factor, values.shape[0] * factor)
    fine = Image.fromarray(even.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    image = Image.fromarray(np.rint(np.clip(np.asarray(fine), 0, 1) * 255).astype(np.uint8))
    image.putpalette(colours().tobytes())  # turns mode L into P
    return _uri(image, "PNG", optimize=True)


def _uri(image: Image.Image, kind: str, **options: int) -> str:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


@cache
def colours() -> NDArray[np.uint8]:
    """The scale of heat maps, dark violet over teal to yellow, sRGB, (256, 3).

    Its steps look equally large; who sees no hue still sees the lightness rise.
    """
    from matplotlib import colormaps

    rgb: NDArray[np.uint8] = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    return rgb


def gradient() -> str:
    """The scale as a CSS gradient from left to right."""
    return f"linear-gradient(to right,{','.join('#' + bytes(colour).hex() for colour in colours()[::17])})"


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
