"""What is wrong with a concept bank, beyond its schema: findings of rules, each with what would be right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xcoop.concepts import lint_words
from xcoop.concepts.bank import BankError, ConceptBank, load_bank, same_name
from xcoop.concepts.lint_words import ERROR, NOTE, WARNING, Fault
from xcoop.concepts.sentences import clinical_sentences, fill
from xcoop.concepts.words import Phrase, normal

FEWEST, MOST = 4, 10  # concepts a class
SEVERITIES = (ERROR, WARNING, NOTE)

Rule = Callable[[ConceptBank], Iterator[Fault]]


@dataclass(frozen=True)
class Finding:
    """One fault of a bank.

    Attributes:
        severity: `error`, `warning` or `note`.
        rule: which rule found it.
        bank: its name, or its file if it cannot be read.
        classname: where, if it is in one class.
        concept: where, if it is in one concept.
        message: what is wrong.
    """

    severity: str
    rule: str
    bank: str
    classname: str
    concept: str
    message: str


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

    def __str__(self) -> str:
        """As messages name it."""
        return f"{self.dataset}, task {self.task}"


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
    rules = RULES | {"context": lambda bank: _context(bank, limits), "task": lambda bank: _tasks(bank, uses)}
    findings = [
        Finding(fault.severity, name, loaded.name, fault.classname, fault.concept, fault.message)
        for name, rule in rules.items()
        for fault in rule(loaded)
    ]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _number(bank: ConceptBank) -> Iterator[Fault]:
    for classname, concepts in bank.classes.items():
        if not FEWEST <= len(concepts) <= MOST:
            yield Fault(WARNING, f"{len(concepts)} concepts; {FEWEST} to {MOST} are good", classname)


def _shared(bank: ConceptBank) -> Iterator[Fault]:
    for text, owners in _owners(bank).items():
        if len(owners) == len(bank.classes) > 1:
            yield Fault(ERROR, "every class has it, so it tells none from another", concept=text)
        elif len(owners) > 1:
            yield Fault(NOTE, f"stands in several classes: {', '.join(owners)}", concept=text)


def _alike(bank: ConceptBank) -> Iterator[Fault]:
    first: dict[frozenset[Phrase], str] = {}
    for classname in bank.classes:
        other = first.setdefault(frozenset(map(normal, bank.texts(classname))), classname)
        if other != classname:
            yield Fault(ERROR, f"has the very concepts of {other!r}: nothing tells the two apart", classname)


def _owners(bank: ConceptBank) -> dict[str, list[str]]:
    """Per concept (as first written) the classes that have it."""
    spelt: dict[Phrase, str] = {}
    owners: dict[str, dict[str, None]] = {}
    for classname in bank.classes:
        for text in bank.texts(classname):
            owners.setdefault(spelt.setdefault(normal(text), text), {})[classname] = None
    return {text: list(names) for text, names in owners.items()}


def _tasks(bank: ConceptBank, uses: Iterable[Use]) -> Iterator[Fault]:
    """Each class of a task needs concepts, and one that all its classes share says nothing there."""
    for use in uses:
        try:
            own = bank.for_classes(use.classes)
        except ValueError:
            known = {same_name(name) for name in bank.classes}
            for classname in (name for name in use.classes if same_name(name) not in known):
                yield Fault(ERROR, f"the bank has no concepts for this class of {use}", classname)
            continue
        for fault in _shared(own):
            if fault.severity == ERROR and len(own.classes) < len(bank.classes):
                yield replace(fault, message=f"{fault.message} in {use} ({', '.join(use.classes)})")


def _context(bank: ConceptBank, limits: Iterable[Limit]) -> Iterator[Fault]:
    for limit in limits:
        for classname in bank.classes:
            alone = [text for text in bank.texts(classname) if not limit.fits(fill(bank.template, classname, [text]))]
            for text in alone:
                yield Fault(ERROR, f"too long for the text context of {limit.backbones} even alone", classname, text)
            if not alone and (count := len(clinical_sentences(bank, classname, limit.fits))) > 1:
                yield Fault(NOTE, f"its concepts take {count} sentences in {limit.backbones}", classname)


RULES: dict[str, Rule] = {
    "number": _number,
    "shared": _shared,
    "alike": _alike,
    "nonvisual": lint_words.nonvisual_words,
    "diagnosis": lint_words.diagnoses,
    "hedge": lint_words.hedges,
    "negation": lint_words.negations,
    "spelling": lint_words.spellings,
    "template": lint_words.template,
    "source": lint_words.sources,
    "review": lint_words.review,
}
