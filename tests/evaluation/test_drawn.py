"""The metrics of draws: each equals the metric of the drawn rows, computed one draw at a time."""

from __future__ import annotations

import time

import numpy as np
import pytest
from test_ranking import draw

from xcoop.evaluation.bootstrap import image_counts
from xcoop.evaluation.drawn import STATISTICS, mean_over_seeds, packed, statistic_of, unpacked
from xcoop.evaluation.metrics import classification_metrics


@pytest.mark.parametrize("metric", STATISTICS)
@pytest.mark.parametrize(("seed", "classes"), [(0, 2), (1, 2), (2, 3), (3, 5)])
def test_equals_the_metric_of_the_repeated_rows(metric: str, seed: int, classes: int) -> None:
    labels, p = draw(seed, 40, classes)
    counts = np.random.default_rng(seed).multinomial(40, [1 / 40] * 40, 20)  # some draws lack a class
    expected = [classification_metrics(np.repeat(labels, own), np.repeat(p, own, axis=0))[metric] for own in counts]
    found = STATISTICS[metric](packed(labels, p), counts)
    assert found == pytest.approx([np.nan if value is None else value for value in expected], nan_ok=True)


def test_rows_hold_labels_and_probabilities_exactly() -> None:
    labels, p = draw(0, 40, 3)
    found_labels, found = unpacked(packed(labels, p))
    np.testing.assert_array_equal(found_labels, labels)
    np.testing.assert_array_equal(found, p)


def test_mean_over_seeds() -> None:
    runs = [packed(*draw(seed, 40, 3)) for seed in range(3)]
    counts = np.ones((2, 40), dtype=np.int64)
    expected = np.mean([STATISTICS["brier"](rows, counts) for rows in runs], axis=0)
    assert mean_over_seeds(runs, "brier", counts) == pytest.approx(expected)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ValueError, match="Did you mean 'macro_auc'"):
        statistic_of("macro_uac")


def test_a_thousand_draws_take_well_under_a_second() -> None:
    labels, p = draw(0, 624, 2)
    counts = next(image_counts(624, strata=labels.tolist(), draws=1000))
    rows = packed(labels, p)
    for metric, statistic in STATISTICS.items():
        start = time.process_time()
        statistic(rows, counts)
        assert time.process_time() - start < 0.5, metric
