"""Critical-difference diagrams: the mean ranks of the methods over the datasets, and which are not told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from xcoop.evaluation.ranks import RankComparison, compare_ranks
from xcoop.results.benchmark import ALL, Benchmark, Group, Method, complete, slug
from xcoop.results.drawing import COLOURS, Drawing, canvas, saved
from xcoop.results.facts import facts
from xcoop.results.measures import Measure
from xcoop.results.rows import Row
from xcoop.results.tables_shots import Labels

HOW = (
    "Mean ranks over the datasets (1 is best). A bar joins methods that are not told apart: their mean ranks differ by "
    "less than Nemenyi's critical difference (CD, level 0.05). Read it only if Friedman's test says that the methods "
    "differ at all."
)
_LINE, _BAR = 0.2, 0.13  # heights, in inches and in units of the drawing alike


def rank_drawings(benchmark: Benchmark, measure: Measure, labels: Labels, draws: bool) -> Iterator[Drawing | str]:
    """The diagram of the real datasets and that of the phantoms, at the largest number of shots that they share.

    A sentence says why there is none: too few datasets or methods. Without `draws`, it says what one would show.
    """
    for drawn in (False, True):
        groups = [one for one in benchmark.groups if one.subsample == ALL and one.runs and one.is_phantom == drawn]
        if len(groups) > 1:
            yield _of_kind(groups, measure, labels, draws, " (phantom)" if drawn else "")


def _of_kind(groups: Sequence[Group], measure: Measure, labels: Labels, draws: bool, kind: str) -> Drawing | str:
    shots, methods = _shared(groups, measure)
    rows = [[_row(group, method, shots) for method in methods] for group in groups]
    scores = np.array([[row.mean(measure.name) if row else None for row in line] for line in rows], dtype=np.float64)
    try:
        found = compare_ranks([labels[method] for method in methods], scores, higher_is_better=measure.higher)
    except ValueError as error:
        return f"No critical-difference diagram{kind}: {error}."
    said = _said(found, shots, measure)
    if not draws:
        return said
    with canvas(6.6, 1.1 + _LINE * ((len(methods) + 1) // 2) + _BAR * len(found.groups)) as figure:
        figure.set_layout_engine("none")  # the names lie outside the axes
        _draw(figure.add_axes((0.25, 0.0, 0.5, 1.0)), found)
        png, pdf = saved(figure)
    title = f"Mean ranks by {measure.title.lower()} over {len(groups)} datasets{kind}, {shots} shots a class"
    origin = facts([run for line in rows for row in line if row for run in row.runs.values()])
    key = f"ranks-{slug(measure.name + kind)}"
    return Drawing(key, title, _caption(found, groups), tuple(origin), said, png, pdf)


def _caption(found: RankComparison, groups: Sequence[Group]) -> tuple[str, ...]:
    test = found.friedman
    rough = " With so few datasets or methods these are rough approximations." if found.rough else ""
    return (
        HOW,
        f"Friedman: chi-square {test.chi_square:.2f}, p {test.p:.3g}; Iman and Davenport: F {test.f:.2f}, p "
        f"{test.p_f:.3g}. CD {found.critical_difference:.2f}.{rough}",
        f"Methods that lack a dataset or seeds are left out. Datasets: {', '.join(group.title for group in groups)}.",
    )


def _shared(groups: Sequence[Group], measure: Measure) -> tuple[int | None, list[Method]]:
    """The number of shots at which most methods are whole on all datasets (the largest such), and those methods."""
    best: tuple[int | None, list[Method]] = (None, [])
    for shots in sorted({number for group in groups for number in group.shots}):
        able = [
            method
            for method in sorted({method for method, _ in groups[0].rows})
            if all(group.same_images and _is_whole(_row(group, method, shots), measure) for group in groups)
        ]
        if len(able) >= len(best[1]):
            best = shots, able
    return best


def _row(group: Group, method: Method, shots: int | None) -> Row | None:
    """The cell at so many shots; of a method that uses none, its only one."""
    return group.rows.get((method, None if method in group.untrained else shots))


def _is_whole(row: Row | None, measure: Measure) -> bool:
    return row is not None and complete(row) and row.mean(measure.name) is not None


def _draw(axes: Any, found: RankComparison) -> None:
    """Ranks from left (best) to right; the better half of the names to the left; bars below the axis."""
    last = len(found.methods)
    axes.plot([1, last], [0, 0], color="black", linewidth=1)
    for rank in range(1, last + 1):
        axes.plot([rank, rank], [0, 0.08], color="black", linewidth=1)
        axes.text(rank, 0.12, str(rank), ha="center", va="bottom", fontsize=8)
    for place in range(last):
        _name(axes, found, place)
    ranks = dict(zip(found.methods, found.ranks, strict=True))
    for place, names in enumerate(found.groups, start=1):
        ends = [ranks[names[0]] - 0.03, ranks[names[-1]] + 0.03]
        axes.plot(ends, [-_BAR * place] * 2, color="black", linewidth=3, solid_capstyle="butt")
    width = found.critical_difference
    axes.plot([1, 1 + width], [0.5, 0.5], color="black", linewidth=1.5, marker="|")
    axes.text(1 + width / 2, 0.54, f"CD {width:.2f}", ha="center", va="bottom")
    axes.set_axis_off()


def _name(axes: Any, found: RankComparison, place: int) -> None:
    """A method's name beside the diagram, and the line from it to its mean rank."""
    last, rank, name = len(found.methods), found.ranks[place], found.methods[place]
    left = place < (last + 1) // 2
    depth = -_BAR * (len(found.groups) + 1) - _LINE * (place + 1 if left else last - place)
    end = 1 - 0.02 * last if left else 1.02 * last
    axes.plot([rank, rank, end], [0, depth, depth], color=COLOURS[0], linewidth=0.9)
    shown = f"{name}  {rank:.2f} " if left else f" {rank:.2f}  {name}"
    axes.text(end, depth, shown, ha="right" if left else "left", va="center", fontsize=8)


def _said(found: RankComparison, shots: int | None, measure: Measure) -> str:
    ranks = "; ".join(f"{name} {rank:.2f}" for name, rank in zip(found.methods, found.ranks, strict=True))
    joined = "; ".join(", ".join(names) for names in found.groups) or "none"
    return (
        f"Critical-difference diagram. Mean ranks by {measure.title.lower()} over {found.datasets} datasets at {shots} "
        f"shots, best first: {ranks}. Critical difference {found.critical_difference:.2f}. Not told apart: {joined}."
    )
