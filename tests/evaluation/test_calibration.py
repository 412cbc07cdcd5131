"""Calibration: bins by hand, an independent formulation, and invariance to the order of the images."""

from __future__ import annotations

import numpy as np
import pytest

from xcoop.evaluation.calibration import (
    adaptive_calibration_error,
    calibration_error_of_draws,
    expected_calibration_error,
    reliability,
)

CONFIDENCE = np.array([0.55, 0.65, 0.75, 0.95])
PROBABILITIES = np.stack([CONFIDENCE, 1 - CONFIDENCE], axis=1)
LABELS = np.array([1, 0, 1, 0])  # the first and the third are wrong


def random_case(seed: int, images: int = 200, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, images), rng.dirichlet(np.full(classes, 0.5), images).round(2) + 0.0


def looped_error(labels: np.ndarray, p: np.ndarray, bins: int) -> float:
    """The definition, bin by bin."""
    top, right, total = p.max(1), p.argmax(1) == labels, 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:], strict=True):
        inside = (top > low) & (top <= high)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    return total


def test_bins_of_equal_width_by_hand() -> None:
    found = reliability(LABELS, PROBABILITIES, bins=5)
    assert found.images.tolist() == [0, 0, 1, 2, 1]
    np.testing.assert_allclose(found.low, [0, 0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(found.confidence, [np.nan, np.nan, 0.55, 0.7, 0.95])
    np.testing.assert_allclose(found.accuracy, [np.nan, np.nan, 0, 0.5, 1])


def test_bins_of_equal_mass_by_hand() -> None:
    found = reliability(LABELS, PROBABILITIES, bins=2, equal_mass=True)
    assert found.images.tolist() == [2, 2]
    np.testing.assert_allclose(found.low, [0.55, 0.75])
    np.testing.assert_allclose(found.high, [0.65, 0.95])
    np.testing.assert_allclose(found.confidence, [0.6, 0.85])
    assert adaptive_calibration_error(LABELS, PROBABILITIES, bins=2) == pytest.approx((0.1 + 0.35) / 2)


@pytest.mark.parametrize("seed", range(20))
def test_error_equals_its_bins_and_the_plain_definition(seed: int) -> None:
    labels, p = random_case(seed)
    bins = reliability(labels, p)
    by_bins = np.nansum(bins.images * np.abs(bins.accuracy - bins.confidence)) / len(labels)
    assert expected_calibration_error(labels, p) == pytest.approx(by_bins)
    assert expected_calibration_error(labels, p) == pytest.approx(looped_error(labels, p, 15))
    bins = reliability(labels, p, equal_mass=True)
    by_bins = np.nansum(bins.images * np.abs(bins.accuracy - bins.confidence)) / len(labels)
    assert adaptive_calibration_error(labels, p) == pytest.approx(by_bins)


def test_equal_mass_bins_hold_equally_many_and_ties_stay_together() -> None:
    labels, p = np.zeros(150, dtype=int), np.linspace(0.5, 1, 150)
    probabilities = np.stack([p, 1 - p], axis=1)
    assert reliability(labels, probabilities, equal_mass=True).images.tolist() == [10] * 15
    tied = np.tile([0.7, 0.3], (150, 1))
    assert sorted(reliability(labels, tied, equal_mass=True).images.tolist()) == [0] * 14 + [150]
    order = np.random.default_rng(0).permutation(200)
    labels, p = random_case(1)
    assert adaptive_calibration_error(labels, p) == pytest.approx(adaptive_calibration_error(labels[order], p[order]))


def test_draws_equal_the_drawn_rows() -> None:
    labels, p = random_case(5, images=60)
    counts = np.random.default_rng(0).multinomial(60, [1 / 60] * 60, 30)
    expected = [looped_error(np.repeat(labels, own), np.repeat(p, own, axis=0), 15) for own in counts]
    assert calibration_error_of_draws(labels, p, counts) == pytest.approx(expected)


def test_a_perfect_forecast_has_no_large_error() -> None:
    """Planted: the labels are drawn with the probabilities stated; the error is then that of the finite sample."""
    rng = np.random.default_rng(0)
    one = rng.random(200_000)
    p = np.stack([1 - one, one], axis=1)
    labels = (rng.random(200_000) < one).astype(int)
    assert expected_calibration_error(labels, p) < 0.01
    assert adaptive_calibration_error(labels, p) < 0.01
    assert expected_calibration_error(1 - labels, p) > 0.4
