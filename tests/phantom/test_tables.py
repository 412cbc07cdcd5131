"""The concept tables, and the best that can be reached with them."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xcoop.phantom.tables import (
    CHEST_PRIORS,
    CHEST_TABLE,
    DERM_TABLE,
    TABLES,
    ConceptTable,
    best_normal_or_pneumonia,
    best_reachable,
    seven_point_score,
)

TWO = ConceptTable(
    {"a": ("no", "yes")},
    {"x": {"a": (0.9, 0.1)}, "y": {"a": (0.3, 0.7)}},
)
ROWS = [(kind, group) for kind, table in TABLES.items() for group in table.groups]


def test_groups():
    assert DERM_TABLE.groups == ("NEV", "MEL", "BCC", "SK", "MISC")
    assert CHEST_TABLE.groups == ("normal", "bacterial", "viral")
    assert all(values[0] == "absent" for table in TABLES.values() for values in table.values.values())


@pytest.mark.parametrize(
    ("group", "concept", "values", "share"),
    [
        ("MEL", "dots_and_globules", ("irregular",), 0.88),
        ("NEV", "dots_and_globules", ("regular",), 0.51),
        ("MEL", "streaks", ("irregular",), 0.60),
        ("NEV", "pigment_network", ("typical",), 0.53),
        ("MEL", "pigmentation", ("diffuse irregular", "localized irregular"), 0.56),
        ("NEV", "pigmentation", ("diffuse irregular", "localized irregular"), 0.21),
        ("MEL", "blue_whitish_veil", ("present",), 0.48),
        ("MEL", "regression_structures", ("blue areas", "white areas", "combinations"), 0.44),
        ("MEL", "vascular_structures", ("dotted", "linear irregular"), 0.18),
        ("NEV", "vascular_structures", ("dotted", "linear irregular"), 0.03),
        ("BCC", "vascular_structures", ("arborizing",), 0.55),
        ("BCC", "pigment_network", ("absent",), 0.93),
        ("SK", "vascular_structures", ("hairpin",), 0.13),
    ],
)
def test_published_frequencies_stand_in_the_table(group, concept, values, share):
    row = dict(zip(DERM_TABLE.values[concept], DERM_TABLE.given[group][concept], strict=True))
    assert sum(row[value] for value in values) == pytest.approx(share)


def test_a_row_that_is_no_distribution_is_refused():
    with pytest.raises(ValueError, match="no distribution"):
        ConceptTable({"a": ("no", "yes")}, {"x": {"a": (0.9, 0.2)}})
    with pytest.raises(ValueError, match="has concepts"):
        ConceptTable({"a": ("no", "yes")}, {"x": {"b": (0.9, 0.1)}})


@pytest.mark.parametrize(("kind", "group"), ROWS)
def test_samples_follow_the_table(kind, group):
    rng = np.random.default_rng(0)
    table = TABLES[kind]
    cases = [table.sample(group, rng) for _ in range(3000)]
    for concept, values in table.values.items():
        for value, share in zip(values, table.given[group][concept], strict=True):
            found = np.mean([case[concept] == value for case in cases])
            assert abs(found - share) < 4.5 * np.sqrt(share * (1 - share) / len(cases)) + 1e-9, (concept, value)


@pytest.mark.parametrize("kind", TABLES)
def test_uniform_samples_are_uniform(kind):
    rng = np.random.default_rng(1)
    cases = [TABLES[kind].sample_uniform(rng) for _ in range(3000)]
    for concept, values in TABLES[kind].values.items():
        found = [np.mean([case[concept] == value for case in cases]) for value in values]
        np.testing.assert_allclose(found, 1 / len(values), atol=0.035)


def test_an_unknown_group_is_named():
    with pytest.raises(ValueError, match="MELA"):
        DERM_TABLE.sample("MELA", np.random.default_rng(0))
    with pytest.raises(ValueError, match="bacterial"):
        CHEST_TABLE.sample("bacteral", np.random.default_rng(0))


def test_score_uses_the_checklist_weights():
    assert seven_point_score({}) == 0
    assert seven_point_score(dict.fromkeys(DERM_TABLE.values, "absent")) == 0
    assert seven_point_score({"pigment_network": "typical", "streaks": "regular"}) == 0
    most = {
        "pigment_network": "atypical",
        "blue_whitish_veil": "present",
        "vascular_structures": "dotted",
        "pigmentation": "localized irregular",
        "streaks": "irregular",
        "dots_and_globules": "irregular",
        "regression_structures": "combinations",
    }
    assert seven_point_score(most) == 10


def test_best_reachable_of_a_table_worked_out_by_hand():
    # Equal priors: "no" says x (0.9 of 0.9 + 0.3), "yes" says y: accuracy (0.9 + 0.7) / 2.
    # AUC: P(y above x) + P(equal) / 2 = 0.7 * 0.9 + (0.7 * 0.1 + 0.3 * 0.9) / 2 = 0.63 + 0.17.
    best = best_reachable(TWO, {"x": 1, "y": 1})
    assert best.accuracy == pytest.approx(0.8)
    assert best.auc == pytest.approx(0.8)
    # With x nine times as frequent: "yes" is x with 0.09, y with 0.07: always say x.
    skewed = best_reachable(TWO, {"x": 9, "y": 1})
    assert skewed.accuracy == pytest.approx(0.9)
    assert skewed.auc == pytest.approx(0.8)


def test_best_reachable_of_groups_that_cannot_be_told_apart():
    same = ConceptTable({"a": ("no", "yes")}, {g: {"a": (0.4, 0.6)} for g in "xyz"})
    best = best_reachable(same, {"x": 1, "y": 1, "z": 2})
    assert best.accuracy == pytest.approx(0.5)
    assert best.auc == pytest.approx(0.5)


def simulate(rng, group, count, groups):
    """Log-likelihood under each of `groups` of `count` cases drawn from `group`, (count, len(groups))."""
    total = np.zeros((count, len(groups)))
    for concept, values in DERM_TABLE.values.items():
        drawn = rng.choice(len(values), count, p=DERM_TABLE.given[group][concept])
        total += np.log([DERM_TABLE.given[g][concept] for g in groups])[:, drawn].T
    return total


def test_best_reachable_agrees_with_a_simulation():
    rng = np.random.default_rng(1)
    groups = ("NEV", "MEL")
    nevus, melanoma = (simulate(rng, group, 6000, groups) @ [-1, 1] for group in groups)
    above = melanoma[:, None] - nevus[None]
    auc = np.mean(above > 1e-9) + np.mean(np.abs(above) <= 1e-9) / 2
    best = best_reachable(DERM_TABLE, {"NEV": 1, "MEL": 1})
    assert best.accuracy == pytest.approx((np.mean(nevus < 0) + np.mean(melanoma > 0)) / 2, abs=0.01)
    assert best.auc == pytest.approx(auc, abs=0.006)
    assert best.accuracy == pytest.approx(0.897, abs=0.01)
    assert best.auc == pytest.approx(0.958, abs=0.01)


def test_three_groups_agree_with_a_simulation():
    rng = np.random.default_rng(2)
    priors = {"NEV": 0.6, "MEL": 0.3, "BCC": 0.1}
    right = 0.0
    for place, (group, share) in enumerate(priors.items()):
        posterior = simulate(rng, group, 20000, tuple(priors)) + np.log(list(priors.values()))
        right += share * np.mean(posterior.argmax(1) == place)
    assert best_reachable(DERM_TABLE, priors).accuracy == pytest.approx(right, abs=0.01)


@pytest.mark.parametrize("priors", [{"x": 1.0}, {"x": 1, "z": 1}, {"x": 1, "y": 0}])
def test_bad_priors_are_refused(priors):
    with pytest.raises(ValueError, match="priors"):
        best_reachable(TWO, priors)


def test_normal_or_pneumonia_against_a_plain_enumeration():
    """An independent formulation: loops over all profiles, and scikit-learn's weighted AUC."""
    rows = []
    for choice in itertools.product(*(range(len(values)) for values in CHEST_TABLE.values.values())):
        chance = {
            group: CHEST_PRIORS[group]
            * np.prod([CHEST_TABLE.given[group][c][i] for c, i in zip(CHEST_TABLE.concepts, choice, strict=True)])
            for group in CHEST_TABLE.groups
        }
        rows.append((chance["normal"], chance["bacterial"] + chance["viral"]))
    healthy, ill = np.array(rows).T
    score = np.tile(ill / (healthy + ill), 2)
    labels = np.repeat([0, 1], len(rows))
    best = best_normal_or_pneumonia()
    assert best.accuracy == pytest.approx(np.maximum(healthy, ill).sum() / sum(CHEST_PRIORS.values()), abs=1e-9)
    assert best.auc == pytest.approx(roc_auc_score(labels, score, sample_weight=np.r_[healthy, ill]), abs=1e-6)
    assert 0.90 <= best.accuracy <= 0.94  # neither trivial nor hopeless
    assert 0.95 <= best.auc <= 0.98
    doubled = {group: 2 * share for group, share in CHEST_PRIORS.items()}
    assert best_normal_or_pneumonia(doubled).accuracy == pytest.approx(best.accuracy)
