"""Bootstrap intervals: coverage by simulation, strata and clusters by construction, and an independent formulation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xcoop.evaluation.bootstrap import bootstrap, mean_of_known, of_rows, weighted_mean


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    truth, runs = 0.8, 600
    hits = 0
    for run in range(runs):
        found = bootstrap(rng.binomial(1, truth, 50) + rng.normal(0, 0.3, 50), draws=600, seed=run)
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / runs <= 0.97


def test_patients_drawn_whole_cover_where_single_images_do_not() -> None:
    """Ten images of one patient that are all alike are one piece of evidence."""
    rng = np.random.default_rng(8)
    patients = np.repeat(np.arange(50), 10)
    covered = {"images": 0, "patients": 0}
    for run in range(300):
        values = rng.normal(0, 1, 50)[patients]
        for kind, clusters in (("images", None), ("patients", patients.tolist())):
            found = bootstrap(values, clusters=clusters, draws=300, seed=run)
            covered[kind] += found.low <= 0 <= found.high
    assert 0.90 <= covered["patients"] / 300 <= 0.98
    assert covered["images"] / 300 < 0.6


def test_the_interval_is_the_middle_of_the_drawn_means() -> None:
    values = np.arange(30.0) ** 2
    found = bootstrap(values, draws=20_000, seed=1)
    rng = np.random.default_rng(99)  # another stream, drawn in the plain way
    means = [rng.choice(values, 30).mean() for _ in range(20_000)]
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=3)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=3)
    assert found == bootstrap(values, draws=20_000, seed=1) != bootstrap(values, draws=20_000, seed=2)


def test_each_class_keeps_its_number_of_images() -> None:
    """Values that are constant within a class leave no spread once classes are drawn apart."""
    values, classes = [0.0] * 10 + [1.0] * 30, ["a"] * 10 + ["b"] * 30
    assert bootstrap(values, strata=classes) == (0.75, 0.75, 0.75)
    assert bootstrap(values).low < 0.7


def test_patients_within_classes() -> None:
    """Two patients a class; one more has images of both classes, and is always drawn: its stratum is its own."""
    values = np.array([0.0, 0, 4, 4, 0, 0, 8, 8, 100, 100])
    patients = ["p", "p", "q", "q", "r", "r", "s", "s", "t", "t"]
    classes = ["a"] * 4 + ["b"] * 4 + ["a", "b"]
    seen: set[tuple[int, ...]] = set()

    def watch(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        seen.update(map(tuple, counts[:, ::2].tolist()))
        assert (counts[:, ::2] == counts[:, 1::2]).all()  # both images of a patient, equally often
        return weighted_mean(rows, counts)

    bootstrap(values, watch, strata=classes, clusters=patients, draws=500)
    assert {row[:2] for row in seen} == {row[2:4] for row in seen} == {(2, 0), (1, 1), (0, 2)}
    assert {row[4] for row in seen} == {1}


def test_any_statistic_by_rows() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    rows = np.column_stack([labels, labels + rng.normal(0, 1, 60)])
    auc = of_rows(lambda drawn: roc_auc_score(drawn[:, 0], drawn[:, 1]))
    found = bootstrap(rows, auc, strata=labels.tolist(), draws=200)
    assert found.estimate == pytest.approx(roc_auc_score(labels, rows[:, 1]))
    assert 0 < found.low < found.estimate < found.high <= 1
    values = rng.random(25)
    assert bootstrap(values, of_rows(np.mean), draws=50) == pytest.approx(bootstrap(values, draws=50))


def test_large_sets_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watch(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        sizes.append(len(counts))
        return weighted_mean(rows, counts)

    monkeypatch.setattr("xcoop.evaluation.bootstrap._CELLS", 1000)
    bootstrap(np.arange(100.0), watch, draws=25)
    assert sizes == [10, 10, 5, 1]


def test_what_is_unknown_is_left_out_and_counted() -> None:
    values = [1.0, np.nan, 2.0, 3.0, np.nan]
    found = mean_of_known(values, strata=list("abbab"), clusters=list("vwxyz"))
    assert (found.estimate, found.known, found.unknown) == (2.0, 3, 2)
    assert found[:3] == bootstrap([1.0, 2.0, 3.0], strata=list("aba"), clusters=list("vxy"))
    single = mean_of_known([np.nan, 5.0])
    assert (single.estimate, single.known) == (5.0, 1)
    assert np.isnan([single.low, single.high, mean_of_known([np.nan]).estimate]).all()
    assert mean_of_known([]).known == 0


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "at least one image"),
        ([1.0, np.nan], {}, "1 of the values"),
        ([1.0, 2.0], {"strata": ["a"]}, "1 strata for 2 images"),
        ([1.0, 2.0], {"clusters": ["a"] * 3}, "3 clusters for 2 images"),
        ([1.0], {"confidence": 95}, "confidence in"),
        ([1.0], {"draws": 0}, "draws must be 1 or more"),
    ],
)
def test_what_is_refused(values: list[float], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(values, **options)
