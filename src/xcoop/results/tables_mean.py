"""Means over the datasets: only where a method was run on all of them, and never of drawn and real images together."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from xcoop.results.benchmark import ALL, Benchmark, Group, Method, complete, ordered, slug
from xcoop.results.facts import facts
from xcoop.results.measures import Measure
from xcoop.results.rows import Row
from xcoop.results.sheet import MISSING, NONE, Sheet, Shown, percent
from xcoop.results.tables_shots import OTHER_IMAGES, Labels, column


def mean_sheets(benchmark: Benchmark, measure: Measure, labels: Labels, reference: str) -> Iterator[Sheet]:
    """One table over the real datasets and one over the phantoms, where there are two or more."""
    for drawn in (False, True):
        groups = [one for one in benchmark.groups if one.subsample == ALL and one.runs and one.is_phantom == drawn]
        if len(groups) > 1:
            yield _sheet(groups, measure, labels, reference, " (phantom)" if drawn else "")


def _sheet(groups: Sequence[Group], measure: Measure, labels: Labels, reference: str, kind: str) -> Sheet:
    untrained = {method for group in groups for method in group.untrained}
    columns: list[int | None] = [*([None] if untrained else []), *sorted({n for one in groups for n in one.shots})]
    methods = ordered({method for group in groups for method, _ in group.rows}, untrained, reference)
    rows = [
        (Shown(labels[method]), *(_cell(groups, method, shots, measure, untrained) for shots in columns))
        for method in methods
    ]
    notes = [
        f"Of each seed the mean over {len(groups)} datasets ({', '.join(group.title for group in groups)}); then mean "
        f"± standard deviation over the seeds (ddof 1; none for one seed), in percent; {measure.direction}. A cell is "
        "missing where one of the datasets is, or lacks seeds.",
        *_lacking(groups, methods, columns, untrained, labels),
        *(f"{group.title}: {OTHER_IMAGES}" for group in groups if not group.same_images),
    ]
    origin = facts([run for group in groups for run in group.runs], measure.name)
    title = f"{measure.title}, mean over {len(groups)} datasets{kind}, by shots a class"
    head = ("Method", *map(column, columns))
    return Sheet(f"mean-{slug(measure.name + kind)}", title, head, tuple(rows), tuple(notes), tuple(origin))


def _cell(
    groups: Sequence[Group], method: Method, shots: int | None, measure: Measure, untrained: set[Method]
) -> Shown:
    if (shots is None) != (method in untrained):
        return Shown(NONE)
    values = means_of_seeds([group.rows.get((method, shots)) for group in groups], measure.name)
    if values is None or not all(group.same_images for group in groups):
        return Shown(MISSING)
    return Shown(percent(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None))


def means_of_seeds(rows: Sequence[Row | None], metric: str) -> list[float] | None:
    """The mean over datasets (one row each) of each seed; None if a row, a seed or the metric is missing anywhere."""
    whole = [row for row in rows if row is not None and complete(row) and row.values(metric)]
    if len(whole) < len(rows) or len({tuple(sorted(row.runs)) for row in whole}) != 1:
        return None
    seeds = sorted(whole[0].runs)
    return [statistics.fmean(float(row.runs[seed]["metrics"][metric]) for row in whole) for seed in seeds]


def _lacking(
    groups: Sequence[Group],
    methods: Iterable[Method],
    columns: Sequence[int | None],
    untrained: set[Method],
    labels: Labels,
) -> Iterator[str]:
    """What each dataset lacks, a sentence each."""
    for group in groups:
        gone = {
            labels[method]: [
                column(shots)
                for shots in columns
                if (shots is None) == (method in untrained) and not complete(group.rows.get((method, shots)))
            ]
            for method in methods
        }
        said = [f"{name} ({', '.join(shots)})" for name, shots in gone.items() if shots]
        if said:
            yield f"{group.title} lacks {', '.join(said)}."
