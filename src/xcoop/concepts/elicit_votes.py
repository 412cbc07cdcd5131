"""Several answers vote: which findings a class gets, in which words, and which are dropped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from xcoop.concepts.circular import names_class
from xcoop.concepts.words import Phrase, nonvisual, normal
from xcoop.utils.reading import read_yaml

Meaning = tuple[str, frozenset[str]]
"""The head of a finding, and the words that qualify it."""


@dataclass(frozen=True)
class Elected:
    """A finding that enough answers name, in the words that most of them use."""

    text: str
    votes: int
    answers: int


@dataclass(frozen=True)
class Dropped:
    """A finding that is left out."""

    classname: str
    text: str
    why: str


@dataclass(frozen=True)
class Rules:
    """How votes are counted.

    Attributes:
        template: of the bank; it says of which kind the pictures are.
        threshold: the share of a class's answers that must name a finding, in (0, 1].
        most: findings a class.
    """

    template: str
    threshold: float
    most: int


def elect(
    answers: Mapping[str, Sequence[Sequence[str]]], rules: Rules
) -> tuple[dict[str, list[Elected]], list[Dropped]]:
    """The findings of each class, those with most votes first, and what was dropped.

    An answer has one vote a finding, however often it words it. Findings that no picture shows, that name a
    diagnosis, or that every class has are dropped.

    Args:
        answers: per class the findings of each answer.
        rules: how they are counted.
    """
    dropped: list[Dropped] = []
    elected: dict[str, dict[Meaning, Elected]] = {}
    for classname, lists in answers.items():
        counted = _count(lists)
        faults = {meaning: _fault(one.text, answers, rules.template) for meaning, one in counted.items()}
        dropped += [Dropped(classname, counted[meaning].text, why) for meaning, why in faults.items() if why]
        elected[classname] = {
            meaning: one
            for meaning, one in counted.items()
            if not faults[meaning] and one.votes >= rules.threshold * one.answers
        }
    for meaning in _shared(elected):
        dropped += [Dropped(name, own.pop(meaning).text, "every class has it") for name, own in elected.items()]
    ranked = {name: sorted(own.values(), key=lambda one: -one.votes) for name, own in elected.items()}
    return {name: own[: rules.most] for name, own in ranked.items()}, dropped


def meaning(text: str) -> Meaning:
    """What is compared of a finding: its head and the set of its other words, with one word for all of a meaning.

    "Irregular blood vessels" and "atypical vessel" are one; so are "network of pigment" and "pigment network".
    """
    words = _same(normal(text))
    joints = [i for i, word in enumerate(words) if word in _vocabulary().joints]
    head = words[: joints[0]] if joints and joints[0] else words
    rest = [word for word in words if word not in _vocabulary().joints]
    return (head[-1] if head else "", frozenset(rest) - {head[-1]} if head else frozenset(rest))


def _count(lists: Sequence[Sequence[str]]) -> dict[Meaning, Elected]:
    """Per meaning its votes, one an answer at most."""
    wordings: dict[Meaning, Counter[str]] = {}
    for texts in lists:
        named: dict[Meaning, str] = {}
        for text in texts:
            named.setdefault(meaning(text), _spelling(text))
        for found, text in named.items():
            wordings.setdefault(found, Counter())[text] += 1
    return {found: Elected(_wording(words), words.total(), len(lists)) for found, words in wordings.items() if found[0]}


def _wording(words: Counter[str]) -> str:
    """What most answers say; of equals the shortest, then the first."""
    return min(words, key=lambda text: (-words[text], len(text)))


def _fault(text: str, classes: Mapping[str, object], template: str) -> str:
    """Why a finding cannot stand in a bank; "" if it can."""
    if words := nonvisual(text, template):
        return f"not visible: {', '.join(words)}"
    if named := [name for name in classes if names_class(text, name)]:
        return f"names the diagnosis {named[0]}"
    return ""


def _shared(elected: Mapping[str, Mapping[Meaning, Elected]]) -> list[Meaning]:
    """What all of several classes have."""
    own = list(elected.values())
    return [found for found in own[0] if all(found in other for other in own)] if len(own) > 1 else []


def _spelling(text: str) -> str:
    """A text that begins with a capital by chance ("Blue veil", not "B lines" or "CT sign") in lower case."""
    return text[0].lower() + text[1:] if len(text) > 2 and text[0].isupper() and text[1].islower() else text


@dataclass(frozen=True)
class _Vocabulary:
    same: tuple[tuple[Phrase, str], ...]  # longest first
    fillers: tuple[Phrase, ...]  # longest first
    joints: frozenset[str]


@cache
def _vocabulary() -> _Vocabulary:
    content: Any = read_yaml(Path(__file__).with_name("elicit_words.yaml"))
    same = [(normal(words), "-".join(normal(line[0]))) for line in content["same"] for words in line]
    fillers = [normal(words) for words in content["fillers"]]
    return _Vocabulary(
        tuple(sorted(same, key=lambda pair: -len(pair[0]))),
        tuple(sorted(fillers, key=lambda words: -len(words))),
        frozenset(content["joints"]),
    )


def _same(words: Phrase) -> list[str]:
    """The words without fillers, one word for each meaning."""
    found: list[str] = []
    entries = [*((words, [word]) for words, word in _vocabulary().same), *((f, []) for f in _vocabulary().fillers)]
    while words:
        match = next(((entry, put) for entry, put in entries if words[: len(entry)] == entry), (words[:1], [words[0]]))
        found += match[1]
        words = words[len(match[0]) :]
    return found
