"""What is wrong with a concept bank, beyond its schema: findings of rules, each with what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xcoop.concepts.bank import BankError, ConceptBank, load_bank, same_name
from xcoop.concepts.mining import FEWEST, MOST
from xcoop.concepts.sentences import clinical_sentences, fill
from xcoop.concepts.words import Phrase, entries, found_in, names_class, nonvisual_by_group, normal

SEVERITIES = ERROR, WARNING, NOTE = "error", "warning", "note"
YEAR = re.compile(r"\b(1[89]|20)\d\d\b")
SHORTEST_CITATION = 20  # characters


@dataclass(frozen=True)
class Finding:
    """One fault of a bank."""

    severity: str  # error: the bank misleads or cannot be used; warning: it should be better; note: worth knowing
    rule: str
    bank: str  # its name, or its file if it cannot be read
    classname: str  # "" if it is in no single class
    concept: str  # "" if it is in no single concept
    message: str


@dataclass(frozen=True)
class Fault:
    """What a rule found: a `Finding` without the names of rule and bank."""

    severity: str
    message: str
    classname: str = ""
    concept: str = ""


@dataclass(frozen=True)
class Limit:
    """A text context: which backbones have it, and whether a text fits."""

    backbones: str
    fits: Callable[[str], bool]


@dataclass(frozen=True)
class Use:
    """One task of a dataset that takes its concepts from a bank."""

    dataset: str
    task: str
    classes: tuple[str, ...]


def check(bank: str | Path, limits: Sequence[Limit] = (), uses: Sequence[Use] = ()) -> list[Finding]:
    """All findings on a bank, errors first.

    Args:
        bank: a name or a YAML file; a file that breaks the schema is a finding.
        limits: text contexts that the bank's sentences must fit into.
        uses: tasks that the bank must serve.

    Raises:
        FileNotFoundError: no such bank or file.
    """
    try:
        loaded = load_bank(bank)
    except BankError as error:
        return [Finding(ERROR, "schema", str(bank), "", "", str(error))]
    faults = {name: rule(loaded) for name, rule in RULES.items()}
    faults |= {"context": _context(loaded, limits), "task": _tasks(loaded, uses)}
    findings = [
        Finding(fault.severity, name, loaded.name, fault.classname, fault.concept, fault.message)
        for name, found in faults.items()
        for fault in found
    ]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _concepts(bank: ConceptBank) -> Iterator[tuple[str, str]]:
    for classname in bank.classes:
        for text in bank.texts(classname):
            yield classname, text


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(map(repr, words))


# Rules about classes: how many concepts they have, and whether these tell them apart.


def _number(bank: ConceptBank) -> Iterator[Fault]:
    for classname, concepts in bank.classes.items():
        if not FEWEST <= len(concepts) <= MOST:
            yield Fault(WARNING, f"{len(concepts)} concepts; {FEWEST} to {MOST} are good", classname)


def _shared(bank: ConceptBank) -> Iterator[Fault]:
    owners: dict[Phrase, tuple[str, dict[str, None]]] = {}  # a concept as first written, and the classes that have it
    for classname, text in _concepts(bank):
        owners.setdefault(normal(text), (text, {}))[1][classname] = None
    for text, names in owners.values():
        if len(names) == len(bank.classes) > 1:
            yield Fault(ERROR, "every class has it, so it tells none from another", concept=text)
        elif len(names) > 1:
            yield Fault(NOTE, f"stands in several classes: {', '.join(names)}", concept=text)


def _alike(bank: ConceptBank) -> Iterator[Fault]:
    first: dict[frozenset[Phrase], str] = {}
    for classname in bank.classes:
        other = first.setdefault(frozenset(map(normal, bank.texts(classname))), classname)
        if other != classname:
            yield Fault(ERROR, f"has the very concepts of {other!r}: nothing tells the two apart", classname)


def _tasks(bank: ConceptBank, uses: Iterable[Use]) -> Iterator[Fault]:
    """Each class of a task needs concepts, and one that all its classes share says nothing there."""
    known = {same_name(name) for name in bank.classes}
    for use in uses:
        where = f"{use.dataset}, task {use.task}"
        if missing := [name for name in use.classes if same_name(name) not in known]:
            yield from (Fault(ERROR, f"the bank has no concepts for this class of {where}", name) for name in missing)
            continue
        for fault in _shared(bank.for_classes(use.classes)):
            if fault.severity == ERROR and len(use.classes) < len(bank.classes):
                yield replace(fault, message=f"{fault.message} in {where} ({', '.join(use.classes)})")


def _context(bank: ConceptBank, limits: Iterable[Limit]) -> Iterator[Fault]:
    for limit in limits:
        for classname in bank.classes:
            alone = [text for text in bank.texts(classname) if not limit.fits(fill(bank.template, classname, [text]))]
            for text in alone:
                yield Fault(ERROR, f"too long for the text context of {limit.backbones} even alone", classname, text)
            if not alone and (count := len(clinical_sentences(bank, classname, limit.fits))) > 1:
                yield Fault(NOTE, f"its concepts take {count} sentences in {limit.backbones}", classname)


# Rules about words: of concepts, of the template, of citations.


def _nonvisual(bank: ConceptBank) -> Iterator[Fault]:
    for classname, text in _concepts(bank):
        for word, group in nonvisual_by_group(text, bank.template):
            yield Fault(ERROR, f"{word!r} is not visible ({group.name}: {group.why})", classname, text)


def _diagnoses(bank: ConceptBank) -> Iterator[Fault]:
    for classname, text in _concepts(bank):
        if words := names_class(text, classname):
            yield Fault(ERROR, f"names its own class by {_quoted(words)}: that explains nothing", classname, text)
            continue
        for other in bank.classes:
            if words := names_class(text, other):
                yield Fault(WARNING, f"names the class {other!r} by {_quoted(words)}", classname, text)


def _hedges(bank: ConceptBank) -> Iterator[Fault]:
    for classname, text in _concepts(bank):
        if words := found_in(text, entries("hedges")):
            yield Fault(WARNING, f"{_quoted(words)}: name the finding alone", classname, text)


def _negations(bank: ConceptBank) -> Iterator[Fault]:
    for classname, text in _concepts(bank):
        if words := found_in(text, entries("negations")):
            yield Fault(NOTE, f"{_quoted(words)}: CLIP-like text towers hardly hear it", classname, text)


def _spellings(bank: ConceptBank) -> Iterator[Fault]:
    """Concepts that differ in spelling, hyphens or number alone."""
    first: dict[Phrase, tuple[str, str]] = {}
    told: set[str] = set()
    for classname, text in _concepts(bank):
        owner, known = first.setdefault(normal(text), (classname, text))
        if text not in (known, *told):
            told.add(text)
            yield Fault(WARNING, f"is {known!r} of class {owner!r} in another spelling", classname, text)


def _template(bank: ConceptBank) -> Iterator[Fault]:
    """Sentences that would not read as one."""
    template = bank.template
    if template[-1] not in ".!?":
        yield Fault(WARNING, f"the template {template!r} does not end in a full stop")
    if re.search(r"\s{2}|\s[.,;:]", template):
        yield Fault(WARNING, f"the template {template!r} has a blank too many")
    if not re.search(r"\w", re.sub(r"\{\w+\}", "", template)):
        yield Fault(WARNING, f"the template {template!r} does not say what kind of image it is")
    if article := re.search(r"\b(an?) \{class\}", template):
        for classname in bank.classes:
            first = classname[0].lower()
            if first != "u" and (article[1] == "an") != (first in "aeio"):  # a `u` may be heard either way
                yield Fault(NOTE, f"the template makes '{article[1]} {classname}' of it", classname)
    for classname, text in _concepts(bank):
        if text[-1] in ".,;:!?" or "{" in text:
            yield Fault(WARNING, "ends in punctuation, or has a brace; the template adds its own", classname, text)


def _sources(bank: ConceptBank) -> Iterator[Fault]:
    """Citations that nobody cites, or that a reader could not find."""
    cited = {concept.source for concepts in bank.classes.values() for concept in concepts}
    for key, citation in bank.sources.items():
        if key not in cited:
            yield Fault(WARNING, f"the source {key!r} is never cited")
        if len(citation) < SHORTEST_CITATION:
            yield Fault(WARNING, f"the source {key!r} is no citation that could be found: {citation!r}")
        elif not YEAR.search(citation):
            yield Fault(WARNING, f"the source {key!r} has no year: {citation!r}")


def _review(bank: ConceptBank) -> Iterator[Fault]:
    if not bank.reviewed_by:
        yield Fault(NOTE, "reviewed by nobody so far")


RULES: dict[str, Callable[[ConceptBank], Iterator[Fault]]] = {
    "number": _number,
    "shared": _shared,
    "alike": _alike,
    "nonvisual": _nonvisual,
    "diagnosis": _diagnoses,
    "hedge": _hedges,
    "negation": _negations,
    "spelling": _spellings,
    "template": _template,
    "source": _sources,
    "review": _review,
}
