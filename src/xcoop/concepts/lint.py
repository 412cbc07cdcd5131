"""`xcoop concepts check`: what is wrong with concept banks beyond their schema, and what would be right."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from xcoop.concepts.bank import FEWEST, MOST, BankError, ConceptBank, bank_names, load_bank, same_name
from xcoop.concepts.sentences import clinical_sentences, fill
from xcoop.concepts.words import Leak, Phrase, entries, found_in, leaks, nonvisual, normal
from xcoop.config.plugins import plugin_path
from xcoop.utils.console import FAILED, UserError, say
from xcoop.utils.reading import read_yaml

SEVERITIES = ERROR, WARNING, NOTE = "error", "warning", "note"
YEAR = re.compile(r"\b(1[89]|20)\d\d\b")
SHORTEST_CITATION = 20  # characters


@dataclass(frozen=True)
class Finding:
    """One fault of a bank."""

    severity: str  # error: the bank misleads or cannot be used; warning: it should be better; note: worth knowing
    message: str
    classname: str = ""  # if it is in a single class
    concept: str = ""  # if it is in a single concept
    rule: str = ""  # this and the next are filled in by `check`
    bank: str = ""  # its name, or its file if it cannot be read


class Limit(NamedTuple):
    """A text context: which backbones have it, and whether a text fits."""

    backbones: str
    fits: Callable[[str], bool]


class Use(NamedTuple):
    """One task of a dataset that takes its concepts from a bank."""

    dataset: str
    task: str
    classes: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop concepts check`."""
    parser.add_argument("words", nargs="*", metavar="BANK", help="names or YAML files (default: all of the package)")
    parser.add_argument(
        "--backbone", nargs="+", metavar="NAME", help="whose text contexts the sentences must fit (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.epilog = "Exit code 1: there are errors. Warnings and notes alone end in 0."


def run(arguments: argparse.Namespace) -> int:
    """Prints the findings; 1 if there are errors."""
    names = arguments.words or bank_names()
    limits = _limits(arguments.backbone)
    findings = [finding for name in names for finding in check(name, limits, _uses(name))]
    counts = Counter(finding.severity for finding in findings)
    if arguments.json:
        say(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
        return FAILED if counts[ERROR] else 0
    for bank, own in groupby(findings, key=lambda finding: finding.bank):
        say(bank)
        for finding in own:
            place = "".join(f"{part}: " for part in (finding.classname, finding.concept) if part)
            say(f"  {finding.severity:7}  {finding.rule:9}  {place}{finding.message}")
        say("")
    sums = ", ".join(_counted(counts[severity], severity) for severity in SEVERITIES)
    say(f"{_counted(len(names), 'bank')}: {sums}")
    return FAILED if counts[ERROR] else 0


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _limits(asked: Sequence[str] | None) -> list[Limit]:
    """The text contexts of these backbones, equal ones once."""
    from xcoop.backbones import TextLimits, backbone_names, text_limits

    groups: dict[TextLimits, list[str]] = {}
    for name in asked or backbone_names():
        limits = text_limits(name)
        if limits is None and asked:
            raise UserError(f"the context length of {name} is not known before its weights are loaded")
        if limits is not None:
            groups.setdefault(limits, []).append(name)
    return [Limit(", ".join(names), limits.fit) for limits, names in groups.items()]


def _uses(bank: str) -> list[Use]:
    """The tasks of this package's datasets that take their concepts from a bank, by their config files.

    A set of a family states its classes in its file, another one in its reader.
    """
    from dassl.data.datasets import DATASET_REGISTRY

    from xcoop.config.merge import config_names
    from xcoop.config.plugins import dataset_names

    uses = []
    for name in config_names():
        stated = read_yaml(plugin_path("configs", "datasets", f"{name}.yaml"))["DATASET"]
        if stated.get("CLASSES"):
            uses += [Use(name, "all", tuple(map(str, stated["CLASSES"])))] if name == bank else []
            continue
        reader = DATASET_REGISTRY.get(stated["NAME"]) if stated["NAME"] in dataset_names() else None
        if (stated.get("CONCEPT_BANK") or getattr(reader, "concept_bank", "")) == bank:
            uses += [Use(name, task, tuple(classes)) for task, classes in getattr(reader, "tasks", {}).items()]
    return uses


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
        return [Finding(ERROR, str(error), rule="schema", bank=str(bank))]
    found = {name: rule(loaded) for name, rule in RULES.items()}
    found |= {"context": _context(loaded, limits), "task": _tasks(loaded, uses)}
    findings = [replace(one, rule=name, bank=loaded.name) for name, own in found.items() for one in own]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _concepts(bank: ConceptBank) -> Iterator[tuple[str, str]]:
    for classname in bank.classes:
        for text in bank.texts(classname):
            yield classname, text


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(map(repr, words))


# Rules about classes: how many concepts they have, and whether these tell them apart.


def _number(bank: ConceptBank) -> Iterator[Finding]:
    for classname, concepts in bank.classes.items():
        if not FEWEST <= len(concepts) <= MOST:
            yield Finding(WARNING, f"{len(concepts)} concepts; {FEWEST} to {MOST} are good", classname)


def _shared(bank: ConceptBank) -> Iterator[Finding]:
    owners: dict[Phrase, tuple[str, dict[str, None]]] = {}  # a concept as first written, and the classes that have it
    for classname, text in _concepts(bank):
        owners.setdefault(normal(text), (text, {}))[1][classname] = None
    for text, names in owners.values():
        if len(names) == len(bank.classes) > 1:
            yield Finding(ERROR, "every class has it, so it tells none from another", concept=text)
        elif len(names) > 1:
            yield Finding(NOTE, f"stands in several classes: {', '.join(names)}", concept=text)


def _alike(bank: ConceptBank) -> Iterator[Finding]:
    first: dict[frozenset[Phrase], str] = {}
    for classname in bank.classes:
        other = first.setdefault(frozenset(map(normal, bank.texts(classname))), classname)
        if other != classname:
            yield Finding(ERROR, f"has the very concepts of {other!r}: nothing tells the two apart", classname)


def _tasks(bank: ConceptBank, uses: Iterable[Use]) -> Iterator[Finding]:
    """Each class of a task needs concepts, and one that all its classes share says nothing there."""
    known = {same_name(alias) for name in bank.classes for alias in bank.names(name)}
    for use in uses:
        where = f"{use.dataset}, task {use.task}"
        if missing := [name for name in use.classes if same_name(name) not in known]:
            yield from (Finding(ERROR, f"the bank has no concepts for this class of {where}", name) for name in missing)
            continue
        try:
            served = bank.for_classes(use.classes)
        except ValueError as error:  # two of them are one class of the bank
            yield Finding(ERROR, f"{where}: {error}")
            continue
        for finding in _shared(served):
            if finding.severity == ERROR and len(use.classes) < len(bank.classes):
                yield replace(finding, message=f"{finding.message} in {where} ({', '.join(use.classes)})")


def _context(bank: ConceptBank, limits: Iterable[Limit]) -> Iterator[Finding]:
    for limit in limits:
        for classname in bank.classes:
            alone = [text for text in bank.texts(classname) if not limit.fits(fill(bank.template, classname, [text]))]
            for text in alone:
                yield Finding(ERROR, f"too long for the text context of {limit.backbones} even alone", classname, text)
            if not alone and (count := len(clinical_sentences(bank, classname, limit.fits))) > 1:
                yield Finding(NOTE, f"its concepts take {count} sentences in {limit.backbones}", classname)


# Rules about words: of concepts, of the template, of citations.


def _nonvisual(bank: ConceptBank) -> Iterator[Finding]:
    for classname, text in _concepts(bank):
        for word, group in nonvisual(text, bank.template).items():
            yield Finding(ERROR, f"{word!r} is not visible ({group.name}: {group.why})", classname, text)


def _diagnoses(bank: ConceptBank) -> Iterator[Finding]:
    """What names a class, or says one in other words: of its own class it explains nothing, of others it misleads."""
    names = {classname: bank.names(classname) for classname in bank.classes}
    for classname, text in _concepts(bank):
        said = sorted(leaks(text, names), key=lambda leak: len(leak.classes))  # what tells most comes first
        if own := next((leak for leak in said if leak.classes == [classname]), None):
            says = "says its own class in other words," if own.family else "names its own class by"
            yield Finding(ERROR, f"{says} {_by(own)}: that explains nothing", classname, text)
        elif named := [leak for leak in said if not leak.family]:
            for leak in named:
                yield Finding(WARNING, f"names the class {_quoted(leak.classes)} by {_by(leak)}", classname, text)
        elif said:
            others = _quoted(name for name in said[0].classes if name != classname)
            of = f"its own class, and of {others}" if classname in said[0].classes else others
            yield Finding(WARNING, f"says the diagnosis of {of} in other words, {_by(said[0])}", classname, text)


def _by(leak: Leak) -> str:
    return _quoted(leak.words) + (f" ({leak.family})" if leak.family else "")


def _hedges(bank: ConceptBank) -> Iterator[Finding]:
    for classname, text in _concepts(bank):
        if words := found_in(text, entries("hedges")):
            yield Finding(WARNING, f"{_quoted(words)}: name the finding alone", classname, text)


def _negations(bank: ConceptBank) -> Iterator[Finding]:
    for classname, text in _concepts(bank):
        if words := found_in(text, entries("negations")):
            yield Finding(NOTE, f"{_quoted(words)}: CLIP-like text towers hardly hear it", classname, text)


def _spellings(bank: ConceptBank) -> Iterator[Finding]:
    """Concepts that differ in spelling, hyphens or number alone."""
    first: dict[Phrase, tuple[str, str]] = {}
    told: set[str] = set()
    for classname, text in _concepts(bank):
        owner, known = first.setdefault(normal(text), (classname, text))
        if text not in (known, *told):
            told.add(text)
            yield Finding(WARNING, f"is {known!r} of class {owner!r} in another spelling", classname, text)


def _template(bank: ConceptBank) -> Iterator[Finding]:
    """Sentences that would not read as one."""
    template = bank.template
    if template[-1] not in ".!?":
        yield Finding(WARNING, f"the template {template!r} does not end in a full stop")
    if re.search(r"\s{2}|\s[.,;:]", template):
        yield Finding(WARNING, f"the template {template!r} has a blank too many")
    if not re.search(r"\w", re.sub(r"\{\w+\}", "", template)):
        yield Finding(WARNING, f"the template {template!r} does not say what kind of image it is")
    if article := re.search(r"\b(an?) \{class\}", template):
        for classname in bank.classes:
            first = classname[0].lower()
            if first != "u" and (article[1] == "an") != (first in "aeio"):  # a `u` may be heard either way
                yield Finding(NOTE, f"the template makes '{article[1]} {classname}' of it", classname)
    for classname, text in _concepts(bank):
        if text[-1] in ".,;:!?" or "{" in text:
            yield Finding(WARNING, "ends in punctuation, or has a brace; the template adds its own", classname, text)


def _sources(bank: ConceptBank) -> Iterator[Finding]:
    """Citations that nobody cites, or that a reader could not find."""
    cited = [concept.source for concepts in bank.classes.values() for concept in concepts]
    if uncited := cited.count(""):
        yield Finding(NOTE, f"{uncited} of {len(cited)} concepts name no source")
    for key, citation in bank.sources.items():
        if key not in cited:
            yield Finding(WARNING, f"the source {key!r} is never cited")
        if len(citation) < SHORTEST_CITATION:
            yield Finding(WARNING, f"the source {key!r} is no citation that could be found: {citation!r}")
        elif not YEAR.search(citation):
            yield Finding(WARNING, f"the source {key!r} has no year: {citation!r}")


def _review(bank: ConceptBank) -> Iterator[Finding]:
    if not bank.reviewed_by:
        yield Finding(NOTE, "reviewed by nobody so far")


RULES: dict[str, Callable[[ConceptBank], Iterator[Finding]]] = {
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
