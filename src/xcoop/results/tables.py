"""The tables of a benchmark.

Methods x shots of one dataset; means over datasets; base and new classes; transfer to other datasets; comparisons with
the reference; costs. Rows and columns of which nothing is finished are named in a note, and do not show.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from xcoop.evaluation.statistics import NO_INTERVAL, Interval, draws_for, harmonic_mean
from xcoop.results.benchmark import BASE, NEW, Benchmark, Group, Method, Place, Row, Transfer, ordered, slug
from xcoop.results.compare import LEVEL, Assessed, Comparison, Measure, reference_method
from xcoop.results.missing import transfers
from xcoop.results.table import (
    INTERVAL,
    MISSING,
    NONE,
    SPREAD,
    UNKNOWN,
    Sheet,
    Shown,
    either,
    facts,
    finished,
    percent,
    short,
)

Labels = Mapping[Method, str]
Cells = tuple[Shown, ...]
Halves = tuple[Assessed, Assessed]
"""The base and the new classes of one dataset and task."""

OTHER_IMAGES = "WARNING: these runs were not all tested on the same images; nothing is compared or marked here."


# Cells.


def cell(row: Row | None, metric: str, found: Interval | None, mark: str = "") -> Shown:
    """Mean ± std over the seeds, with the interval below it; the seeds are named where one is missing."""
    if row is None or not row.runs:
        return Shown(MISSING)
    mean = row.mean(metric)
    return Shown(UNKNOWN if mean is None else percent(mean, row.std(metric)) + _seeds(row), mark, ends(found))


def ends(found: Interval | None) -> str:
    """An interval in brackets, in percent; "" where the images cannot tell it."""
    return "" if found is None else f"[{percent(found.low)}, {percent(found.high)}]"


def _said(measure: Measure) -> str:
    """What the cells of a table are."""
    if measure.name in NO_INTERVAL:
        return f"{SPREAD}; {measure.direction}. It has neither intervals nor tests: draws of images bias it."
    return f"{SPREAD}. {INTERVAL}; {measure.direction}."


def _seeds(row: Row) -> str:
    """Which seeds are there, of a row that lacks some."""
    return "" if row.complete else f" (seeds {' '.join(map(str, sorted(row.runs)))})"


def _of_values(values: Sequence[float] | None) -> Shown:
    """Mean ± std of figures of seeds."""
    if not values:
        return Shown(MISSING)
    return Shown(percent(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None))


def column(shots: int | None) -> str:
    """A column's name."""
    if shots is None or shots < 0:
        return "0 shots" if shots is None else "all images"
    return f"{shots} shot{'' if shots == 1 else 's'}"


def _line(labels: Labels, place: Place, *cells: Shown) -> Cells:
    """A line that is of one number of shots."""
    method, shots = place
    return Shown(labels[method]), Shown(NONE if shots is None else str(shots) if shots > 0 else "all"), *cells


# Methods x shots, of one dataset.


def shots_sheet(one: Assessed, measure: Measure, labels: Labels, reference: str) -> Sheet | None:
    """Mean ± std over the seeds with intervals, best cells marked; None if nothing is finished.

    Args:
        one: of one dataset.
        measure: what is shown.
        labels: the methods' names.
        reference: the trainer whose lines stand last.
    """
    group, marks, found = one.group, one.marks[measure.name], one.intervals[measure.name]
    notes = [] if group.same_images else [OTHER_IMAGES]
    notes += dict.fromkeys(row.note for row in group.rows.values() if row.note)
    if any(row.runs and row.missing for row in group.rows.values()):
        notes.append("Cells that lack seeds name those that they have; they are not compared with others.")
    rows = []
    for method in ordered([group], reference):
        line = [Shown(labels[method])]
        for shots in group.columns:
            place = method, shots
            if (shots is None) != (method in group.untrained):
                line.append(Shown(NONE))
            else:
                line.append(cell(group.rows.get(place), measure.name, found.get(place), marks.get(place, "")))
        rows.append(tuple(line))
    sheet = Sheet(
        slug(group.title, measure.name),
        f"{measure.title} on {group.title}, by shots a class",
        ("Method", *map(column, group.columns)),
        tuple(rows),
        (_said(measure), *notes),
        facts(group.runs, measure.name),
    )
    return finished(sheet)


# Means over datasets: only where a method was run on all of them, and never of drawn and real images together.


def mean_sheets(benchmark: Benchmark, measure: Measure, labels: Labels, reference: str) -> Iterator[Sheet]:
    """One table over the real datasets and one over the phantoms, where there are two or more."""
    for kind, groups in benchmark.kinds():
        untrained = {method for group in groups for method in group.untrained}
        columns: list[int | None] = [*([None] if untrained else []), *sorted({n for one in groups for n in one.shots})]
        same_images = all(group.same_images for group in groups)
        lines = []
        lacking: dict[str, list[str]] = {group.title: [] for group in groups}
        for method in ordered(groups, reference):
            used = [shots for shots in columns if (shots is None) == (method in untrained)]
            cells = [Shown(labels[method])]
            for shots in columns:
                rows = [group.rows.get((method, shots)) for group in groups]
                values = means_of_seeds(rows, measure.name) if same_images else None
                cells.append(_of_values(values) if shots in used else Shown(NONE))
            lines.append(tuple(cells))
            for group in groups:
                whole = {shots for (own, shots), row in group.rows.items() if own == method and row.complete}
                if gone := [column(shots) for shots in used if shots not in whole]:
                    lacking[group.title].append(f"{labels[method]} ({', '.join(gone)})")
        notes = [
            f"Of each seed the mean over {len(groups)} datasets ({', '.join(group.title for group in groups)}); then "
            f"mean ± standard deviation over the seeds (ddof 1; none for one seed), in percent; {measure.direction}. "
            "A cell is missing where one of the datasets is, or lacks seeds.",
            *(f"{name} lacks {', '.join(what)}." for name, what in lacking.items() if what),
            *(f"{group.title}: {OTHER_IMAGES}" for group in groups if not group.same_images),
        ]
        sheet = Sheet(
            slug("mean", measure.name + kind),
            f"{measure.title}, mean over {len(groups)} datasets{kind}, by shots a class",
            ("Method", *map(column, columns)),
            tuple(lines),
            tuple(notes),
            facts([run for group in groups for run in group.runs], measure.name),
        )
        if shown := finished(sheet):
            yield shown


def means_of_seeds(rows: Sequence[Row | None], metric: str) -> list[float] | None:
    """The mean over datasets (one row each) of each seed; None if a row, a seed or the metric is missing anywhere."""
    whole = [row for row in rows if row is not None and row.complete and row.values(metric)]
    if len(whole) < len(rows) or len({tuple(sorted(row.runs)) for row in whole}) != 1:
        return None
    seeds = sorted(whole[0].runs)
    return [statistics.fmean(float(row.runs[seed]["metrics"][metric]) for row in whole) for seed in seeds]


# Base and new classes: accuracy on the classes that were trained, on the others, and the harmonic mean of both.


def halves(found: Sequence[Assessed]) -> list[Halves]:
    """Base and new classes of each dataset and task that was run on both."""
    by_key = {(one.group.dataset, one.group.task, one.group.subsample): one for one in found}
    pairs = [(one, by_key.get((dataset, task, NEW))) for (dataset, task, kind), one in by_key.items() if kind == BASE]
    return [(base, new) for base, new in pairs if new]


def base_new_sheet(
    pair: Halves, measure: Measure, harmonic: Mapping[Place, Interval | None], labels: Labels, reference: str
) -> Sheet | None:
    """Mean ± std over the seeds, with intervals; None if nothing is finished.

    Args:
        pair: of one dataset and task.
        measure: what is shown.
        harmonic: the intervals of the harmonic mean.
        labels: the methods' names.
        reference: the trainer whose lines stand last.
    """
    base, new = (one.group for one in pair)
    base_found, new_found = (one.intervals[measure.name] for one in pair)
    order = {method: number for number, method in enumerate(ordered([base, new], reference))}
    rows = []
    for place in sorted({*base.rows, *new.rows}, key=lambda place: (order[place[0]], place[1] or 0)):
        one, other = base.rows.get(place), new.rows.get(place)
        if one and one.runs and not other and not transfers(one):
            rows.append(_line(labels, place, cell(one, measure.name, base_found.get(place)), Shown(NONE), Shown(NONE)))
            continue
        both = Shown(MISSING)
        if one and other and other.runs and one.runs.keys() == other.runs.keys():
            both = Shown(UNKNOWN)
            if measure.higher and one.values(measure.name) and other.values(measure.name):
                figures = (
                    [row.runs[seed]["metrics"][measure.name] for seed in sorted(row.runs)] for row in (one, other)
                )
                part = _seeds(other) if other.missing else ""
                mean = _of_values(harmonic_mean(*figures).tolist()).text
                both = Shown(mean + part, below=ends(harmonic.get(place)))
        of_base = cell(one, measure.name, base_found.get(place))
        rows.append(_line(labels, place, of_base, cell(other, measure.name, new_found.get(place)), both))
    lower = f"Of {measure.title}, lower is better: a harmonic mean would hide the worse half."
    trained = f"The base classes were trained, the new ones not. {NONE}: what a method learns is of its classes alone."
    sheet = Sheet(
        slug(base.title, "new", measure.name),
        f"{measure.title} on base and new classes of {base.name}",
        ("Method", "Shots", "Base", "New", "Harmonic mean"),
        tuple(rows),
        (
            f"{_said(measure)} The harmonic mean is taken of each seed; for its interval the images of base and new "
            f"classes are drawn apart, and a patient with images of both is drawn whole. {trained}",
            *(() if measure.higher else (lower,)),
        ),
        facts([*base.runs, *new.runs], measure.name),
        lead=True,
    )
    return finished(sheet, 2)


# Cross-dataset transfer: models trained on one dataset, on its own test images and on those of others.


def transfer_sheet(
    transfer: Transfer, found: Sequence[Assessed], measure: Measure, labels: Labels, reference: str
) -> Sheet | None:
    """Methods and shots against the source, each target, and the mean over the targets of one kind, with intervals.

    Args:
        transfer: of one source.
        found: what the predictions of its groups tell, in their order.
        measure: what is shown.
        labels: the methods' names.
        reference: the trainer whose lines stand last.
    """
    source, groups, kinds = transfer.source, transfer.groups, transfer.kinds()
    order = {method: number for number, method in enumerate(ordered([source], reference))}
    lines = []
    for place in sorted(source.rows, key=lambda place: (order[place[0]], place[1] or 0)):
        intervals = (one.intervals[measure.name].get(place) for one in found)
        pairs = zip(groups, intervals, strict=True)
        cells = [cell(group.rows[place], measure.name, interval) for group, interval in pairs]
        for _, own in kinds:
            values = means_of_seeds([target.rows[place] for target in own], measure.name)
            cells.append(_of_values(values if all(target.same_images for target in own) else None))
        lines.append(_line(labels, place, *cells))
    names = [f"{one.title} (phantom)" if one.is_phantom and "phantom" not in one.title else one.title for one in groups]
    head = ("Method", "Shots", f"{names[0]}, the source", *names[1:])
    untrained = ", ".join(sorted(labels[method] for method in source.untrained))
    note = f"{_said(measure)} Trained on {names[0]} alone"
    note += f"; not trained at all: {untrained}." if untrained else "."
    mean_names = []
    for drawn, own in kinds:
        kind = f"{'phantom' if drawn else 'real'} " if len(kinds) > 1 or drawn else ""
        mean_names.append(f"Mean of {len(own)} {kind}targets")
        note += f" {mean_names[-1]} ({', '.join(target.title for target in own)}): of each seed, then over the seeds; "
        note += "missing where one of the targets is, or lacks seeds."
    sizes = [
        f"{name} {either(run['n_test'] for run in one.runs) or 'not known'}"
        for name, one in zip(names, groups, strict=True)
    ]
    notes = [f"Test images: {'; '.join(sizes)}."]
    notes += [f"{group.title}: {OTHER_IMAGES}" for group in groups if not group.same_images]
    rows = [row for group in groups for row in group.rows.values()]
    notes += dict.fromkeys(row.note for row in rows if row.note)
    if any(row.runs and row.missing for row in rows):
        notes.append("Cells that lack seeds name those that they have.")
    sheet = Sheet(
        slug(source.title, "transfer", measure.name),
        f"{measure.title} of models trained on {names[0]}, on other datasets",
        (*head, *mean_names),
        tuple(lines),
        (note, *notes),
        facts([run for group in groups for run in group.runs], measure.name),
    )
    return finished(sheet, 2)


# The reference against each other method.


def compare_sheet(
    group: Group, measure: Measure, found: Sequence[Comparison], labels: Labels, trainer: str, draws: int
) -> Sheet | str:
    """The table; a sentence that says why nothing was compared, if nothing was.

    Args:
        group: of one dataset.
        measure: what is compared.
        found: the comparisons.
        labels: the methods' names.
        trainer: of the reference.
        draws: of the bootstrap; too few for so many comparisons are told.
    """
    reference = reference_method(group, trainer)
    if reference is None:
        return f"Nothing is compared on {group.title}: {trainer}, the reference, was not run on it."
    if not group.same_images:
        tested: dict[str, set[str]] = {}
        for (method, _), row in group.rows.items():
            for run in row.runs.values():
                tested.setdefault(str(run.get("test_hash")), set()).add(method.trainer)
        images = "; ".join(
            f"test_hash {short(key)}: {', '.join(sorted(names))}" for key, names in sorted(tested.items())
        )
        return f"Nothing is compared on {group.title}: not all runs were tested on the same images ({images})."
    if not found:
        return f"Nothing is compared on {group.title}: no other method has all its seeds where {labels[reference]} has."
    exact = sum(one.mcnemar is not None for one in found)
    if exact:
        other = "" if measure.name == "accuracy" else " (of right and wrong, whatever is compared beside it)"
        test = f"McNemar: exact test on the majority of the seeds{other}; Holm over its {exact} tests."
    else:
        test = "McNemar's test is not given: patients have several images, which it would take for independent."
    count, few = found[0].n_comparisons, []
    if draws < draws_for(count):
        least = min(1.0, 2 * count / (draws + 1))
        few = [f"{draws} draws are few for {count} comparisons: the least corrected p-value is {least:.3f}; give "
               f"--draws {draws_for(count)} or more."]  # fmt: skip
    notes = (
        f"Differences in points (percent): the method less {labels[reference]}, each the mean over its seeds, on the "
        f"same images; {measure.direction}. Interval and p-value: paired bootstrap over the images, "
        "patients whole where they are known. They speak of other images, not of other trainings.",
        f"Corrected: Holm, over the {count} comparisons of this table; below {LEVEL:g} it is significant.",
        test,
        *few,
    )
    head = ("Method", "Shots", "Difference", "95 % interval", "p", "p corrected", "Right alone (reference / it)",
            "McNemar p", "McNemar corrected")  # fmt: skip
    rows = []
    for one in found:
        known, mcnemar = one.found, one.mcnemar
        figures = (
            UNKNOWN if known is None else f"{100 * known.difference:+.1f}",
            UNKNOWN if known is None or known.low is None or known.high is None
            else f"[{100 * known.low:+.1f}, {100 * known.high:+.1f}]",
            _p(known.p if known else None),
            _p(one.p_corrected),
            UNKNOWN if mcnemar is None else f"{mcnemar.only_a} / {mcnemar.only_b}",
            _p(mcnemar.p if mcnemar else None),
            _p(one.mcnemar_corrected),
        )  # fmt: skip
        rows.append(_line(labels, one.place, *map(Shown, figures)))
    title = f"{measure.title} on {group.title}: each method compared with {labels[reference]}"
    return Sheet(slug(group.title, "comparisons"), title, head, tuple(rows), notes, facts(group.runs, measure.name))


def _p(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


# What a method costs: parameters, seconds, memory.


def cost_sheet(group: Group, labels: Labels, reference: str) -> Sheet:
    """One row for each method, at its largest number of shots: means over the seeds."""
    lines = []
    for method in ordered([group], reference):
        shots = max((shots for own, shots in group.rows if own == method), key=lambda number: number or 0)
        runs = list(group.rows[method, shots].runs.values())
        seconds = [mean_of(runs, "seconds", phase) for phase in ("train", "features", "test")]
        counts = [mean_of(runs, key) for key in ("trained_parameters", "peak_memory_mb", "peak_gpu_memory_mb")]
        parameters, *memory = [UNKNOWN if value is None else f"{value:,.0f}" for value in counts]
        times = [UNKNOWN if value is None else f"{value:.2f}" for value in seconds]
        lines.append(_line(labels, (method, shots), *map(Shown, (parameters, *times, *memory))))
    machines = set()
    for run in group.runs:
        hardware = run.get("hardware", {})
        names = dict.fromkeys(str(hardware.get(key, "?")) for key in ("device", "processor"))
        machines.add(", ".join([*names, f"{hardware.get('threads', '?')} threads"]))
    notes = [
        "Means over the seeds, wall time. Training without the features of frozen towers, which are computed once and "
        "may have come from a cache. Memory: the most that the process held, Python and PyTorch included.",
        f"Computed on: {'; '.join(sorted(machines)) or 'nothing'}.",
        *(["WARNING: not all on the same machine; do not compare times."] if len(machines) > 1 else []),
    ]
    return Sheet(
        slug(group.title, "cost"),
        f"Cost of the methods on {group.title}, at their largest number of shots",
        ("Method", "Shots", "Trained parameters", "Training s", "Features s", "Test s", "Memory MiB", "GPU memory MiB"),
        tuple(lines),
        tuple(notes),
        facts(group.runs),
        minor=True,
    )


def mean_of(runs: Iterable[dict[str, Any]], *path: str) -> float | None:
    """The mean of a number below nested keys; None if a run lacks it."""
    values = [below(run, path) for run in runs]
    return None if not values or None in values else statistics.fmean(map(float, values))


def below(run: Any, path: tuple[str, ...]) -> Any:
    """What stands below nested keys; None if one is missing."""
    for key in path:
        run = run.get(key) if isinstance(run, dict) else None
    return run
