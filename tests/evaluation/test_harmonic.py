"""The harmonic mean of base and new: by hand, over seeds, and its interval."""

from __future__ import annotations

from statistics import harmonic_mean as referee

import numpy as np
import pytest
from simulated import classifiers, of_patients, truth

from xcoop.evaluation.harmonic import harmonic_interval, harmonic_mean


def half(right: int, images: int = 100) -> tuple[np.ndarray, np.ndarray, None]:
    """Labels and probabilities of images of two classes, of which the first `right` are predicted correctly."""
    labels = np.arange(images) % 2
    guesses = np.where(np.arange(images) < right, labels, 1 - labels)
    return labels, np.where(np.eye(2)[guesses] > 0, 0.9, 0.1), None


def test_by_hand() -> None:
    assert harmonic_mean(0.6, 0.3) == pytest.approx(0.4)
    assert harmonic_mean([0.0, 0.5, 1.0], [0.0, 0.0, 1.0]).tolist() == [0, 0, 1]
    assert np.isnan(harmonic_mean(np.nan, 0.5))  # and not 0
    assert harmonic_mean(80.0, 60.0) == pytest.approx(referee([80.0, 60.0]))


def test_it_is_the_mean_of_the_seeds_harmonic_means() -> None:
    """Seeds (0.9, 0.3) and (0.3, 0.9): 0.45 each, where the harmonic mean of the means would be 0.6."""
    labels = half(0)[0]
    good, poor = half(90)[1], half(30)[1]
    found = harmonic_interval((labels, np.stack([good, poor]), None), (labels, np.stack([poor, good]), None), draws=50)
    assert found is not None
    assert found.estimate == pytest.approx(0.45)


def test_the_interval_covers_the_truth() -> None:
    hits, expected = 0, float(harmonic_mean(truth(2.0)["accuracy"], truth(1.0)["accuracy"]))
    for run in range(150):
        rng = np.random.default_rng([21, run])
        base, new = (classifiers(rng, 200, (gap,)) for gap in (2.0, 1.0))
        found = harmonic_interval((base[0], base[1][0], None), (new[0], new[1][0], None), draws=300, seed=run)
        assert found is not None
        hits += found.low <= expected <= found.high
    assert 0.90 <= hits / 150 <= 0.99


def test_patients_in_both_halves_are_drawn_whole() -> None:
    """Planted: each patient has the same images in base and new, so the interval is that of one half."""
    labels, p, patients = of_patients(np.random.default_rng(0), 60, 3, 1.5)
    one = (labels, p, patients)
    joint = harmonic_interval(one, one, draws=400)
    apart = harmonic_interval(one, (labels, p, [f"other {patient}" for patient in patients]), draws=400)
    assert joint is not None
    assert apart is not None
    assert joint.estimate == apart.estimate
    assert joint.high - joint.low > 1.2 * (apart.high - apart.low)


def test_unknown_and_refused() -> None:
    labels, p, _ = half(90)
    only = (np.zeros(10, dtype=int), p[:10], None)
    assert harmonic_interval(only, half(90), metric="macro_auc", draws=20) is None
    with pytest.raises(ValueError, match="2 seeds on the base classes, 1 on the new"):
        harmonic_interval((labels, np.stack([p, p]), None), half(90))
    with pytest.raises(ValueError, match="1 patients for 100 images"):
        harmonic_interval((labels, p, ["a"]), half(90))
    with pytest.raises(ValueError, match="pairs"):
        harmonic_mean([0.5], [0.5, 0.5])
    with pytest.raises(ValueError, match="0 or more"):
        harmonic_mean(-0.5, 0.5)
    with pytest.raises(ValueError, match="lower is better"):
        harmonic_interval(half(90), half(90), metric="ece")
