"""The concept tables, the best that can be reached with them, and captions.

Captions say only what is true, in many words, the same for the same seed, and seldom a diagnosis.
"""

import itertools
import re
from functools import cache

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xcoop.backbones.clip_model import import_clip
from xcoop.concepts.bank import load_bank
from xcoop.phantom.tables import (
    CHEST_TABLE,
    DERM_TABLE,
    DIAGNOSIS_RATE,
    TABLES,
    ConceptTable,
    Term,
    all_sentences,
    best_reachable,
    make_caption,
    phrase,
    seven_point_score,
    terms,
    value_terms,
    words,
)

TWO = ConceptTable({"a": ("no", "yes")}, {"x": {"a": (0.9, 0.1)}, "y": {"a": (0.3, 0.7)}})
CHEST_SHARES = {"normal": 0.2706, "bacterial": 0.4752, "viral": 0.2542}  # of the published set


def test_groups_and_absence():
    assert list(DERM_TABLE.given) == ["NEV", "MEL", "BCC", "SK", "MISC"]
    assert list(CHEST_TABLE.given) == ["normal", "bacterial", "viral"]
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


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_row_is_a_distribution_over_the_values_of_its_concept(table):
    for rows in table.given.values():
        assert set(rows) == set(table.values)
        for concept, row in rows.items():
            assert len(row) == len(table.values[concept])
            assert min(row) >= 0
            assert sum(row) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("kind", "group"), [(kind, group) for kind in TABLES for group in (*TABLES[kind].given, None)])
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
    ("table", "priors", "positive", "accuracy", "auc"),
    [
        (DERM_TABLE, {"NEV": 1, "MEL": 1}, ("MEL",), (0.887, 0.907), (0.948, 0.968)),
        (CHEST_TABLE, CHEST_SHARES, ("bacterial", "viral"), (0.90, 0.94), (0.95, 0.98)),  # neither trivial nor hopeless
    ],
)
def test_best_reachable_against_a_plain_enumeration(table, priors, positive, accuracy, auc):
    """An independent formulation: loops over all profiles, and scikit-learn's weighted AUC."""
    rows = []
    for choice in itertools.product(*map(range, map(len, table.values.values()))):
        joint = {
            group: share * np.prod([table.given[group][c][i] for c, i in zip(table.values, choice, strict=True)])
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


def cases(kind, number, seed=0):
    """Profiles with their groups, half of them without."""
    rng = np.random.default_rng(seed)
    table = TABLES[kind]
    for i in range(number):
        group = list(table.given)[i % len(table.given)] if i % 2 else None
        yield (table.sample(group, rng) if group else table.sample_uniform(rng)), group


def read_back(kind, text):
    """The terms and the diagnosis words that stand in a caption (the longest wording wins)."""
    by_words, pattern = reader(kind)
    found = pattern.findall(text)
    return {by_words[w] for w in found if w in by_words}, {w for w in found if w not in by_words}


@cache
def reader(kind):
    by_words = {wording: term for term in terms(kind) for wording in term.wordings}
    names = {name for names in words()[kind]["diagnoses"].values() for name in names}
    longest_first = sorted({*by_words, *names}, key=len, reverse=True)
    return by_words, re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, longest_first)) + r")(?![\w-])")


@pytest.mark.parametrize("kind", TABLES)
def test_captions_read_back_say_what_they_claim_and_only_what_is_true(kind):
    rng = np.random.default_rng(5)
    for profile, group in cases(kind, 400):
        caption = make_caption(kind, profile, rng, group)
        said, names = read_back(kind, caption.text)
        assert said == set(caption.said), caption.text
        assert said
        assert all(term.true_of(profile) for term in said), caption.text
        assert names == ({caption.diagnosis} if caption.diagnosis else set()), caption.text
        assert "{" not in caption.text


@pytest.mark.parametrize("kind", TABLES)
def test_a_diagnosis_is_named_rarely_rightly_and_never_for_uniform_concepts(kind):
    rng = np.random.default_rng(6)
    named = {True: 0, False: 0}
    for profile, group in cases(kind, 3000, seed=1):
        caption = make_caption(kind, profile, rng, group)
        named[group is not None] += caption.diagnosis is not None
        if caption.diagnosis:
            assert caption.diagnosis in words()[kind]["diagnoses"][group]
    assert named[False] == 0
    # 1,500 captions at the stated rate: four standard deviations.
    spread = 4 * (DIAGNOSIS_RATE * (1 - DIAGNOSIS_RATE) / 1500) ** 0.5
    assert abs(named[True] / 1500 - DIAGNOSIS_RATE) < spread


@pytest.mark.parametrize("kind", TABLES)
def test_the_same_seed_gives_the_same_captions_and_another_seed_others(kind):
    def captions(seed):
        rng = np.random.default_rng(seed)
        return [make_caption(kind, profile, rng, group).text for profile, group in cases(kind, 40)]

    assert captions(3) == captions(3)
    assert len(set(captions(3)) & set(captions(4))) < 10


@pytest.mark.parametrize("kind", TABLES)
def test_every_wording_and_phrase_states_its_term_alone(kind):
    rng = np.random.default_rng(0)
    for term in terms(kind):
        for wording in term.wordings:
            assert read_back(kind, f"a photo, {wording}.") == ({term}, set())
        assert read_back(kind, phrase(term, rng)) == ({term}, set())


@pytest.mark.parametrize("kind", TABLES)
def test_every_value_of_the_tables_can_be_spoken_of(kind):
    for concept, values in TABLES[kind].values.items():
        for value in values:
            exact = [t for t in terms(kind) if t.concept == concept and t.values == {value}]
            assert len(exact) == 1, (concept, value)
            assert exact[0].negative == (value == "absent")
    assert len(value_terms(kind)) == sum(len(values) - 1 for values in TABLES[kind].values.values())


@pytest.mark.parametrize("kind", TABLES)
def test_a_term_over_several_concepts_needs_all_of_them(kind):
    both = Term(kind, "a+b", frozenset({"absent"}), ("clear",))
    assert both.true_of({"a": "absent", "b": "absent"})
    assert not both.true_of({"a": "absent", "b": "present"})
    assert not both.true_of({"a": "absent"})


@pytest.mark.parametrize("kind", TABLES)
def test_the_concepts_of_the_banks_are_words_of_the_captions(kind):
    """What is not drawn may stand in a bank too; of the main classes every concept must be known."""
    bank, main = {"derm": ("phantom", ("nevus", "melanoma")), "chest": ("pneumonia", ("normal", "pneumonia"))}[kind]
    known = {wording for term in terms(kind) for wording in term.wordings}
    for name in main:
        assert set(load_bank(bank).texts(name)) <= known


@pytest.mark.parametrize("kind", TABLES)
def test_all_sentences_hold_every_token_of_the_captions(kind):
    tokenize = import_clip().tokenize
    known = set(tokenize(all_sentences(kind)).flatten().tolist())
    rng = np.random.default_rng(8)
    texts = [make_caption(kind, profile, rng, group).text for profile, group in cases(kind, 300, seed=2)]
    assert set(tokenize(texts).flatten().tolist()) <= known
