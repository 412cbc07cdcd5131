"""The chest tables: distributions, sampling, and what the best reader can reach."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xcoop.phantom.chest_tables import (
    CHEST_TABLE,
    CONCEPTS,
    GROUPS,
    PRIORS,
    VALUES,
    best_normal_or_pneumonia,
    sample_profile,
    sample_uniform,
)


@pytest.mark.parametrize("group", GROUPS)
def test_every_row_is_a_distribution(group):
    for concept, values in VALUES.items():
        row = CHEST_TABLE.given[group][concept]
        assert len(row) == len(values)
        assert min(row) > 0
        assert sum(row) == pytest.approx(1)


def test_groups_and_first_values():
    assert GROUPS == ("normal", "bacterial", "viral")
    assert all(values[0] == "absent" for values in VALUES.values())


@pytest.mark.parametrize("group", GROUPS)
def test_sampled_frequencies_match_the_table(group):
    rng = np.random.default_rng(0)
    drawn = [sample_profile(group, rng) for _ in range(3000)]
    for concept, values in VALUES.items():
        found = [np.mean([profile[concept] == value for profile in drawn]) for value in values]
        np.testing.assert_allclose(found, CHEST_TABLE.given[group][concept], atol=0.035)


def test_uniform_sampling_covers_all_values_equally():
    rng = np.random.default_rng(1)
    drawn = [sample_uniform(rng) for _ in range(3000)]
    for concept, values in VALUES.items():
        found = [np.mean([profile[concept] == value for profile in drawn]) for value in values]
        np.testing.assert_allclose(found, 1 / len(values), atol=0.035)


def test_unknown_group_is_named():
    with pytest.raises(ValueError, match="bacterial"):
        sample_profile("bacteral", np.random.default_rng(0))


def test_best_reachable_against_a_plain_enumeration():
    """An independent formulation: loops over all profiles, and scikit-learn's weighted AUC."""
    rows = []
    for choice in itertools.product(*(range(len(values)) for values in VALUES.values())):
        chance = {
            group: np.prod([CHEST_TABLE.given[group][c][i] for c, i in zip(CONCEPTS, choice, strict=True)])
            for group in GROUPS
        }
        healthy = PRIORS["normal"] * chance["normal"]
        rows.append((healthy, PRIORS["bacterial"] * chance["bacterial"] + PRIORS["viral"] * chance["viral"]))
    healthy, ill = np.array(rows).T
    score = np.tile(ill / (healthy + ill), 2)
    labels = np.repeat([0, 1], len(rows))
    best = best_normal_or_pneumonia()
    assert best.accuracy == pytest.approx(np.maximum(healthy, ill).sum() / sum(PRIORS.values()), abs=1e-9)
    assert best.auc == pytest.approx(roc_auc_score(labels, score, sample_weight=np.r_[healthy, ill]), abs=1e-6)


def test_the_task_is_neither_trivial_nor_hopeless():
    best = best_normal_or_pneumonia()
    assert 0.90 <= best.accuracy <= 0.94
    assert 0.95 <= best.auc <= 0.98


def test_priors_are_scaled():
    doubled = {group: 2 * share for group, share in PRIORS.items()}
    assert best_normal_or_pneumonia(doubled).accuracy == pytest.approx(best_normal_or_pneumonia().accuracy)
