"""Captions for phantom pictures: they speak of visual concepts, in varied words, and rarely of a diagnosis."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from xcoop.phantom.terms import Term, terms

_T = TypeVar("_T")

# A diagnosis stands in this share of the captions whose case has one. Captions in the wild name what is
# seen more often than what it means; this keeps bare class names weak, and concepts strong.
DIAGNOSIS_RATE = 0.03
# Of each finding that is there, how often it is spoken of; of each that is not, how often its absence is.
_SAID = (0.6, 0.95)
_DENIED = 0.12
# How often a finding is named by a term that fits several values ("streaks" for "irregular streaks").
_VAGUE = 0.15

SUBJECTS: dict[str, tuple[str, ...]] = {
    "derm": ("skin lesion", "lesion", "pigmented lesion", "skin spot", "pigmented skin lesion"),
    "chest": ("chest", "thorax", "patient", "child"),
}

_VIEWS = ("frontal", "pediatric", "portable", "supine", "single")

# `{s}` is the subject and `{a}` a word for the view, or either the diagnosis; `{f}` is the list of findings.
_FRAMES: dict[str, tuple[str, ...]] = {
    "derm": (
        "a photo of a {s} with {f}.",
        "a photo of a {s}, with {f}.",
        "a photo of a {s}, {f}.",
        "a dermoscopic photo of a {s}, {f}.",
        "a dermoscopic photo of a {s}, with {f}.",
        "a dermoscopic photo of a {s} with {f}.",
        "a dermoscopic image of a {s} showing {f}.",
        "a dermoscopic image showing {f}.",
        "a dermoscopy image of a {s} with {f}.",
        "dermoscopy: {f}.",
        "dermoscopy of a {s}: {f}.",
        "{s} with {f}.",
        "{f}.",
        "{f} in a {s}.",
    ),
    "chest": (
        "a photo of a {s} with {f}.",
        "a photo of a {s}, {f}.",
        "a chest x-ray of a {s}, {f}.",
        "a chest x-ray of a {s}, with {f}.",
        "a chest x-ray of a {s} with {f}.",
        "a chest x-ray of {s}, {f}.",
        "a chest x-ray of {s} with {f}.",
        "a {a} chest x-ray with {f}.",
        "a {a} chest x-ray with {f}.",
        "a {a} chest x-ray showing {f}.",
        "a photo of a {a} chest x-ray, {f}.",
        "chest x-ray with {f}.",
        "a chest x-ray showing {f}.",
        "frontal chest radiograph, {f}.",
        "a chest radiograph of a {s}: {f}.",
        "radiograph of the {s}: {f}.",
        "{s} with {f}.",
        "{f}.",
    ),
}

# The words for each diagnostic group of the tables.
DIAGNOSES: dict[str, dict[str, tuple[str, ...]]] = {
    "derm": {
        "NEV": ("nevus", "melanocytic nevus"),
        "MEL": ("melanoma", "malignant melanoma"),
        "BCC": ("basal cell carcinoma",),
        "SK": ("seborrheic keratosis",),
        "MISC": ("benign lesion",),
    },
    "chest": {
        "normal": ("normal",),
        "bacterial": ("pneumonia", "bacterial pneumonia"),
        "viral": ("pneumonia", "viral pneumonia"),
    },
}


@dataclass(frozen=True)
class Caption:
    """A sentence, and what it says.

    Attributes:
        text: the sentence.
        said: the terms that it states.
        diagnosis: the word for the diagnosis in it, or None.
    """

    text: str
    said: tuple[Term, ...]
    diagnosis: str | None = None


def make_caption(kind: str, profile: Mapping[str, str], rng: np.random.Generator, group: str | None = None) -> Caption:
    """Describes one picture.

    Args:
        kind: "derm" or "chest".
        profile: the value of each concept.
        rng: decides on what is said, in which order and words; the same state gives the same caption.
        group: the diagnostic group, a key of `DIAGNOSES[kind]`; None if the case has none (concepts drawn uniformly).

    Returns:
        A caption which only says what is true of `profile`.

    Raises:
        KeyError: an unknown kind or group.
    """
    said = _choose(kind, profile, rng)
    diagnosis = None
    frames = _FRAMES[kind]
    names = DIAGNOSES[kind][group] if group is not None else ()
    if names and rng.random() < DIAGNOSIS_RATE:
        diagnosis = _pick(names, rng)
        frames = tuple(frame for frame in frames if "{s}" in frame or "{a}" in frame)
    findings = _listed([_pick(term.wordings, rng) for term in said], rng)
    return Caption(_filled(_pick(frames, rng), kind, findings, rng, diagnosis), said, diagnosis)


def phrase(term: Term, rng: np.random.Generator) -> str:
    """A sentence that states one term, in random words."""
    return _filled(_pick(_FRAMES[term.kind], rng), term.kind, _pick(term.wordings, rng), rng)


def all_sentences(kind: str) -> list[str]:
    """Sentences that together hold every word that a caption of this kind can hold."""
    words = [wording for term in terms(kind) for wording in term.wordings]
    names = [name for names in DIAGNOSES[kind].values() for name in names]
    frames = [frame.replace("{s}", "").replace("{f}", "").replace("{a}", "") for frame in _FRAMES[kind]]
    return [*words, *names, *SUBJECTS[kind], *_VIEWS, *frames, "and", "a, b", "a: b.", "x."]


def said_in(kind: str, text: str) -> tuple[set[Term], set[str]]:
    """Reads a caption back: the terms and the diagnosis words that stand in it (the longest wording wins)."""
    by_words, pattern = _reader(kind)
    found = pattern.findall(text)
    said = {by_words[words] for words in found if words in by_words}
    return said, {words for words in found if words not in by_words}


@cache
def _reader(kind: str) -> tuple[dict[str, Term], re.Pattern[str]]:
    by_words = {wording: term for term in terms(kind) for wording in term.wordings}
    names = {name for names in DIAGNOSES[kind].values() for name in names}
    longest_first = sorted({*by_words, *names}, key=len, reverse=True)
    return by_words, re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, longest_first)) + r")(?![\w-])")


def _choose(kind: str, profile: Mapping[str, str], rng: np.random.Generator) -> tuple[Term, ...]:
    """The terms to state, in random order: most of what is there, a little of what is not; at least one."""
    true = _true_terms(kind, profile)
    rate = rng.uniform(*_SAID)
    spoken = [names for names in true if rng.random() < (_DENIED if names[0].negative else rate)]
    spoken = spoken or [_pick(true, rng)]
    order = rng.permutation(len(spoken))
    return tuple(_word(spoken[i], rng) for i in order)


def _word(names: Sequence[Term], rng: np.random.Generator) -> Term:
    """One of the terms that are true of one concept: mostly an exact one."""
    vague = [term for term in names if len(term.values) > 1]
    exact = [term for term in names if len(term.values) == 1]
    return _pick(vague if vague and (not exact or rng.random() < _VAGUE) else exact, rng)


def _true_terms(kind: str, profile: Mapping[str, str]) -> list[list[Term]]:
    """Of each concept that can be spoken of, the terms that are true."""
    by_concept: dict[str, list[Term]] = {}
    for term in terms(kind):
        if term.true_of(profile):
            by_concept.setdefault(term.concept, []).append(term)
    return list(by_concept.values())


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]


def _filled(frame: str, kind: str, findings: str, rng: np.random.Generator, diagnosis: str | None = None) -> str:
    """A frame with its places taken."""
    subject, view = (diagnosis, diagnosis) if diagnosis else (_pick(SUBJECTS[kind], rng), _pick(_VIEWS, rng))
    return frame.replace("{s}", subject).replace("{a}", view).replace("{f}", findings)


def _listed(words: Sequence[str], rng: np.random.Generator) -> str:
    """Either "a, b and c" or "a, b, c"."""
    if len(words) > 1 and rng.random() < 0.5:
        return ", ".join(words[:-1]) + " and " + words[-1]
    return ", ".join(words)
