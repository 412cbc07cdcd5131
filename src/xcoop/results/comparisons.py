"""Methods compared on the test images that they share: paired by image, clustered by patient, corrected for number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xcoop.evaluation.intervals import clusters_of
from xcoop.evaluation.mcnemar import McNemar, majority, mcnemar
from xcoop.evaluation.multiple import bonferroni, holm
from xcoop.evaluation.paired import PAIRED_DRAWS, Difference, paired_bootstrap
from xcoop.results.predictions import Aligned, Predictions, aligned

Runs = Sequence[Predictions]
"""The seeds of one method."""


@dataclass(frozen=True)
class Comparison:
    """One method against the reference, in one metric; fractions. None stands for what the labels cannot tell.

    Attributes:
        name: of the method.
        metric: what is compared.
        reference: the metric of the reference, mean over its seeds.
        value: that of the method.
        difference: value - reference.
        low: the lower end of the 95 % interval of the difference, over the images.
        high: the upper end.
        p: two-sided, of the paired bootstrap; None for too few images (patients).
        n_images: how many test images both methods share.
        n_patients: how many patients (or images, where none is known) were drawn.
        p_corrected: after Holm, over the `n_comparisons`.
        p_bonferroni: after Bonferroni.
        n_comparisons: how many p-values were corrected together.
        mcnemar: of accuracy only: the exact test, each method by the majority of its seeds. None where patients have
            several images, which it would take for independent.
        mcnemar_corrected: its p-value after Holm, over the McNemar tests of the same call.
    """

    name: str
    metric: str
    reference: float | None
    value: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    n_images: int
    n_patients: int
    p_corrected: float | None = None
    p_bonferroni: float | None = None
    n_comparisons: int = 0
    mcnemar: McNemar | None = None
    mcnemar_corrected: float | None = None


def compare(
    reference: Runs,
    other: Runs,
    metric: str = "accuracy",
    *,
    name: str = "other",
    draws: int = PAIRED_DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """One method against a reference: other - reference. See `compare_all`, whose correction is for one here."""
    found = compare_all(reference, {name: other}, (metric,), draws=draws, confidence=confidence, seed=seed)
    return found[0]


def compare_all(
    reference: Runs,
    others: Mapping[str, Runs],
    metrics: Sequence[str] = ("accuracy",),
    *,
    draws: int = PAIRED_DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Comparison]:
    """Each other method against the reference, in each metric; the p-values are corrected for all of them together.

    Args:
        reference: the seeds of the method that all are compared with.
        others: the seeds of each other method, by name.
        metrics: keys of `xcoop.evaluation.drawn.STATISTICS`.
        draws: of the bootstrap.
        confidence: of the intervals, in (0, 1).
        seed: of the draws, 0 or more; equal seeds give equal results.

    Returns:
        By metric, then in the order of `others`.

    Raises:
        ValueError: a method without runs, runs on other images, or an unknown metric.
    """
    empty = [name for name, runs in {"the reference": reference, **others}.items() if not runs]
    if empty:
        raise ValueError(f"{empty[0]} has no finished run to compare")
    if not others:
        return []
    table = aligned([run for runs in (reference, *others.values()) for run in runs])
    own, *rest = _by_method(table, [len(reference), *map(len, others.values())])
    tests = _mcnemars(table, own, dict(zip(others, rest, strict=True))) if "accuracy" in metrics else {}
    found: list[Comparison] = []
    for metric in metrics:
        differences = paired_bootstrap(
            table.labels, own, rest, table.patients, metric=metric, draws=draws, confidence=confidence, seed=seed
        )
        plain = [_comparison(*each, table) for each in zip(others, [metric] * len(others), differences, strict=True)]
        found += [replace(one, mcnemar=tests.get(one.name)) if metric == "accuracy" else one for one in plain]
    return corrected(found)


def units(table: Aligned) -> int:
    """How many patients the images come from; an image without a known patient counts as one."""
    return len(set(clusters_of(table.patients, len(table.images)) or table.images))


def _by_method(table: Aligned, seeds: Sequence[int]) -> list[np.ndarray]:
    return np.split(table.probabilities, np.cumsum(seeds)[:-1])  # each (S, N, C)


def _mcnemars(table: Aligned, reference: np.ndarray, others: Mapping[str, np.ndarray]) -> dict[str, McNemar]:
    """By method; empty where a patient has several images."""
    if units(table) < len(table.images):
        return {}
    first = majority(reference.argmax(2) == table.labels)
    return {name: mcnemar(first, majority(runs.argmax(2) == table.labels)) for name, runs in others.items()}


def _comparison(name: str, metric: str, found: Difference | None, table: Aligned) -> Comparison:
    """Before any correction."""
    known = found._asdict() if found else dict.fromkeys(Difference._fields)
    return Comparison(name=name, metric=metric, n_images=len(table.images), n_patients=units(table), **known)


def corrected(found: Sequence[Comparison]) -> list[Comparison]:
    """The same with the bootstrap's p-values corrected together, and McNemar's together."""
    p_values = {i: one.p for i, one in enumerate(found) if one.p is not None}
    exact = {i: one.mcnemar.p for i, one in enumerate(found) if one.mcnemar is not None}
    step, simple, step_exact = (
        dict(zip(family, correct(list(family.values())), strict=True))
        for family, correct in ((p_values, holm), (p_values, bonferroni), (exact, holm))
    )
    return [
        replace(
            one,
            p_corrected=step.get(i),
            p_bonferroni=simple.get(i),
            n_comparisons=len(p_values),
            mcnemar_corrected=step_exact.get(i),
        )
        for i, one in enumerate(found)
    ]
