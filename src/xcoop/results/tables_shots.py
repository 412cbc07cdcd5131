"""Methods x shots: one table for each dataset and measure, and one with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xcoop.evaluation.bootstrap import Interval
from xcoop.results.benchmark import Group, Method, complete, slug
from xcoop.results.facts import SPREAD, facts
from xcoop.results.measures import Measure
from xcoop.results.rows import Row
from xcoop.results.sheet import MISSING, NONE, Sheet, Shown, percent

Place = tuple[Method, int | None]
Labels = Mapping[Method, str]
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
        mean = row.mean(measure.name)
        if mean is None:
            return Shown(MISSING if not row.runs else "n/a")
        part = f" ({_done(row)})" if not complete(row) else ""
        return Shown(percent(mean, row.std(measure.name)) + part, marks.get(place, ""))

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
        if not row.runs:
            return Shown(MISSING)
        found = intervals.get(place)
        if found is None:
            return Shown("n/a")
        part = f" ({_done(row)})" if not complete(row) else ""
        return Shown(f"{percent(found.estimate)} [{percent(found.low)}, {percent(found.high)}]{part}")

    notes = [
        "Percent; mean over the seeds and, in brackets, its 95 % interval over the test images (bootstrap within "
        f"classes, patients drawn whole where they are known); the spread over seeds is no part of it; "
        f"{measure.direction}.",
        *_notes(group),
    ]
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


def column(shots: int | None) -> str:
    """A column's name."""
    return "0 shots" if shots is None else f"{shots} shot{'' if shots == 1 else 's'}"


def _done(row: Row) -> str:
    """Which seeds are there, of a row that lacks some."""
    return f"seeds {' '.join(map(str, sorted(row.runs)))}"


def _notes(group: Group) -> list[str]:
    notes = [] if group.same_images else [OTHER_IMAGES]
    notes += dict.fromkeys(row.note for row in group.rows.values() if row.note)
    if any(row.runs and row.missing for row in group.rows.values()):
        notes.append("Cells that lack seeds name those that they have; they are not compared with others.")
    return notes
