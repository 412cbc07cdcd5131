"""Few-shot curves: a measure over the number of shots, with the spread over seeds and the interval over images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xcoop.evaluation.bootstrap import Interval
from xcoop.results.benchmark import Group, Method, complete, slug
from xcoop.results.drawing import Drawing, canvas, saved, style
from xcoop.results.facts import facts
from xcoop.results.measures import Measure
from xcoop.results.rows import Row
from xcoop.results.tables_shots import Labels, Place

HOW = (
    "Lines: mean over the seeds. Bands: the spread over seeds (standard deviation, ddof 1). Thin bars, moved sideways "
    "so that they can be told apart: the 95 % interval over the test images (bootstrap). The two are different "
    "things: a band says how far another training would move a figure, a bar how far other images would.",
    "The reference's line is the heavy one. Cells that lack seeds are left out.",
)
_APART = 0.45  # of the distance between two numbers of shots, over which the methods' bars are spread


def curve(
    group: Group, measure: Measure, labels: Labels, intervals: Mapping[Place, Interval | None], reference: str
) -> Drawing | None:
    """The curves of all methods on one dataset; None if there is nothing whole to draw."""
    lines = {method: _points(group, method, measure) for method in group.methods(reference)}
    lines = {method: points for method, points in lines.items() if points}
    if not lines:
        return None
    columns: list[int | None] = [*([None] if group.untrained & lines.keys() else []), *group.shots]
    height = max(3.2, 0.75 + 0.19 * len(lines))
    with canvas(7.2, height) as figure:
        axes = figure.add_subplot()
        for place, (method, points) in enumerate(lines.items()):
            shift = _APART * ((place + 0.5) / len(lines) - 0.5)
            _line(axes, points, columns, measure, labels[method], place, method.trainer == reference)
            _bars(axes, points, columns, intervals, method, shift, place)
        axes.set_xticks(range(len(columns)), ["0" if shots is None else str(shots) for shots in columns])
        axes.set_xlabel("shots a class")
        axes.set_ylabel(f"{measure.title}, percent ({measure.direction})")
        axes.set_title(f"{group.title}{' (drawn images)' if group.is_phantom else ''}")
        figure.legend(loc="outside right upper", frameon=False)
        png, pdf = saved(figure)
    title = f"{measure.title} on {group.title} over the number of shots"
    key = f"{group.key}-{slug(measure.name)}-curve"
    return Drawing(
        key, title, HOW, tuple(facts(group.runs, measure.name)), _alt(title, lines, measure, labels), png, pdf
    )


def _points(group: Group, method: Method, measure: Measure) -> dict[int | None, Row]:
    rows = {shots: row for (own, shots), row in group.rows.items() if own == method and complete(row)}
    known = {shots: row for shots, row in rows.items() if row.mean(measure.name) is not None}
    return dict(sorted(known.items(), key=lambda item: item[0] or 0))


def _line(
    axes: Any,
    points: Mapping[int | None, Row],
    columns: list[int | None],
    measure: Measure,
    label: str,
    place: int,
    heavy: bool,
) -> None:
    at = [columns.index(shots) for shots in points]
    means = [100 * (row.mean(measure.name) or 0.0) for row in points.values()]
    spreads = [100 * (row.std(measure.name) or 0.0) for row in points.values()]
    look = style(place)
    axes.plot(at, means, label=label, markersize=4.5, linewidth=2.4 if heavy else 1.2, zorder=4 if heavy else 3, **look)
    if len(at) > 1:
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.fill_between(at, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _bars(
    axes: Any,
    points: Mapping[int | None, Row],
    columns: list[int | None],
    intervals: Mapping[Place, Interval | None],
    method: Method,
    shift: float,
    place: int,
) -> None:
    for shots in points:
        found = intervals.get((method, shots))
        if found and math.isfinite(found.low):
            at = columns.index(shots) + shift
            axes.plot(
                [at, at], [100 * found.low, 100 * found.high], color=style(place)["color"], linewidth=0.6, alpha=0.75
            )


def _alt(title: str, lines: Mapping[Method, Mapping[int | None, Row]], measure: Measure, labels: Labels) -> str:
    said = []
    for method, points in lines.items():
        figures = [
            f"{100 * (row.mean(measure.name) or 0.0):.1f} {'without shots' if shots is None else f'at {shots}'}"
            for shots, row in points.items()
        ]
        said.append(f"{labels[method]} {', '.join(figures)}")
    return f"Line chart. {title}, in percent: {'; '.join(said)}."
