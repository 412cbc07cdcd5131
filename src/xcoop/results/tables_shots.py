"""Methods x shots: one table for each dataset and measure, and one with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xcoop.evaluation.bootstrap import Interval
from xcoop.results.benchmark import Group, Method, complete, slug
from xcoop.results.facts import SPREAD, facts
from xcoop.results.measures import Measure
from xcoop.results.rows import Row
from xcoop.results.sheet import MISSING, NONE, UNKNOWN, Sheet, Shown, percent

Place = tuple[Method, int | None]
Labels = Mapping[Method, str]
INTERVALS = (
    "Percent; mean over the seeds and, in brackets, its 95 % interval over the test images (bootstrap within classes, "
    "patients drawn whole where they are known); the spread over seeds is no part of it"
)
OTHER_IMAGES = "WARNING: these runs were not all tested on the same images; nothing is compared or marked here."


def shots_sheet(group: Group, measure: Measure, labels: Labels, marks: Mapping[Place, str], reference: str) -> Sheet:
    """Mean ± std over the seeds.

    Args:
        group: of one dataset.
        measure: what is shown.
        labels: the methods' names.
        marks: of cells: best, or not significantly worse.
        reference: the trainer whose lines stand last.
    """

    def cell(place: Place, row: Row) -> Shown:
        return mean_cell(row, measure.name, marks.get(place, ""))

    notes = [f"{SPREAD}; {measure.direction}.", *_notes(group)]
    title = f"{measure.title} on {group.title}, by shots a class"
    head, rows = _grid(group, labels, reference, cell)
    key = f"{group.key}-{slug(measure.name)}"
    return Sheet(key, title, head, rows, tuple(notes), tuple(facts(group.runs, measure.name)))


def interval_sheet(
    group: Group, measure: Measure, labels: Labels, intervals: Mapping[Place, Interval | None], reference: str
) -> Sheet:
    """The mean over the seeds with its 95 % interval over the test images."""

    def cell(place: Place, row: Row) -> Shown:
        return interval_cell(row, intervals.get(place))

    notes = [f"{INTERVALS}; {measure.direction}.", *_notes(group)]
    title = f"{measure.title} on {group.title}, with intervals over the test images, by shots a class"
    key = f"{group.key}-{slug(measure.name)}-intervals"
    head, rows = _grid(group, labels, reference, cell)
    return Sheet(key, title, head, rows, tuple(notes), tuple(facts(group.runs, measure.name)), minor=True)


def _grid(
    group: Group, labels: Labels, reference: str, cell: Callable[[Place, Row], Shown]
) -> tuple[tuple[str, ...], tuple[tuple[Shown, ...], ...]]:
    """Head and rows of methods x shots."""
    columns: list[int | None] = [*([None] if group.untrained else []), *group.shots]
    lines = []
    for method in group.methods(reference):
        cells = [Shown(labels[method])]
        for shots in columns:
            row = group.rows.get((method, shots))
            nothing = NONE if (shots is None) != (method in group.untrained) else MISSING
            cells.append(cell((method, shots), row) if row else Shown(nothing))
        lines.append(tuple(cells))
    return ("Method", *map(column, columns)), tuple(lines)


def mean_cell(row: Row | None, metric: str, mark: str = "") -> Shown:
    """Mean ± std over the seeds; those that are there are named where one is missing."""
    if row is None or not row.runs:
        return Shown(MISSING)
    mean = row.mean(metric)
    return Shown(UNKNOWN if mean is None else percent(mean, row.std(metric)) + _part(row), mark)


def interval_cell(row: Row | None, found: Interval | None) -> Shown:
    """The mean over the seeds with its interval, which is None where the images cannot tell it."""
    if row is None or not row.runs:
        return Shown(MISSING)
    if found is None:
        return Shown(UNKNOWN)
    return Shown(f"{percent(found.estimate)} [{percent(found.low)}, {percent(found.high)}]{_part(row)}")


def column(shots: int | None) -> str:
    """A column's name."""
    return "0 shots" if shots is None else f"{shots} shot{'' if shots == 1 else 's'}"


def _part(row: Row) -> str:
    """Which seeds are there, of a row that lacks some."""
    return "" if complete(row) else f" (seeds {' '.join(map(str, sorted(row.runs)))})"


def _notes(group: Group) -> list[str]:
    notes = [] if group.same_images else [OTHER_IMAGES]
    notes += dict.fromkeys(row.note for row in group.rows.values() if row.note)
    if any(row.runs and row.missing for row in group.rows.values()):
        notes.append("Cells that lack seeds name those that they have; they are not compared with others.")
    return notes
