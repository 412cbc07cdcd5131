"""What a card shows of an image beside its entry: what is laid over the picture, and how concepts add up.

`figures.py` draws; the templates say what stands where. Plain data and images; no torch.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from xcoop.explain.content import ImageEntry
from xcoop.explain.figures import heat_map, middle, outline, strongest
from xcoop.page import percent

COVERED = 0.5  # share of a mask's cell from which it counts as inside
LAYERS = 6  # figures that can be laid over the large picture, at most
FIRST = 4  # concepts that stand beside it


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
    concept: str = ""  # of the step; "" for none, or several


class Waterfall(NamedTuple):
    """How concepts add up, from the base to the decision."""

    title: str
    rows: Sequence[Bar]
    zero: float  # where bars of sums begin, in percent of the width
    adds_up: bool = True  # else each row is a change by itself, from zero


class View(NamedTuple):
    """What a card shows of an image beside its entry."""

    width: int  # of the picture, px
    height: int
    window: tuple[float, float, float, float]  # left, top, width, height of what the model saw of it, px
    figures: Sequence[Figure]  # what is laid over it
    classes: Sequence[str]  # that some concept adds to
    waterfalls: Sequence[Waterfall] = ()
    layers: Sequence[Figure] = ()  # what the large picture can be seen with; of the predicted class first
    first: Waterfall | None = None  # the concepts that stand beside it

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
    first = beside_picture(entry)
    named = [bar.concept for bar in first.rows] if first else []
    layers = _layers(entry, figures, named)
    return View(width, height, (left, top, across, down), figures, classes, waterfalls(entry), layers, first)


def _layers(entry: ImageEntry, figures: Sequence[Figure], named: Sequence[str]) -> list[Figure]:
    """Of the predicted class and the next, of the concepts that are named, of others, and the borders that are left."""
    ranked = sorted(entry.probabilities, key=lambda name: (name != entry.predicted, -entry.probabilities[name]))[:2]

    def place(one: Figure) -> tuple[int, int]:
        if one.kind == "class":
            return 0, ranked.index(one.title)
        return (1, named.index(one.title)) if one.kind == "concept" and one.title in named else (2, 0)

    borders = {one.title for one in figures if one.heat}  # which are on their maps
    own = [one for one in figures if one.kind != "class" or one.title in ranked]
    return sorted((one for one in own if one.heat or one.title not in borders), key=place)[:LAYERS]


def beside_picture(entry: ImageEntry) -> Waterfall | None:
    """How the `FIRST` concepts that move most, and all others together, add up to the decision.

    Where logits are no sums, what changes without each of the `FIRST`. None without concepts.
    """
    if found := waterfalls(entry, FIRST):
        return found[-1]
    adds = {one.concept: one.adds.get(entry.predicted) for one in entry.concepts}
    known = {concept: value for concept, value in adds.items() if value}
    chosen = _strongest(entry, {concept: (concept, value) for concept, value in known.items()}, FIRST)
    values = [value for _, (_, value) in chosen]
    if not values:
        return None
    low, high = min(0.0, *values), max(0.0, *values)
    span, seen = high - low, {one.concept: one.said for one in entry.concepts}
    rows = [
        Bar(words, seen[concept], value, value, 100 * (min(value, 0.0) - low) / span, 100 * abs(value) / span,
            value < 0, False, concept)
        for concept, (words, value) in chosen
    ]  # fmt: skip
    title = f"What the logit of {entry.predicted} would lose without a concept"
    return Waterfall(title, rows, -100 * low / span, adds_up=False)


def _strongest(
    entry: ImageEntry, parts: Mapping[str, tuple[str, float]], most: int | None = None
) -> list[tuple[str, tuple[str, float]]]:
    """Parts by their size; of the first `most` the last gives way to one that is seen, or not, as none of them is."""
    steps = sorted(parts.items(), key=lambda pair: -abs(pair[1][1]))
    if most is None or len(steps) <= most + 1:
        return steps
    seen = {one.concept: one.seen for one in entry.concepts}
    words = {seen.get(concept, "") for concept, _ in steps[:most]}
    lacking = {"seen", "not seen"} - words
    other = next((step for step in steps[most:] if seen.get(step[0]) in lacking), steps[most - 1])
    return [*steps[: most - 1], other]


def waterfalls(entry: ImageEntry, most: int | None = None) -> list[Waterfall]:
    """How concepts add up to the logit of the predicted class, and to its margin over the runner-up.

    `most` are shown each by itself, the others as one row; None: all.
    """
    if not entry.sums:
        return []
    own = next(one for one in entry.sums if one.name == entry.predicted)
    steps = {part.concept: (part.concept or f"the name {own.name} alone", part.value) for part in own.parts}
    found = [_waterfall(entry, f"To the logit of {own.name}", own.base, steps, f"logit of {own.name}", most)]
    if rivals := [one for one in entry.sums if one is not own]:
        rival, margin = max(rivals, key=lambda one: one.logit), dict(steps)
        for part in rival.parts:
            if part.concept and part.concept in margin:  # of both classes: what it adds to one more than to the other
                margin[part.concept] = part.concept, margin[part.concept][1] - part.value
            else:
                title = f"{part.concept}, of {rival.name}" if part.concept else f"the name {rival.name} alone"
                margin[part.concept or title] = title, -part.value
        title = f"margin over {rival.name}"
        found.append(_waterfall(entry, f"To its {title}", own.base - rival.base, margin, title, most))
    return found


def _waterfall(
    entry: ImageEntry, title: str, base: float, parts: Mapping[str, tuple[str, float]], last: str, most: int | None
) -> Waterfall:
    """From a base to a sum; parts are by concept, with the words that stand for it, the largest first."""
    seen = {one.concept: one for one in entry.concepts if one.seen}
    steps = _strongest(entry, parts, most)
    if left := parts.keys() - dict(steps).keys():
        steps.append(("", (f"{len(left)} others", sum(parts[concept][1] for concept in left))))
    totals = list(itertools.accumulate([base, *(value for _, (_, value) in steps)]))
    low, high = min(0.0, *totals), max(0.0, *totals)
    span = (high - low) or 1.0

    def bar(title: str, said: str, value: float, start: float, total: float, whole: bool = False, of: str = "") -> Bar:
        left, width = 100 * (min(start, total) - low) / span, 100 * abs(total - start) / span
        return Bar(title, said, value, total, left, width, total < start, whole, of)

    rows = [bar("a typical training image", "", base, 0.0, base, True)]
    for (concept, (words, value)), (start, total) in zip(steps, itertools.pairwise(totals), strict=True):
        said = seen[concept].said if concept in seen else ""
        rows.append(bar(words, said, value, start, total, of=concept))
    return Waterfall(title, [*rows, bar(last, "", totals[-1], 0.0, totals[-1], True)], -100 * low / span)
