"""Captions say only what is true, in many words, the same for the same seed, and seldom a diagnosis."""

import re
from functools import cache

import numpy as np
import pytest

from xcoop.backbones.clip_model import import_clip
from xcoop.concepts.bank import load_bank
from xcoop.phantom.captions import (
    DIAGNOSES,
    DIAGNOSIS_RATE,
    Term,
    all_sentences,
    make_caption,
    phrase,
    terms,
    value_terms,
)
from xcoop.phantom.tables import TABLES

pytestmark = pytest.mark.parametrize("kind", TABLES)


def cases(kind, number, seed=0):
    """Profiles with their groups, half of them without."""
    rng = np.random.default_rng(seed)
    table = TABLES[kind]
    for i in range(number):
        group = table.groups[i % len(table.groups)] if i % 2 else None
        yield (table.sample(group, rng) if group else table.sample_uniform(rng)), group


def read_back(kind, text):
    """The terms and the diagnosis words that stand in a caption (the longest wording wins)."""
    by_words, pattern = reader(kind)
    found = pattern.findall(text)
    return {by_words[w] for w in found if w in by_words}, {w for w in found if w not in by_words}


@cache
def reader(kind):
    by_words = {wording: term for term in terms(kind) for wording in term.wordings}
    names = {name for names in DIAGNOSES[kind].values() for name in names}
    longest_first = sorted({*by_words, *names}, key=len, reverse=True)
    return by_words, re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, longest_first)) + r")(?![\w-])")


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


def test_a_diagnosis_is_named_rarely_rightly_and_never_for_uniform_concepts(kind):
    rng = np.random.default_rng(6)
    named = {True: 0, False: 0}
    for profile, group in cases(kind, 3000, seed=1):
        caption = make_caption(kind, profile, rng, group)
        named[group is not None] += caption.diagnosis is not None
        if caption.diagnosis:
            assert caption.diagnosis in DIAGNOSES[kind][group]
    assert named[False] == 0
    # 1,500 captions at the stated rate: four standard deviations.
    spread = 4 * (DIAGNOSIS_RATE * (1 - DIAGNOSIS_RATE) / 1500) ** 0.5
    assert abs(named[True] / 1500 - DIAGNOSIS_RATE) < spread


def test_the_same_seed_gives_the_same_captions_and_another_seed_others(kind):
    def captions(seed):
        rng = np.random.default_rng(seed)
        return [make_caption(kind, profile, rng, group).text for profile, group in cases(kind, 40)]

    assert captions(3) == captions(3)
    assert len(set(captions(3)) & set(captions(4))) < 10


def test_every_wording_and_phrase_states_its_term_alone(kind):
    rng = np.random.default_rng(0)
    for term in terms(kind):
        for wording in term.wordings:
            assert read_back(kind, f"a photo, {wording}.") == ({term}, set())
        assert read_back(kind, phrase(term, rng)) == ({term}, set())


def test_every_value_of_the_tables_can_be_spoken_of(kind):
    for concept, values in TABLES[kind].values.items():
        for value in values:
            exact = [t for t in terms(kind) if t.concept == concept and t.values == {value}]
            assert len(exact) == 1, (concept, value)
            assert exact[0].negative == (value == "absent")
    assert len(value_terms(kind)) == sum(len(values) - 1 for values in TABLES[kind].values.values())


def test_a_term_over_several_concepts_needs_all_of_them(kind):
    both = Term(kind, "a+b", frozenset({"absent"}), ("clear",))
    assert both.true_of({"a": "absent", "b": "absent"})
    assert not both.true_of({"a": "absent", "b": "present"})
    assert not both.true_of({"a": "absent"})


def test_the_concepts_of_the_banks_are_words_of_the_captions(kind):
    """What is not drawn may stand in a bank too; of the main classes every concept must be known."""
    bank, main = {"derm": ("phantom", ("nevus", "melanoma")), "chest": ("pneumonia", ("normal", "pneumonia"))}[kind]
    known = {wording for term in terms(kind) for wording in term.wordings}
    for name in main:
        assert set(load_bank(bank).texts(name)) <= known


def test_all_sentences_hold_every_token_of_the_captions(kind):
    tokenize = import_clip().tokenize
    known = set(tokenize(all_sentences(kind)).flatten().tolist())
    rng = np.random.default_rng(8)
    texts = [make_caption(kind, profile, rng, group).text for profile, group in cases(kind, 300, seed=2)]
    assert set(tokenize(texts).flatten().tolist()) <= known


def test_an_unknown_group_is_refused(kind):
    profile = TABLES[kind].sample_uniform(np.random.default_rng(0))
    with pytest.raises(KeyError, match="flu"):
        make_caption(kind, profile, np.random.default_rng(0), "flu")
