"""Methods compared from their predictions: paired by image, corrected, and with McNemar's test where it holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xcoop.evaluation.statistics import holm, paired_bootstrap
from xcoop.results.benchmark import Method
from xcoop.results.compare import Comparison, below_common, compare, corrected
from xcoop.results.record import Predictions, aligned

IMAGES = 200


def method(rate: float, seeds: int = 1, each: int = 1, shuffled: bool = False) -> list[Predictions]:
    """The seeds of a method that is right on `rate` of the images; `each` images a patient."""
    runs = []
    for seed in range(seeds):
        rng = np.random.default_rng([int(1000 * rate), seed])
        labels = np.arange(IMAGES) // each % 2
        guesses = np.where(rng.random(IMAGES) < rate, labels, 1 - labels)
        p = np.where(np.eye(2)[guesses] > 0, 0.9, 0.1)
        order = rng.permutation(IMAGES) if shuffled else np.arange(IMAGES)
        images = tuple(f"{i:03}.png" for i in order)
        patients = tuple(f"patient-{i // each}" for i in order)
        runs.append(Predictions(images, patients, labels[order], p[order], ("a", "b"), f"{rate}/seed{seed}"))
    return runs


def one(
    reference: list[Predictions], other: list[Predictions], metric: str = "accuracy", draws: int = 200
) -> Comparison:
    (found,) = compare(reference, {(Method("CoOp", "vit"), 4): other}, metric, draws)
    return found


def test_one_comparison_holds_what_a_reader_needs() -> None:
    comparison = one(method(0.9), method(0.7), draws=500)
    found, test = comparison.found, comparison.mcnemar
    assert comparison.place == (Method("CoOp", "vit"), 4)
    assert found is not None
    accuracies = [(runs[0].probabilities.argmax(1) == runs[0].labels).mean() for runs in (method(0.9), method(0.7))]
    assert (found.reference, found.value) == pytest.approx(accuracies)
    assert found.low < found.difference < found.high < 0
    assert (comparison.n_images, comparison.n_patients) == (IMAGES, IMAGES)
    assert test is not None
    assert test.only_a - test.only_b == pytest.approx(-found.difference * IMAGES)
    assert max(found.p, test.p) < 0.01


def test_images_are_paired_by_name_and_not_by_line() -> None:
    plain = one(method(0.9, 2), method(0.8, 3))
    assert one(method(0.9, 2, shuffled=True), method(0.8, 3, shuffled=True)) == plain
    elsewhere = [replace(run, images=tuple(f"data/derm/{image}" for image in run.images)) for run in method(0.8, 3)]
    assert below_common(elsewhere[0]).images == method(0.8)[0].images


def test_all_are_corrected_together() -> None:
    others = {(Method(str(rate), "vit"), 4): method(rate) for rate in (0.89, 0.8, 0.6)}
    found = corrected(compare(method(0.9), others, draws=400))
    assert [one.place for one in found] == list(others)
    p_values, exact = [one.found.p for one in found], [one.mcnemar.p for one in found]
    assert [one.p_corrected for one in found] == holm(p_values)
    assert {one.n_comparisons for one in found} == {3}
    assert [one.mcnemar_corrected for one in found] == holm(exact)


def test_it_is_the_paired_bootstrap_of_the_aligned_runs_without_mcnemar_where_patients_have_several_images() -> None:
    a, b = method(0.9, 3, each=4), method(0.85, 2, each=4)
    table = aligned([*a, *b])
    p = table.probabilities
    found = one(a, b, "macro_auc")
    assert (
        found.found == paired_bootstrap(table.labels, p[:3], [p[3:]], table.patients, metric="macro_auc", draws=200)[0]
    )
    assert found.n_patients == 50
    assert found.mcnemar is None
    assert corrected([found])[0].mcnemar_corrected is None


def test_what_cannot_be_known_is_no_comparison() -> None:
    a, b = (
        [Predictions(("x", "y"), (None, None), np.array([0, 0]), p, ("a", "b"))]
        for p in (np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[0.1, 0.9], [0.8, 0.2]]))
    )
    known, unknown = corrected([one(a, b), one(a, b, "macro_auc")])
    assert known.found.difference == -0.5
    assert known.found.p is known.p_corrected is unknown.found is None  # two images; one class
    assert known.n_comparisons == 0


def test_what_is_refused() -> None:
    assert compare(method(0.9), {}) == []
    elsewhere = [replace(run, images=tuple(f"other-{image}" for image in run.images)) for run in method(0.9)]
    with pytest.raises(ValueError, match="not tested on the same images"):
        one(method(0.9), elsewhere)
