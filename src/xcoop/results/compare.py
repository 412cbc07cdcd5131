"""What the predictions add to the means of a table: intervals over the images, comparisons, and which figures are best.

Only whole cells are compared, and only on the same images: paired by image, clustered by patient. All p-values of one
table, or of one column, are corrected together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xcoop.evaluation.metrics import LOWER_IS_BETTER
from xcoop.evaluation.statistics import (
    DRAWS,
    Difference,
    Interval,
    McNemar,
    harmonic_interval,
    holm,
    image_intervals,
    majority,
    mcnemar,
    paired_bootstrap,
    units_of,
)
from xcoop.results.benchmark import Group, Method, Place, ordered
from xcoop.results.record import Predictions, aligned, read_predictions
from xcoop.results.table import BEST, TIED
from xcoop.utils.console import unknown

LEVEL = 0.05
Outcomes = Mapping[Place, Sequence[Predictions]]
"""The predictions behind the cells of a table, seed by seed."""


@dataclass(frozen=True)
class Measure:
    """One of the metrics of a record: its key in `metrics`, and its name in headings."""

    name: str
    title: str

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        return self.name not in LOWER_IS_BETTER

    @property
    def direction(self) -> str:
        """In words."""
        return "higher is better" if self.higher else "lower is better"


TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "macro_auc": "Macro-AUC",
    "ece": "Expected calibration error",
    "brier": "Brier score",
}


def measure(name: str) -> Measure:
    """A measure by its name.

    Raises:
        ValueError: there is none; the message says what is near.
    """
    if name not in TITLES:
        raise ValueError(unknown("metric", name, TITLES))
    return Measure(name, TITLES[name])


# The cells of a group.


@dataclass(frozen=True)
class Assessed:
    """A group with what its predictions tell.

    Attributes:
        group: of one dataset.
        outcomes: the predictions of each cell that has any.
        intervals: by measure and cell.
        marks: by measure and cell: best, or not significantly worse.
    """

    group: Group
    outcomes: Outcomes
    intervals: Mapping[str, Mapping[Place, Interval | None]]
    marks: Mapping[str, Mapping[Place, str]]


def assess(group: Group, measures: Sequence[Measure], damaged: list[str], draws: int = DRAWS) -> Assessed:
    """Reads the predictions of a group, and computes intervals and marks.

    Args:
        group: of one dataset.
        measures: of the tables.
        damaged: takes what is wrong with predictions that cannot be used.
        draws: of the bootstrap.
    """
    found = outcomes(group, damaged)
    names = [measure.name for measure in measures]
    intervals: dict[str, dict[Place, Interval | None]] = {name: {} for name in names}
    for place, runs in found.items():
        one = aligned(runs)
        own = image_intervals(one.labels, one.probabilities, one.patients, metrics=names, draws=draws)
        for name in names:
            intervals[name][place] = own[name]
    marked = {measure.name: marks(group, measure, found, draws) for measure in measures}
    return Assessed(group, found, intervals, marked)


def outcomes(group: Group, damaged: list[str]) -> Outcomes:
    """The predictions of each cell that has any; they agree on images, labels and patients where the records say so.

    `damaged` takes what is wrong with predictions that cannot be used; their cell is left out.
    """
    found: dict[Place, list[Predictions]] = {}
    for place, row in group.rows.items():
        try:
            runs = [below_common(read_predictions(folder)) for folder in row.folders()]
            if runs:
                others = next(iter(found.values()), []) if group.same_images else []
                aligned([*others[:1], *runs])
                found[place] = runs
        except ValueError as error:
            damaged.append(str(error))
    return found


def below_common(run: Predictions) -> Predictions:
    """The same with paths below the folder that holds all images.

    Where a dataset lies in the cache, or below the data root, its paths are recorded from another place.
    """
    common = os.path.commonpath([os.path.dirname(image) for image in run.images])
    return replace(run, images=tuple(os.path.relpath(image, common or ".") for image in run.images))


def harmonic_intervals(
    base: Assessed, new: Assessed, measure: Measure, draws: int = DRAWS
) -> dict[Place, Interval | None]:
    """Of each cell that has the same seeds on base and on new classes: the harmonic mean, with its interval.

    There is none for a measure of which less is better.
    """
    found: dict[Place, Interval | None] = {}
    for place in base.outcomes.keys() & new.outcomes.keys() if measure.higher else ():
        if base.group.rows[place].runs.keys() == new.group.rows[place].runs.keys():
            halves = [aligned(one.outcomes[place]) for one in (base, new)]
            b, n = ((half.labels, half.probabilities, half.patients) for half in halves)
            found[place] = harmonic_interval(b, n, metric=measure.name, draws=draws)
    return found


# Comparisons.


@dataclass(frozen=True)
class Comparison:
    """One method against the reference, in one metric.

    Attributes:
        place: the method, and the shots of the reference; the method has as many, or uses none.
        found: values, difference, interval and p-value; None where the labels cannot tell the metric.
        n_images: how many test images both methods share.
        n_patients: how many patients (or images, where none is known) were drawn.
        p_corrected: after Holm, over the `n_comparisons`; None for too few images (patients).
        n_comparisons: how many p-values were corrected together.
        mcnemar: the exact test of right and wrong, each method by the majority of its seeds. None where patients have
            several images, which it would take for independent.
        mcnemar_corrected: its p-value after Holm, over the McNemar tests of the same table.
    """

    place: Place
    found: Difference | None
    n_images: int
    n_patients: int
    p_corrected: float | None = None
    n_comparisons: int = 0
    mcnemar: McNemar | None = None
    mcnemar_corrected: float | None = None


def compare(
    reference: Sequence[Predictions],
    others: Mapping[Place, Sequence[Predictions]],
    metric: str = "accuracy",
    draws: int = DRAWS,
) -> list[Comparison]:
    """The seeds of each other method against those of the reference, before any correction.

    Raises:
        ValueError: runs on other images.
    """
    if not others:
        return []
    methods = [reference, *others.values()]
    table = aligned([run for runs in methods for run in runs])
    own, *rest = np.split(table.probabilities, np.cumsum([len(runs) for runs in methods])[:-1])  # each (S, N, C)
    differences = paired_bootstrap(table.labels, own, rest, table.patients, metric=metric, draws=draws)
    images = len(table.images)
    patients = len(set(units_of(table.patients, images)))
    right, *others_right = [majority(p.argmax(2) == table.labels) for p in (own, *rest)]
    tests = [mcnemar(right, other) if patients == images else None for other in others_right]
    return [
        Comparison(place, difference, images, patients, mcnemar=test)
        for place, difference, test in zip(others, differences, tests, strict=True)
    ]


def corrected(found: Sequence[Comparison]) -> list[Comparison]:
    """The same with the bootstrap's p-values corrected together, and McNemar's together."""
    p_values = {i: one.found.p for i, one in enumerate(found) if one.found and one.found.p is not None}
    exact = {i: one.mcnemar.p for i, one in enumerate(found) if one.mcnemar}
    by_holm = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    exact_by_holm = dict(zip(exact, holm(list(exact.values())), strict=True))
    return [
        replace(one, p_corrected=by_holm.get(i), n_comparisons=len(p_values), mcnemar_corrected=exact_by_holm.get(i))
        for i, one in enumerate(found)
    ]


def reference_method(group: Group, trainer: str) -> Method | None:
    """The trainer's line without overrides, or else its first; None if it has none."""
    own = sorted(method for method, _ in group.rows if method.trainer == trainer)
    return next((method for method in own if not method.tag and not method.note), own[0] if own else None)


def against_reference(
    group: Group, measure: Measure, outcomes: Outcomes, trainer: str, draws: int = DRAWS
) -> list[Comparison]:
    """The reference (its trainer) against each other method, at each of its shots; [] if nothing can be compared."""
    reference = reference_method(group, trainer)
    if reference is None or not group.same_images:
        return []
    order = {method: place for place, method in enumerate(ordered([group], trainer))}
    pairs: dict[int | None, list[Place]] = {}
    for shots in sorted((shots for method, shots in group.rows if method == reference), key=lambda shots: shots or 0):
        whole = _whole(group, outcomes, (shots, None))
        if (reference, shots) in whole:
            rest = [place for place in whole if place[0] != reference]
            pairs[shots] = sorted(rest, key=lambda place: order[place[0]])
    found: list[Comparison] = []
    for shots, places in pairs.items():
        others = {place: outcomes[place] for place in places}
        for one in compare(outcomes[reference, shots], others, measure.name, draws):
            found.append(replace(one, place=(one.place[0], shots)))
    return corrected(found)


def marks(group: Group, measure: Measure, outcomes: Outcomes, draws: int = DRAWS) -> dict[Place, str]:
    """The best cell of each number of shots, and those that are not significantly worse (level 0.05).

    Each is compared with the best by the paired bootstrap, corrected for the comparisons of the column. Where nothing
    can be tested (a measure without p-values, such as ECE; too few images), only the best is marked.
    """
    found: dict[Place, str] = {}
    for shots in (None, *group.shots) if group.same_images else ():
        whole = {place: group.rows[place].mean(measure.name) for place in _whole(group, outcomes, (shots,))}
        means = {place: mean if measure.higher else -mean for place, mean in whole.items() if mean is not None}
        if len(means) < 2:
            continue
        best = [place for place, mean in means.items() if mean == max(means.values())]
        rest = {place: outcomes[place] for place in means if place not in best}
        found |= dict.fromkeys(best, BEST)
        for one in corrected(compare(outcomes[best[0]], rest, measure.name, draws)):
            if one.p_corrected is not None and one.p_corrected >= LEVEL:
                found[one.place] = TIED
    return found


def _whole(group: Group, outcomes: Outcomes, shots: Iterable[int | None]) -> list[Place]:
    """The cells at these shots that can be compared."""
    wanted = set(shots)
    return [place for place, row in group.rows.items() if place[1] in wanted and row.complete and place in outcomes]
