"""Methods compared from their predictions: paired by image, corrected, and with McNemar's test where it holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xcoop.evaluation.multiple import holm
from xcoop.evaluation.paired import paired_bootstrap
from xcoop.results.comparisons import compare, compare_all, units
from xcoop.results.predictions import Predictions, aligned

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


def test_one_comparison_holds_what_a_reader_needs() -> None:
    found = compare(method(0.9), method(0.7), name="CoOp", draws=500)
    assert (found.name, found.metric) == ("CoOp", "accuracy")
    accuracies = [runs[0].metrics()["accuracy"] for runs in (method(0.9), method(0.7))]
    assert (found.reference, found.value) == pytest.approx(accuracies)
    assert found.difference == pytest.approx(accuracies[1] - accuracies[0])
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.difference < found.high < 0
    assert (found.n_images, found.n_patients, found.n_comparisons) == (IMAGES, IMAGES, 1)
    assert found.p == found.p_corrected == found.p_bonferroni < 0.01
    assert found.mcnemar is not None
    assert found.mcnemar.only_a - found.mcnemar.only_b == pytest.approx(-found.difference * IMAGES)
    assert found.mcnemar.p == found.mcnemar_corrected < 0.01


def test_images_are_paired_by_name_and_not_by_line() -> None:
    plain = compare(method(0.9, 2), method(0.8, 3), draws=200)
    assert compare(method(0.9, 2, shuffled=True), method(0.8, 3, shuffled=True), draws=200) == plain


def test_all_are_corrected_together() -> None:
    others = {"close": method(0.89), "worse": method(0.8), "worst": method(0.6)}
    found = compare_all(method(0.9), others, ("accuracy", "brier"), draws=400, seed=3)
    assert [(one.metric, one.name) for one in found] == [(m, n) for m in ("accuracy", "brier") for n in others]
    p_values = [one.p for one in found]
    assert None not in p_values
    assert [one.p_corrected for one in found] == holm(p_values)
    assert [one.p_bonferroni for one in found] == [min(1.0, 6 * p) for p in p_values]
    assert {one.n_comparisons for one in found} == {6}
    exact = [one.mcnemar.p for one in found[:3] if one.mcnemar]
    assert [one.mcnemar_corrected for one in found] == [*holm(exact), None, None, None]
    assert found == compare_all(method(0.9), others, ("accuracy", "brier"), draws=400, seed=3)


def test_it_is_the_paired_bootstrap_of_the_aligned_runs() -> None:
    a, b = method(0.9, 3, each=4), method(0.85, 2, each=4)
    table = aligned([*a, *b])
    p = table.probabilities
    expected = paired_bootstrap(table.labels, p[:3], [p[3:]], table.patients, metric="macro_auc", draws=200)[0]
    found = compare(a, b, "macro_auc", draws=200)
    assert (found.reference, found.value, found.difference, found.low, found.high, found.p) == expected
    assert (found.n_patients, units(table)) == (50, 50)


def test_no_mcnemar_where_patients_have_several_images() -> None:
    found = compare(method(0.9, each=2), method(0.7, each=2), draws=100)
    assert found.mcnemar is None
    assert found.mcnemar_corrected is None
    assert found.p is not None


def test_seeds_of_one_method_do_not_multiply_the_evidence() -> None:
    """Five copies of a run are one run."""
    single = compare(method(0.9), method(0.86), draws=300)
    copies = compare(method(0.9) * 5, method(0.86) * 5, draws=300)
    assert copies.p == single.p
    assert copies.mcnemar == single.mcnemar
    assert (copies.low, copies.high) == pytest.approx((single.low, single.high))


def test_what_cannot_be_known_is_no_comparison() -> None:
    a, b = (
        [Predictions(("x", "y"), (None, None), np.array([0, 0]), p, ("a", "b"))]
        for p in (np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[0.1, 0.9], [0.8, 0.2]]))
    )
    found = compare_all(a, {"b": b}, ("accuracy", "macro_auc"), draws=50)
    assert found[0].difference == -0.5
    assert found[0].p is None  # two images
    assert found[1].difference is found[1].low is found[1].p is found[1].p_corrected is None
    assert {one.n_comparisons for one in found} == {0}


def test_what_is_refused() -> None:
    assert compare_all(method(0.9), {}) == []
    with pytest.raises(ValueError, match="CoOp has no finished run"):
        compare_all(method(0.9), {"CoOp": []})
    with pytest.raises(ValueError, match="the reference has no finished run"):
        compare([], method(0.9))
    elsewhere = [replace(run, images=tuple(f"other-{image}" for image in run.images)) for run in method(0.9)]
    with pytest.raises(ValueError, match="not tested on the same images"):
        compare(method(0.9), elsewhere)
    with pytest.raises(ValueError, match="Did you mean 'brier'"):
        compare(method(0.9), method(0.8), "briar")
