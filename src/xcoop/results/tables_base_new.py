"""Base and new classes: accuracy on the classes that were trained, on the others, and the harmonic mean of both."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from xcoop.evaluation.bootstrap import Interval
from xcoop.evaluation.harmonic import harmonic_mean
from xcoop.results.assess import Assessed
from xcoop.results.benchmark import BASE, NEW, Group, Method, slug
from xcoop.results.facts import SPREAD, facts
from xcoop.results.measures import Measure
from xcoop.results.rows import Row
from xcoop.results.sheet import MISSING, NONE, UNKNOWN, Sheet, Shown, percent
from xcoop.results.tables_shots import INTERVALS, Place, interval_cell, mean_cell

HEAD = ("Method", "Shots", "Base", "New", "Harmonic mean")
TRAINED = "The base classes were trained, the new ones were not."
Halves = tuple[Assessed, Assessed]
"""The base and the new classes of one dataset and task."""
Cells = Callable[[Place, Row | None, Row | None], tuple[Shown, ...]]
"""The figures of a line, from its rows on the base and on the new classes."""


def halves(found: Sequence[Assessed]) -> list[Halves]:
    """Base and new classes of each dataset and task that was run on both."""
    by_key = {(one.group.dataset, one.group.task, one.group.subsample): one for one in found}
    pairs = [
        (one, by_key.get((dataset, task, NEW)))
        for (dataset, task, subsample), one in by_key.items()
        if subsample == BASE
    ]
    return [(base, new) for base, new in pairs if new]


def base_new_sheet(pair: Halves, measure: Measure, labels: Mapping[Method, str], reference: str) -> Sheet:
    """Mean ± std over the seeds.

    Args:
        pair: of one dataset and task.
        measure: what is shown.
        labels: the methods' names.
        reference: the trainer whose lines stand last.
    """

    def cells(place: Place, base: Row | None, new: Row | None) -> tuple[Shown, ...]:
        return (*(mean_cell(row, measure.name) for row in (base, new)), _harmonic(base, new, measure))

    notes = [f"{SPREAD}; the harmonic mean is taken of each seed. {TRAINED}"]
    return _sheet(pair, measure, "", _lines(pair, labels, reference, cells), notes)


def base_new_interval_sheet(
    pair: Halves,
    measure: Measure,
    harmonic: Mapping[Place, Interval | None],
    labels: Mapping[Method, str],
    reference: str,
) -> Sheet:
    """The same with 95 % intervals over the test images; `harmonic` has those of the harmonic mean."""
    base_found, new_found = (one.intervals[measure.name] for one in pair)

    def cells(place: Place, base: Row | None, new: Row | None) -> tuple[Shown, ...]:
        both = interval_cell(new, harmonic.get(place)) if _same_seeds(base, new) else Shown(MISSING)
        return interval_cell(base, base_found.get(place)), interval_cell(new, new_found.get(place)), both

    notes = [
        f"{INTERVALS}. The harmonic mean is taken of each seed; for its interval the images of base and new classes "
        f"are drawn apart, and a patient with images of both is drawn whole. {TRAINED}"
    ]
    return _sheet(pair, measure, "intervals", _lines(pair, labels, reference, cells), notes)


def harmonic_of_seeds(base: Row, new: Row, metric: str) -> list[float]:
    """The harmonic mean of each seed; empty if the two have other seeds, or lack the metric."""
    if not _same_seeds(base, new) or not base.values(metric) or not new.values(metric):
        return []
    both = [[row.runs[seed]["metrics"][metric] for seed in sorted(row.runs)] for row in (base, new)]
    return [float(value) for value in harmonic_mean(*both)]


def _same_seeds(base: Row | None, new: Row | None) -> bool:
    return bool(base and new and base.runs and base.runs.keys() == new.runs.keys())


def _harmonic(base: Row | None, new: Row | None, measure: Measure) -> Shown:
    if not (base and new) or not _same_seeds(base, new):
        return Shown(MISSING)
    values = harmonic_of_seeds(base, new, measure.name) if measure.higher else []
    if not values:
        return Shown(UNKNOWN)
    part = f" (seeds {' '.join(map(str, sorted(new.runs)))})" if new.missing else ""
    return Shown(percent(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None) + part)


def _lines(pair: Halves, labels: Mapping[Method, str], reference: str, cells: Cells) -> Iterator[tuple[Shown, ...]]:
    base, new = (one.group for one in pair)
    shots: list[int | None] = [None, *sorted({*base.shots, *new.shots})]
    for method in dict.fromkeys([*base.methods(reference), *new.methods(reference)]):
        for number in shots:
            place = method, number
            one, other = base.rows.get(place), new.rows.get(place)
            if one or other:
                named = Shown(labels[method]), Shown(NONE if number is None else str(number))
                yield (*named, *cells(place, one, other))


def _sheet(
    pair: Halves, measure: Measure, detail: str, lines: Iterator[tuple[Shown, ...]], notes: Sequence[str]
) -> Sheet:
    base, new = (one.group for one in pair)
    title = f"{measure.title} on base and new classes of {base.dataset}{_task(base)}"
    title += ", with intervals over the test images" if detail else ""
    lower = (
        [] if measure.higher else [f"Of {measure.title}, lower is better: a harmonic mean would hide the worse half."]
    )
    origin = facts([*base.runs, *new.runs], measure.name)
    key = "-".join(filter(None, (slug(base.title), "new", slug(measure.name), detail)))
    return Sheet(key, title, HEAD, tuple(lines), (*notes, *lower), tuple(origin), minor=bool(detail))


def _task(group: Group) -> str:
    return "" if group.alone or not group.task else f", task {group.task}"
