"""`explanations.json`, what it holds, and its page for every reader. Plain data and images; no torch.

The templates beside this file say what stands where: `report.html.j2`, with the card of one image in `card.html.j2`.
What they cannot say is here: what is laid over a picture, and how concepts add up. `figures.py` draws.

Shares, probabilities and certainties are fractions in [0, 1]. A number that is not known is null (None). A grid is a
list of rows, from the image's upper left. Whatever does not follow the types is refused; the message names the entry.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from xcoop.explain.figures import gradient, heat_map, middle, outline, strongest
from xcoop.page import percent, render

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


class MovedWord(Entry):
    """A word of a learned sentence."""

    word: str
    change: float  # the length of what was learned, as a share of that of its embedding
    nearest: str  # word of the vocabulary now; "" for none
    towards: str  # the word that it moved towards; "" for none
    cosine: float  # of the change and the way to that word
    by_chance: float  # what the best word of a random direction seldom exceeds


class Sentence(Entry):
    """A prompt that is a sentence whose words are learned."""

    concept: str  # "" for the name of the class alone
    text: str
    moved: float  # how far its feature moved, in logits
    by_chance: float  # what a random change of the same size seldom exceeds
    words: list[MovedWord]


class PromptClass(Entry):
    """What the prompt of one class learned; in the methods without prompts, see `ClassVector.noun`."""

    name: str
    concepts: list[PromptConcept]
    explained_share: Known  # of what sets the learned prompt apart, by the sum of concepts
    own_share: Known  # of the weights, on the class's own concepts
    words: list[Vector]
    sentences: list[Sentence] = []
    prose: list[str]


class HeatMap(Entry):
    """Where the model looked."""

    target: str  # a class's or concept's name
    kind: Literal["class", "concept"]
    values: Grid  # raw; higher = more relevant
    zero: float = 0.0  # the value that is neither more nor less: in maps whose 0 means nothing, their mean


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
    seen: Literal["seen", "not seen", "undecided", ""] = ""  # "" where that cannot be told
    probability: Known = None  # that the image shows it, from labelled training images

    @property
    def said(self) -> str:
        """Whether the image shows it, and with which probability; "" where that cannot be told."""
        return self.seen if self.probability is None else f"{self.seen} ({chance(self.probability, ' %')})"


class Part(Entry):
    """What one concept adds to a logit, compared with a typical training image."""

    concept: str  # "" for the name of the class alone
    value: float


class Sum(Entry):
    """The logit of a class as a sum."""

    name: str  # of the class
    base: float  # its logit in a typical training image
    parts: list[Part]
    logit: float

    @model_validator(mode="after")
    def adds_up(self) -> Sum:
        """Refuses a sum that is none."""
        found = self.base + sum(part.value for part in self.parts)
        if abs(found - self.logit) > 1e-4:
            raise ValueError(f"base and parts of {self.name} sum to {found:.6g}, not to its logit {self.logit:.6g}")
        return self


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
    sums: list[Sum] = []  # of each class, the largest logit first; [] where logits are no exact sums
    window: list[float] = [0.0, 0.0, 1.0, 1.0]  # left, top, width, height of what the model saw, as shares of `picture`
    prose: list[str]

    @property
    def name(self) -> str:
        """The image's own name and that of its folder."""
        return "/".join(self.path.replace("\\", "/").split("/")[-2:])

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
    is_sum: bool | None = None  # whether each logit is an exact sum over concepts; None in files of older versions
    classes: list[PromptClass]
    images: list[ImageEntry]

    def to_json(self) -> str:
        """As it is written to `explanations.json`."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"


# The page.

SURE = 0.75  # the probability from which a concept is seen; below 1 less this it is not seen
LEARNED = "Prompts as trained"  # the rows whose controls are asked
KNOWLEDGE = "Knowledge of the untrained sentences"
SAME, UNRELATED = "the same sentences, untrained", "unrelated phrases, untrained"
AT_START = "prompts put back to their start"
HEADLINES = {
    UNRELATED: "On these images the bank's sentences, as they are written, are not clearly better than unrelated "
    "phrases in their place: do not read the prompts as medical knowledge.",
    AT_START: "On these images what the prompts learned makes no clear difference: their sentences as written decide "
    "as well.",
}


def chance(probability: float, sign: str = "%") -> str:
    """A probability in percent; few labelled images tell no more of nearly sure ones than that they are."""
    if not 0.01 <= probability <= 0.99:
        return f"{'above 99' if probability > 0.5 else 'below 1'}{sign}"
    return f"{100 * probability:.0f}{sign}"


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
        headlines=headlines(content.trust),
        reading=reading,
        SURE=SURE,
        view_of=view_of,
        gradient=gradient(),
    )


def headlines(trust: Sequence[Trust]) -> list[str]:
    """What a reader must know first: where right knowledge, or what was learned, makes no clear difference."""
    controls = [(control.name, _beside(row, control)) for row in trust if row.metric in (LEARNED, KNOWLEDGE)
                for control in row.controls]  # fmt: skip
    return [HEADLINES[name] for name, found in controls if name in HEADLINES and found != "better"]


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
    worse = [control.name for control in metric.controls if _beside(metric, control) == "worse"]
    unclear = [control.name for control in metric.controls if _beside(metric, control) == "unclear"]
    if worse:
        return f"worse than: {', '.join(worse)}"
    return f"not clear of: {', '.join(unclear)}" if unclear else "better than its controls"


def _beside(metric: Trust, control: Control) -> Literal["better", "worse", "unclear"]:
    low, high = (control.value, control.value) if control.low is None else (control.low, control.high)
    if low is None or high is None or metric.low is None or metric.high is None:
        return "unclear"
    if metric.low <= high and metric.high >= low:
        return "unclear"
    return "better" if (metric.low > high) == (metric.direction == "higher") else "worse"


# The figures of a card.

COVERED = 0.5  # share of a mask's cell from which it counts as inside


class Figure(NamedTuple):
    """A picture over the card's image, which is kept once."""

    title: str  # of the class or concept
    kind: str  # "class" or "concept" of a heat map; "known border" of a mask
    said: str  # where it is strongest, or what it covers
    alt: str  # all of it in words
    heat: str = ""  # the heat map as a data URI; "" for none
    limit: float = 0.0  # the value of its last colour, and less than nothing that of its first
    border: str = ""  # the mask's border as an SVG path; "" for none
    place: str = ""  # of that path in the picture, as an SVG transform


class Bar(NamedTuple):
    """A row of a waterfall."""

    title: str
    said: str  # whether the concept is seen; "" where there is nothing to say
    value: float
    total: float  # the sum up to here
    left: float  # where its bar starts, in percent of the width
    width: float
    falls: bool
    whole: bool  # a bar of the sum, from zero, and not a step


class Waterfall(NamedTuple):
    """How concepts add up, from the base to the decision."""

    title: str
    rows: Sequence[Bar]
    zero: float  # where bars of sums begin, in percent of the width


class View(NamedTuple):
    """What a card shows of an image beside its entry."""

    width: int  # of the picture, px
    height: int
    window: tuple[float, float, float, float]  # left, top, width, height of what the model saw of it, px
    figures: Sequence[Figure]  # what is laid over it
    classes: Sequence[str]  # that some concept adds to
    waterfalls: Sequence[Waterfall] = ()

    @property
    def for_classes(self) -> list[str]:
        """The heads of the columns that say so."""
        return [f"For {name}" for name in self.classes]


def view_of(entry: ImageEntry) -> View:
    """Its heat maps, with the border of a mask of their name, then the masks; and how its concepts add up.

    All maps of classes share one scale, and so do all of concepts: methods differ in their units.
    """
    with Image.open(io.BytesIO(base64.b64decode(entry.picture.partition(",")[2])), formats=["JPEG", "PNG"]) as image:
        width, height = image.size
    left, top, across, down = (share * side for share, side in zip(entry.window, (width, height) * 2, strict=True))
    borders = {}
    for mask in entry.masks:
        inside = np.asarray(mask.grid) >= COVERED
        said = f"{percent(float(inside.mean()))} of the image"
        where = f", around {middle(inside)}" if inside.any() else ""
        alt = f"known border of {mask.concept}: {said}{where}"
        place = f"translate({left:.6g} {top:.6g}) scale({across / inside.shape[1]:.6g} {down / inside.shape[0]:.6g})"
        borders[mask.concept] = Figure(mask.concept, "known border", said, alt, border=outline(inside), place=place)
    grids = [np.asarray(one.values, dtype=np.float64) - one.zero for one in entry.maps]
    limits: dict[str, float] = {}
    for one, values in zip(entry.maps, grids, strict=True):
        limits[one.kind] = max(limits.get(one.kind, 0.0), float(np.abs(values).max()))
    drawn = []
    for one, values in zip(entry.maps, grids, strict=True):
        limit = limits[one.kind]
        said = f"most in {strongest(values)}" if np.ptp(values) > 0 else "the same everywhere"
        if np.ptp(values) > 0 and values.min() < 0:
            said += f", least in {strongest(-values)}"
        heat = heat_map(values, limit)
        figure = Figure(one.target, one.kind, said, f"heat map for {one.target}: {said}", heat, limit)
        if known := borders.get(one.target):
            alt = f"{figure.alt}; the line is the known border of {one.target}"
            figure = figure._replace(alt=alt, border=known.border, place=known.place)
        drawn.append(figure)
    classes = list(dict.fromkeys(name for one in entry.concepts for name in one.adds))
    figures = [*drawn, *borders.values()]
    return View(width, height, (left, top, across, down), figures, classes, waterfalls(entry))


def waterfalls(entry: ImageEntry) -> list[Waterfall]:
    """How concepts add up to the logit of the predicted class, and to its margin over the runner-up."""
    if not entry.sums:
        return []
    own = next(one for one in entry.sums if one.name == entry.predicted)
    steps = {part.concept: (part.concept or f"the name {own.name} alone", part.value) for part in own.parts}
    found = [_waterfall(entry, f"To the logit of {own.name}", own.base, steps, f"logit of {own.name}")]
    if rivals := [one for one in entry.sums if one is not own]:
        rival, margin = max(rivals, key=lambda one: one.logit), dict(steps)
        for part in rival.parts:
            if part.concept and part.concept in margin:  # of both classes: what it adds to one more than to the other
                margin[part.concept] = part.concept, margin[part.concept][1] - part.value
            else:
                title = f"{part.concept}, of {rival.name}" if part.concept else f"the name {rival.name} alone"
                margin[part.concept or title] = title, -part.value
        title = f"margin over {rival.name}"
        found.append(_waterfall(entry, f"To its {title}", own.base - rival.base, margin, title))
    return found


def _waterfall(
    entry: ImageEntry, title: str, base: float, parts: Mapping[str, tuple[str, float]], last: str
) -> Waterfall:
    """From a base to a sum; parts are by concept, with the words that stand for it, the largest first."""
    seen = {one.concept: one for one in entry.concepts if one.seen}
    steps = sorted(parts.items(), key=lambda pair: -abs(pair[1][1]))
    totals = list(itertools.accumulate([base, *(value for _, (_, value) in steps)]))
    low, high = min(0.0, *totals), max(0.0, *totals)
    span = (high - low) or 1.0

    def bar(title: str, said: str, value: float, start: float, total: float, whole: bool = False) -> Bar:
        left, width = 100 * (min(start, total) - low) / span, 100 * abs(total - start) / span
        return Bar(title, said, value, total, left, width, total < start, whole)

    rows = [bar("a typical training image", "", base, 0.0, base, True)]
    for (concept, (words, value)), (start, total) in zip(steps, itertools.pairwise(totals), strict=True):
        said = seen[concept].said if concept in seen else ""
        rows.append(bar(words, said, value, start, total))
    return Waterfall(title, [*rows, bar(last, "", totals[-1], 0.0, totals[-1], True)], -100 * low / span)
