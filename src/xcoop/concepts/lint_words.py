"""The linter's rules about words: of concepts, of the template, of citations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from xcoop.concepts.bank import ConceptBank
from xcoop.concepts.circular import names_class
from xcoop.concepts.words import Phrase, found_in, nonvisual_by_group, normal, vocabulary

ERROR, WARNING, NOTE = "error", "warning", "note"
YEAR = re.compile(r"\b(1[89]|20)\d\d\b")
SHORTEST_CITATION = 20  # characters


@dataclass(frozen=True)
class Fault:
    """What a rule found.

    Attributes:
        severity: `error`: the bank misleads or cannot be used; `warning`: it should be better; `note`: worth knowing.
        message: what is wrong, without the place.
        classname: the class, if it is in one.
        concept: the concept, if it is in one.
    """

    severity: str
    message: str
    classname: str = ""
    concept: str = ""


def nonvisual_words(bank: ConceptBank) -> Iterator[Fault]:
    """Words of treatment, epidemiology, symptoms, and whatever else no picture shows."""
    for classname, text in _concepts(bank):
        for word, group in nonvisual_by_group(text, bank.template):
            yield Fault(ERROR, f"{word!r} is not visible ({group.name}: {group.why})", classname, text)


def diagnoses(bank: ConceptBank) -> Iterator[Fault]:
    """Concepts that name their own class, or another one."""
    for classname, text in _concepts(bank):
        if words := names_class(text, classname):
            yield Fault(ERROR, f"names its own class by {_quoted(words)}: that explains nothing", classname, text)
        for other in bank.classes:
            if other != classname and (words := names_class(text, other)) and not names_class(text, classname):
                yield Fault(WARNING, f"names the class {other!r} by {_quoted(words)}", classname, text)


def hedges(bank: ConceptBank) -> Iterator[Fault]:
    """Doubt and inference, where a finding should stand by itself."""
    for classname, text in _concepts(bank):
        if words := found_in(text, vocabulary().phrases("hedges")):
            yield Fault(WARNING, f"{_quoted(words)}: name the finding alone", classname, text)


def negations(bank: ConceptBank) -> Iterator[Fault]:
    """What is said not to be there."""
    for classname, text in _concepts(bank):
        if words := found_in(text, vocabulary().phrases("negations")):
            yield Fault(NOTE, f"{_quoted(words)}: CLIP-like text towers hardly hear it", classname, text)


def spellings(bank: ConceptBank) -> Iterator[Fault]:
    """Concepts that differ in spelling, hyphens or number alone."""
    first: dict[Phrase, tuple[str, str]] = {}
    told: set[str] = set()
    for classname, text in _concepts(bank):
        owner, known = first.setdefault(normal(text), (classname, text))
        if text not in (known, *told):
            told.add(text)
            yield Fault(WARNING, f"is {known!r} of class {owner!r} in another spelling", classname, text)


def template(bank: ConceptBank) -> Iterator[Fault]:
    """Sentences that would not read as one."""
    if bank.template[-1] not in ".!?":
        yield Fault(WARNING, f"the template {bank.template!r} does not end in a full stop")
    if re.search(r"\s{2}|\s[.,;:]", bank.template):
        yield Fault(WARNING, f"the template {bank.template!r} has a blank too many")
    if not re.search(r"\w", re.sub(r"\{\w+\}", "", bank.template)):
        yield Fault(WARNING, f"the template {bank.template!r} does not say what kind of picture it is")
    for classname in bank.classes:
        if article := _wrong_article(bank.template, classname):
            yield Fault(NOTE, f"the template makes {article!r} of it", classname)
    for classname, text in _concepts(bank):
        if text[-1] in ".,;:!?" or "{" in text:
            yield Fault(WARNING, "ends in punctuation, or has a brace; the template adds its own", classname, text)


def sources(bank: ConceptBank) -> Iterator[Fault]:
    """Citations that nobody cites, or that a reader could not find."""
    cited = {concept.source for concepts in bank.classes.values() for concept in concepts}
    for key, citation in bank.sources.items():
        if key not in cited:
            yield Fault(WARNING, f"the source {key!r} is never cited")
        if len(citation) < SHORTEST_CITATION:
            yield Fault(WARNING, f"the source {key!r} is no citation that could be found: {citation!r}")
        elif not YEAR.search(citation):
            yield Fault(WARNING, f"the source {key!r} has no year: {citation!r}")


def review(bank: ConceptBank) -> Iterator[Fault]:
    """Whether a clinician has read it."""
    if not bank.reviewed_by:
        yield Fault(NOTE, "reviewed by nobody so far")


def _concepts(bank: ConceptBank) -> Iterator[tuple[str, str]]:
    for classname in bank.classes:
        for text in bank.texts(classname):
            yield classname, text


def _wrong_article(sentence: str, classname: str) -> str:
    """`a abnormal` or `an normal`, where a template does that; a `u` is let pass, it may be heard either way."""
    match, first = re.search(r"\b(an?) \{class\}", sentence), classname[:1].lower()
    if not match or first == "u" or (match[1] == "an") == (first in "aeio"):
        return ""
    return f"{match[1]} {classname}"


def _quoted(words: list[str]) -> str:
    return ", ".join(map(repr, words))
