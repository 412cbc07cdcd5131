"""The concept bank: its schema, its one loader, and its match with a dataset's classes.

A bank is a YAML file:

    name: derm7pt                # as in `concept_banks/<name>.yaml`
    version: "1"                 # stated in every result that used the bank
    dataset: Derm7pt             # for whose classes it was written
    template: "a dermoscopic photo of a {class}, {concepts}."
    reviewed_by: []              # clinicians who approved it, if any
    sources:
      argenziano1998: "Argenziano G, ... Arch Dermatol 1998;134:1563-1570."
    classes:
      melanoma:
        - {concept: atypical pigment network, source: argenziano1998}

A bank that a language model was asked for (`xcoop concepts elicit`) has one key more, `elicited` (see
`xcoop.concepts.elicited`), and beside each concept the answers that name it: `votes: 4`.

It is data: nothing in it is executed, and every fault is reported with the file, the class and the value.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xcoop.concepts.elicited import Elicited
from xcoop.concepts.schema import BankError, check_keys, items, mapping, text, whole
from xcoop.config.plugins import plugin_path
from xcoop.utils import suggest as names
from xcoop.utils.reading import MOST_YAML, parse_yaml, read_bytes
from xcoop.utils.suggest import shown

KEYS = ("name", "version", "dataset", "template", "reviewed_by", "sources", "classes")
CONCEPT_KEYS = ("concept", "source")


@dataclass(frozen=True)
class Concept:
    """One visual concept: its wording, the key of the source that names it, and a language model's votes for it."""

    text: str
    source: str
    votes: int | None = None


@dataclass(frozen=True)
class ConceptBank:
    """The concepts of some classes, with where they come from.

    Attributes:
        classes: per class name its concepts, in the order of the file (or of `for_classes`). A file has at least one a
            class; `knowledge.question` makes banks without any.
        template: a sentence with `{class}` and `{concepts}` (the latter only where there are concepts).
        sha256: of the file's content: what a result records.
        elicited: which language model was asked, and how; None for a bank that people wrote.
    """

    name: str
    version: str
    dataset: str
    template: str
    classes: Mapping[str, tuple[Concept, ...]]
    sources: Mapping[str, str]
    reviewed_by: tuple[str, ...]
    path: Path
    sha256: str
    elicited: Elicited | None = None

    def for_classes(self, classnames: Sequence[str]) -> ConceptBank:
        """The bank of exactly these classes, in their order and under the names given here.

        Case, `_` and `-` do not count in the match. Classes of the bank that are not asked for are left out.

        Raises:
            ValueError: a class is missing, or two of the names are the same class.
        """
        known = {same_name(name): concepts for name, concepts in self.classes.items()}
        asked = [same_name(name) for name in classnames]
        if missing := [name for name in classnames if same_name(name) not in known]:
            raise ValueError(self._mismatch(missing, classnames))
        if len(set(asked)) < len(asked):
            raise ValueError(f"the dataset's classes hold the same name twice: {list(classnames)}")
        return replace(self, classes={name: known[key] for name, key in zip(classnames, asked, strict=True)})

    def texts(self, classname: str) -> list[str]:
        """The wording of a class's concepts."""
        return [concept.text for concept in self.classes[classname]]

    def _mismatch(self, missing: Sequence[str], classnames: Sequence[str]) -> str:
        near = [f"{shown(name)} (nearest: {names.closest(name, self.classes)!r})" for name in missing]
        return (
            f"{self.path}: the bank has no concepts for {', '.join(near)}.\n"
            f"  classes of the dataset: {', '.join(classnames)}\n  classes of the bank:    {', '.join(self.classes)}"
        )


def same_name(name: str) -> str:
    """A class name reduced to what counts in a match: lower case, one blank for each `_`, `-` or run of blanks.

    Letters that Unicode spells in two forms (as one character, or with an accent of its own) are the same in both.
    """
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().lower()


def load_bank(name_or_path: str | Path) -> ConceptBank:
    """The concept bank of a name (`derm7pt`) or of a YAML file.

    Raises:
        FileNotFoundError: no such bank or file; a name is answered with the nearest known one.
        BankError: the file breaks the schema.
    """
    path = _find(name_or_path)
    try:
        data = read_bytes(path, MOST_YAML)
        content = parse_yaml(data, str(path))
    except ValueError as error:
        raise BankError(str(error)) from error
    return _parse(path, content, hashlib.sha256(data).hexdigest())


def bank_names() -> list[str]:
    """The banks of this package, sorted."""
    return sorted(path.stem for path in plugin_path("concept_banks").glob("*.yaml"))


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise FileNotFoundError(f"no concept bank {path} (looked for {path.absolute()})")
        return path
    if str(name_or_path) not in bank_names():
        raise FileNotFoundError(names.unknown("concept bank", str(name_or_path), bank_names()))
    return plugin_path("concept_banks", f"{name_or_path}.yaml")


def _parse(path: Path, data: Any, sha256: str) -> ConceptBank:
    check_keys(path, "the bank", data, KEYS, ("elicited",))
    sources = _sources(path, data["sources"])
    return ConceptBank(
        name=text(path, "name", data["name"]),
        version=text(path, "version", data["version"]),
        dataset=text(path, "dataset", data["dataset"]),
        template=_template(path, data["template"]),
        classes=_classes(path, data["classes"], sources),
        sources=sources,
        reviewed_by=tuple(text(path, "reviewed_by", name) for name in items(path, "reviewed_by", data["reviewed_by"])),
        path=path,
        sha256=sha256,
        elicited=Elicited.read(path, data["elicited"]) if "elicited" in data else None,
    )


def _classes(path: Path, data: Any, sources: Mapping[str, str]) -> dict[str, tuple[Concept, ...]]:
    classes: dict[str, tuple[Concept, ...]] = {}
    spelt: dict[str, str] = {}
    for name, entries in mapping(path, "classes", data).items():
        text(path, "a class name", name)
        if (other := spelt.setdefault(same_name(name), name)) != name:
            raise BankError(f"{path}: the classes {other!r} and {name!r} are the same (case, '_', '-' do not count)")
        classes[name] = _concepts(path, name, entries, sources)
    return classes


def _concepts(path: Path, classname: str, entries: Any, sources: Mapping[str, str]) -> tuple[Concept, ...]:
    where = f"class {shown(classname)}"
    concepts: dict[str, Concept] = {}
    for entry in items(path, where, entries):
        check_keys(path, f"{where}, concept {shown(entry)}", entry, CONCEPT_KEYS, ("votes",))
        words = text(path, f"{where}, concept", entry["concept"])
        source = text(path, f"{where}, source of {shown(words)}", entry["source"])
        votes = whole(path, f"{where}, votes of {shown(words)}", entry["votes"]) if "votes" in entry else None
        if source not in sources:
            raise BankError(f"{path}: {where}, concept {shown(words)}: {names.unknown('source', source, sources)}")
        if same_name(words) in concepts:
            raise BankError(f"{path}: {where} holds the concept {shown(words)} twice")
        concepts[same_name(words)] = Concept(words, source, votes)
    if not concepts:
        raise BankError(f"{path}: {where} has no concepts")
    return tuple(concepts.values())


def _sources(path: Path, data: Any) -> dict[str, str]:
    return {
        text(path, "a source's key", key): text(path, f"source {key!r}", citation)
        for key, citation in mapping(path, "sources", data).items()
    }


def _template(path: Path, value: Any) -> str:
    template = text(path, "template", value)
    fields = re.findall(r"\{[^{}]*\}", template)
    if sorted(fields) != ["{class}", "{concepts}"] or template.count("{") != 2 or template.count("}") != 2:
        raise BankError(
            f"{path}: template {shown(template)} must hold {{class}} and {{concepts}} once each, nothing else"
        )
    return template
