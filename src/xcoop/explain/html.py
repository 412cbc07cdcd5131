"""`explanations.json`, what it holds, and its page for every reader. Plain data and images; no torch.

The templates beside this file say what stands where: `report.html.j2`, with the card of one image in `card.html.j2`.
What they cannot say is here: heat maps as small PNGs, borders as paths, and words for both.

Shares, probabilities and certainties are fractions in [0, 1]. A number that is not known is null (None). A grid is a
list of rows, from the image's upper left. Whatever does not follow the types is refused; the message names the entry.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from xcoop.page import percent, render

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Grid = list[list[float]]  # (gh, gw)
Known = float | None

# What the file holds.


class Entry(BaseModel):
    """Base of all: nothing is converted, and no NaN is let in."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, populate_by_name=True, protected_namespaces=())


class Run(Entry):
    """The run that is explained; all but `folder` and `created` is copied from its `results.json`."""

    folder: str
    dataset: str
    trainer: str
    backbone: str
    shots: int | None  # None: all images
    seed: int
    is_phantom: bool
    classnames: list[str]
    metrics: dict[str, Known]
    config_hash: str
    git: str | None
    created: str  # ISO time of the explanations


class Method(Entry):
    """How the maps were made."""

    name: str  # of the visual method, as registered
    kind: Literal["class", "concept"]  # what the maps explain
    description: str  # one sentence
    grid: list[int]  # of a map: rows, columns


class Control(Entry):
    """What a metric gives for something that knows nothing: a random map, the centre, the mask's area, ..."""

    name: str
    value: Known
    low: Known = None  # 95 % interval
    high: Known = None


class Trust(Entry):
    """One metric of how far the explanations can be trusted, over all images that were asked."""

    metric: str
    direction: Literal["higher", "lower"]  # which is better
    unit: str  # "" for none
    value: Known
    low: Known  # 95 % interval
    high: Known
    n: int  # images
    controls: list[Control]
    note: str


class ClassVector(Entry):
    """What images are compared with, one a class."""

    noun: str = "prompt"  # names it
    learned: bool = True  # whether training changes it
    about: str = ""  # a plain sentence on it; "" for none


class PromptConcept(Entry):
    """What a class's prompt, or whatever images are compared with, has to do with one concept."""

    concept: str
    own_class: bool  # whether the bank lists it for this class
    before: Known  # cosine with the prompt before training; None if there was nothing then
    after: Known  # cosine with the learned prompt
    shift: Known  # after - before
    weight: Known  # in the learned prompt as a sparse sum of concepts, >= 0


class Word(Entry):
    """A vocabulary word near a learned context vector."""

    word: str
    distance: float
    null_low: Known  # distance below which the nearest word of a random vector seldom comes
    noise: bool  # whether the word is no nearer than chance


class Vector(Entry):
    """A learned context vector and the words near it."""

    name: str  # its place, e.g. "2", or "prompt 1, 2" where a class has several prompts
    words: list[Word]  # nearest first


class PromptClass(Entry):
    """What the prompt of one class learned; in the methods without prompts, see `ClassVector.noun`."""

    name: str
    concepts: list[PromptConcept]
    explained_share: Known  # of what sets the learned prompt apart, by the sum of concepts
    own_share: Known  # of the weights, on the class's own concepts
    words: list[Vector]
    prose: list[str]


class HeatMap(Entry):
    """Where the model looked."""

    target: str  # a class's or concept's name
    kind: Literal["class", "concept"]
    values: Grid  # raw; higher = more relevant


class Mask(Entry):
    """Where a concept is known to lie."""

    concept: str
    grid: Grid  # the share of each cell that is covered; any size, it is laid over the whole image


class SeenConcept(Entry):
    """A concept in one image."""

    concept: str
    score: float
    adds: dict[str, Known] = Field(validation_alias="for", serialization_alias="for")  # to a class's score; if any
    label: Literal[0, 1] | None  # the expert's: 1 present, 0 absent, None not known


class ImageEntry(Entry):
    """One explained image."""

    path: str
    label: str | None  # a class's name; None: not known
    predicted: str
    probabilities: dict[str, float]
    certainty: Known  # the less, the earlier it is shown
    picture: str = Field(pattern="^data:image/(jpeg|png);base64,[A-Za-z0-9+/]+=*$")  # see `thumbnail`
    maps: list[HeatMap]
    masks: list[Mask]
    concepts: list[SeenConcept]
    prose: list[str]

    @property
    def is_right(self) -> bool | None:
        """Whether the prediction is right; None if no label is known."""
        return None if self.label is None else self.label == self.predicted


class Explanations(Entry):
    """The whole file. Without `class_vector`, as files of older versions, it is a learned prompt."""

    version: Literal[2] = Field(default=2, validation_alias="schema", serialization_alias="schema")
    run: Run
    methods: list[Method]
    trust: list[Trust]
    class_vector: ClassVector = ClassVector()
    classes: list[PromptClass]
    images: list[ImageEntry]

    def to_json(self) -> str:
        """As it is written to `explanations.json`."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"


# The page.


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
    if metric.low is None or metric.high is None:
        return "no interval"
    worse, unclear = [], []
    for control in metric.controls:
        low, high = (control.value, control.value) if control.low is None else (control.low, control.high)
        if low is None or high is None or (metric.low <= high and metric.high >= low):
            unclear.append(control.name)
        elif (metric.low > high) != (metric.direction == "higher"):
            worse.append(control.name)
    if worse:
        return f"worse than: {', '.join(worse)}"
    return f"not clear of: {', '.join(unclear)}" if unclear else "better than its controls"


# The figures of a card.

SIDE = 160  # px, the longer side of a thumbnail
FINE = 64  # px, about the longer side of a heat map's PNG
COVERED = 0.5  # share of a mask's cell from which it counts as inside


class Figure(NamedTuple):
    """A picture over the card's image, which is kept once."""

    title: str  # of the class or concept
    kind: str  # "class" or "concept" of a heat map; "known border" of a mask
    said: str  # where it is strongest, or what it covers
    alt: str  # all of it in words
    heat: str = ""  # the heat map as a data URI; "" for none
    ends: tuple[float, float] = (0.0, 0.0)  # the values of its first and last colour
    border: str = ""  # the mask's border as an SVG path; "" for none
    scale: str = ""  # of that path, across and down, to the image


class View(NamedTuple):
    """What a card shows of an image beside its entry."""

    width: int  # of the image, px
    height: int
    figures: Sequence[Figure]  # what is laid over it
    classes: Sequence[str]  # that some concept adds to

    @property
    def for_classes(self) -> list[str]:
        """The heads of the columns that say so."""
        return [f"For {name}" for name in self.classes]


def view_of(entry: ImageEntry) -> View:
    """Its heat maps, with the border of a mask of their name, then the masks."""
    with Image.open(io.BytesIO(base64.b64decode(entry.picture.partition(",")[2])), formats=["JPEG", "PNG"]) as image:
        width, height = image.size
    borders = {}
    for mask in entry.masks:
        inside = np.asarray(mask.grid) >= COVERED
        said = f"{percent(float(inside.mean()))} of the image"
        where = f", around {middle(inside)}" if inside.any() else ""
        alt = f"known border of {mask.concept}: {said}{where}"
        scale = f"{width / inside.shape[1]:.6g} {height / inside.shape[0]:.6g}"
        borders[mask.concept] = Figure(mask.concept, "known border", said, alt, border=outline(inside), scale=scale)
    drawn = []
    for one in entry.maps:
        values = np.asarray(one.values, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        said = f"strongest in {strongest(values)}" if high > low else "the same everywhere"
        figure = Figure(one.target, one.kind, said, f"heat map for {one.target}: {said}", heat_map(values), (low, high))
        if known := borders.get(one.target):
            alt = f"{figure.alt}; the line is the known border of {one.target}"
            figure = figure._replace(alt=alt, border=known.border, scale=known.scale)
        drawn.append(figure)
    classes = list(dict.fromkeys(name for one in entry.concepts for name in one.adds))
    return View(width, height, [*drawn, *borders.values()], classes)


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
