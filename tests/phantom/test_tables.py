"""The concept tables, and the best that can be reached with them."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xcoop.phantom.tables import CHEST_TABLE, DERM_TABLE, TABLES, ConceptTable, best_reachable, seven_point_score

TWO = ConceptTable({"a": ("no", "yes")}, {"x": {"a": (0.9, 0.1)}, "y": {"a": (0.3, 0.7)}})
CHEST_SHARES = {"normal": 0.2706, "bacterial": 0.4752, "viral": 0.2542}  # of the published set


def test_groups_and_absence():
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


@pytest.mark.parametrize(
    ("kind", "group"), [(kind, group) for kind in TABLES for group in (*TABLES[kind].groups, None)]
)
def test_samples_follow_the_table(kind, group):
    """Those of no group have every value equally often."""
    rng = np.random.default_rng(0)
    table = TABLES[kind]
    cases = [table.sample(group, rng) if group else table.sample_uniform(rng) for _ in range(2000)]
    for concept, values in table.values.items():
        shares = table.given[group][concept] if group else [1 / len(values)] * len(values)
        for value, share in zip(values, shares, strict=True):
            found = np.mean([case[concept] == value for case in cases])
            assert abs(found - share) < 4.5 * np.sqrt(share * (1 - share) / len(cases)) + 1e-9, (concept, value)


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
    best = best_reachable(TWO, {"x": 1, "y": 1}, {"y"})
    assert best.accuracy == pytest.approx(0.8)
    assert best.auc == pytest.approx(0.8)
    # With x nine times as frequent: "yes" is x with 0.09, y with 0.07: always say x.
    skewed = best_reachable(TWO, {"x": 9, "y": 1}, {"y"})
    assert skewed.accuracy == pytest.approx(0.9)
    assert skewed.auc == pytest.approx(0.8)


def test_best_reachable_of_groups_that_cannot_be_told_apart():
    same = ConceptTable({"a": ("no", "yes")}, {g: {"a": (0.4, 0.6)} for g in "xyz"})
    best = best_reachable(same, {"x": 1, "y": 1, "z": 2}, {"z"})
    assert best.accuracy == pytest.approx(0.5)
    assert best.auc == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("priors", "positive"),
    [({"x": 1.0}, "x"), ({"x": 1, "z": 1}, "x"), ({"x": 1, "y": 0}, "x"), ({"x": 1, "y": 1}, "z")],
)
def test_bad_priors_are_refused(priors, positive):
    with pytest.raises(ValueError, match="priors"):
        best_reachable(TWO, priors, positive)


@pytest.mark.parametrize(
    ("table", "priors", "positive", "accuracy", "auc"),
    [
        (DERM_TABLE, {"NEV": 1, "MEL": 1}, ("MEL",), (0.887, 0.907), (0.948, 0.968)),
        (CHEST_TABLE, CHEST_SHARES, ("bacterial", "viral"), (0.90, 0.94), (0.95, 0.98)),  # neither trivial nor hopeless
    ],
)
def test_best_reachable_against_a_plain_enumeration(table, priors, positive, accuracy, auc):
    """An independent formulation: loops over all profiles, and scikit-learn's weighted AUC."""
    rows = []
    for choice in itertools.product(*(range(count) for count in table.value_counts)):
        joint = {
            group: share * np.prod([table.given[group][c][i] for c, i in zip(table.concepts, choice, strict=True)])
            for group, share in priors.items()
        }
        rows.append([sum(joint[g] for g in joint if (g in positive) == side) for side in (False, True)])
    healthy, ill = np.array(rows).T
    score, labels = np.tile(ill / (healthy + ill), 2), np.repeat([0, 1], len(rows))
    best = best_reachable(table, priors, positive)
    assert best.accuracy == pytest.approx(np.maximum(healthy, ill).sum() / sum(priors.values()), abs=1e-9)
    assert best.auc == pytest.approx(roc_auc_score(labels, score, sample_weight=np.r_[healthy, ill]), abs=1e-6)
    assert accuracy[0] <= best.accuracy <= accuracy[1]
    assert auc[0] <= best.auc <= auc[1]
    doubled = {group: 2 * share for group, share in priors.items()}
    assert best_reachable(table, doubled, positive).accuracy == pytest.approx(best.accuracy)
