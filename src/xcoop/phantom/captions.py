"""Captions for phantom images: they speak of visual concepts, in varied words, and rarely of a diagnosis.

The words stand in `captions.yaml`; a term is a finding, the concept values of which it is true, and its wordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from xcoop.phantom.tables import ABSENT, TABLES
from xcoop.utils.reading import read_yaml

_T = TypeVar("_T")

# A diagnosis stands in this share of the captions whose case has one. Captions in the wild name what is
# seen more often than what it means; this keeps bare class names weak, and concepts strong.
DIAGNOSIS_RATE = 0.03
# Of each finding that is there, how often it is spoken of; of each that is not, how often its absence is.
_SAID = (0.6, 0.95)
_DENIED = 0.12
# How often a finding is named by a term that fits several values ("streaks" for "irregular streaks").
_VAGUE = 0.15

_WORDS: dict[str, Any] = read_yaml(Path(__file__).with_name("captions.yaml"))

DIAGNOSES: dict[str, dict[str, list[str]]] = {kind: _WORDS[kind]["diagnoses"] for kind in TABLES}
"""Of each kind of image, the words for each diagnostic group of its table."""


@dataclass(frozen=True)
class Term:
    """One thing that a caption can say of an image.

    Attributes:
        kind: "derm" or "chest".
        concept: the concept's name in the profile; several, joined by "+", where all must have one of the values.
        values: the values of the concept of which the term is true.
        wordings: the ways to say it; no wording belongs to two terms of a kind.
    """

    kind: str
    concept: str
    values: frozenset[str]
    wordings: tuple[str, ...]

    @property
    def negative(self) -> bool:
        """Whether it speaks of an absence (said less often)."""
        return self.values == {ABSENT}

    def true_of(self, profile: Mapping[str, str]) -> bool:
        """Whether a case shows it; a profile that does not know the concept shows nothing."""
        return all(profile.get(concept) in self.values for concept in self.concept.split("+"))


@cache
def terms(kind: str) -> tuple[Term, ...]:
    """All terms of a kind of image ("derm" or "chest"), in a fixed order.

    Raises:
        KeyError: there is no such kind.
    """
    return tuple(
        Term(kind, concept, frozenset(values.split("|")), tuple(wordings))
        for concept, rows in _WORDS[kind]["terms"].items()
        for values, wordings in rows.items()
    )


def value_terms(kind: str) -> dict[tuple[str, str], Term]:
    """The term that is true of exactly one concept value, for each value that is something to see."""
    exact = [term for term in terms(kind) if len(term.values) == 1 and not term.negative]
    return {(term.concept, next(iter(term.values))): term for term in exact}


@dataclass(frozen=True)
class Caption:
    """A sentence, the terms that it states, and the word for the diagnosis in it, or None."""

    text: str
    said: tuple[Term, ...]
    diagnosis: str | None = None


def make_caption(kind: str, profile: Mapping[str, str], rng: np.random.Generator, group: str | None = None) -> Caption:
    """Describes one image.

    Args:
        kind: "derm" or "chest".
        profile: the value of each concept.
        rng: decides on what is said, in which order and words; the same state gives the same caption.
        group: the diagnostic group, a key of `DIAGNOSES[kind]`; None if the case has none (concepts drawn uniformly).

    Returns:
        A caption which only says what is true of `profile`: most of what is there, a little of what is not; at least
        one finding.

    Raises:
        KeyError: an unknown kind or group.
    """
    true: dict[str, list[Term]] = {}  # of each concept
    for term in terms(kind):
        if term.true_of(profile):
            true.setdefault(term.concept, []).append(term)
    rate = rng.uniform(*_SAID)
    spoken = [found for found in true.values() if rng.random() < (_DENIED if found[0].negative else rate)]
    spoken = spoken or [_pick(list(true.values()), rng)]
    said = []
    for i in rng.permutation(len(spoken)):
        vague = [term for term in spoken[i] if len(term.values) > 1]
        exact = [term for term in spoken[i] if len(term.values) == 1]
        said.append(_pick(vague if vague and (not exact or rng.random() < _VAGUE) else exact, rng))

    diagnosis = None
    frames = _WORDS[kind]["frames"]
    names = DIAGNOSES[kind][group] if group is not None else []
    if names and rng.random() < DIAGNOSIS_RATE:
        diagnosis = _pick(names, rng)
        frames = [frame for frame in frames if "{s}" in frame or "{a}" in frame]
    words = [_pick(term.wordings, rng) for term in said]
    if len(words) > 1 and rng.random() < 0.5:
        findings = ", ".join(words[:-1]) + " and " + words[-1]
    else:
        findings = ", ".join(words)
    return Caption(_filled(_pick(frames, rng), kind, findings, rng, diagnosis), tuple(said), diagnosis)


def phrase(term: Term, rng: np.random.Generator) -> str:
    """A sentence that states one term, in random words."""
    return _filled(_pick(_WORDS[term.kind]["frames"], rng), term.kind, _pick(term.wordings, rng), rng)


def all_sentences(kind: str) -> list[str]:
    """Sentences that together hold every word that a caption of this kind can hold."""
    wordings = [wording for term in terms(kind) for wording in term.wordings]
    names = [name for names in DIAGNOSES[kind].values() for name in names]
    frames = [frame.replace("{s}", "").replace("{f}", "").replace("{a}", "") for frame in _WORDS[kind]["frames"]]
    words = [*wordings, *names, *_WORDS[kind]["subjects"], *_WORDS["views"]]
    return [*words, *frames, "and", "a, b", "a: b.", "x."]


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]


def _filled(frame: str, kind: str, findings: str, rng: np.random.Generator, diagnosis: str | None = None) -> str:
    """A frame with its places taken."""
    subject = diagnosis or _pick(_WORDS[kind]["subjects"], rng)
    view = diagnosis or _pick(_WORDS["views"], rng)
    return frame.replace("{s}", subject).replace("{a}", view).replace("{f}", findings)
