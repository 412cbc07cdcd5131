"""Base and new classes: accuracy on the classes that were trained, on the others, and the harmonic mean of both."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from xcoop.evaluation.harmonic import harmonic_mean
from xcoop.results.benchmark import BASE, NEW, Benchmark, Group, Method, slug
from xcoop.results.facts import SPREAD, facts
from xcoop.results.measures import Measure
from xcoop.results.rows import Row
from xcoop.results.sheet import MISSING, NONE, Sheet, Shown, percent

HEAD = ("Method", "Shots", "Base", "New", "Harmonic mean")


def base_new_sheets(
    benchmark: Benchmark, measure: Measure, labels: Mapping[Method, str], reference: str
) -> Iterator[Sheet]:
    """One table for each dataset and task that was run on both sets of classes."""
    found = {(group.dataset, group.task, group.subsample): group for group in benchmark.groups}
    for (dataset, task, subsample), base in found.items():
        new = found.get((dataset, task, NEW))
        if subsample == BASE and new:
            yield _sheet(base, new, measure, labels, reference)


def harmonic_of_seeds(base: Row, new: Row, metric: str) -> list[float]:
    """The harmonic mean of each seed; empty if the two have other seeds, or lack the metric."""
    if base.runs.keys() != new.runs.keys() or not base.values(metric) or not new.values(metric):
        return []
    halves = [[row.runs[seed]["metrics"][metric] for seed in sorted(row.runs)] for row in (base, new)]
    return [float(value) for value in harmonic_mean(*halves)]


def _sheet(base: Group, new: Group, measure: Measure, labels: Mapping[Method, str], reference: str) -> Sheet:
    lines = []
    shots: list[int | None] = [None, *sorted({*base.shots, *new.shots})]
    for method in dict.fromkeys([*base.methods(reference), *new.methods(reference)]):
        for number in shots:
            one, other = base.rows.get((method, number)), new.rows.get((method, number))
            if one or other:
                lines.append(_line(labels[method], number, one, other, measure.name))
    title = f"{measure.title} on base and new classes of {base.dataset}"
    title += "" if base.alone or not base.task else f", task {base.task}"
    notes = (
        f"{SPREAD}; the harmonic mean is taken of each seed. The base classes were trained, the new ones were not.",
    )
    key = f"{slug(base.title)}-new-{slug(measure.name)}"
    return Sheet(key, title, HEAD, tuple(lines), notes, tuple(facts([*base.runs, *new.runs], measure.name)))


def _line(label: str, shots: int | None, base: Row | None, new: Row | None, metric: str) -> tuple[Shown, ...]:
    both = harmonic_of_seeds(base, new, metric) if base and new else []
    number = NONE if shots is None else str(shots)
    figures = [_figure(row.values(metric) if row else [], row) for row in (base, new)]
    return (Shown(label), Shown(number), *figures, _figure(both, new))


def _figure(values: Sequence[float], row: Row | None) -> Shown:
    if not values:
        return Shown(MISSING)
    spread = statistics.stdev(values) if len(values) > 1 else None
    part = f" (seeds {' '.join(map(str, sorted(row.runs)))})" if row and row.missing else ""
    return Shown(percent(statistics.fmean(values), spread) + part)
