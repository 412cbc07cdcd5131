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

It is data: nothing in it is executed, and every fault is reported with the file, the class and the value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from xcoop import names
from xcoop.plugins import plugin_path

KEYS = ("name", "version", "dataset", "template", "reviewed_by", "sources", "classes")
CONCEPT_KEYS = ("concept", "source")


class BankError(ValueError):
    """A concept bank that breaks the schema; the message names the file, the place and the value."""


@dataclass(frozen=True)
class Concept:
    """One visual concept: its wording, and the key of the source that names it."""

    text: str
    source: str


@dataclass(frozen=True)
class ConceptBank:
    """The concepts of some classes, with where they come from.

    Attributes:
        classes: per class name its concepts, in the order of the file (or of `for_classes`). A file has at least one a
            class; `knowledge.question` makes banks without any.
        template: a sentence with `{class}` and `{concepts}` (the latter only where there are concepts).
        sha256: of the file's content: what a result records.
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
        near = [f"{name!r} (nearest: {names.closest(name, self.classes)!r})" for name in missing]
        return (
            f"{self.path}: the bank has no concepts for {', '.join(near)}.\n"
            f"  classes of the dataset: {', '.join(classnames)}\n  classes of the bank:    {', '.join(self.classes)}"
        )


def same_name(name: str) -> str:
    """A class name reduced to what counts in a match: lower case, one blank for each `_`, `-` or run of blanks."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def load_bank(name_or_path: str | Path) -> ConceptBank:
    """The concept bank of a name (`derm7pt`) or of a YAML file.

    Raises:
        FileNotFoundError: no such bank or file; a name is answered with the nearest known one.
        BankError: the file breaks the schema.
    """
    path = _find(name_or_path)
    data = path.read_bytes()
    return _parse(path, _read_yaml(path, data), hashlib.sha256(data).hexdigest())


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


def _read_yaml(path: Path, data: bytes) -> Any:
    """The content of the file as plain data; a key that stands twice is an error (YAML would drop the first)."""
    try:
        text = data.decode("utf-8-sig")
        if tree := yaml.compose(text, Loader=yaml.SafeLoader):
            _refuse_duplicate_keys(path, tree)
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BankError(f"{path}: not valid YAML ({error})") from error


def _refuse_duplicate_keys(path: Path, tree: yaml.Node) -> None:
    stack, visited = [tree], set()
    while stack:
        node = stack.pop()
        if id(node) in visited:  # an alias may lead here again
            continue
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if key.value in keys:
                    raise BankError(f"{path}, line {key.start_mark.line + 1}: the key {key.value!r} stands twice")
                if isinstance(key, yaml.ScalarNode):
                    keys.add(key.value)
                stack += [key, value]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value


def _parse(path: Path, data: Any, sha256: str) -> ConceptBank:
    _check_keys(path, "the bank", data, KEYS)
    sources = _sources(path, data["sources"])
    return ConceptBank(
        name=_text(path, "name", data["name"]),
        version=_text(path, "version", data["version"]),
        dataset=_text(path, "dataset", data["dataset"]),
        template=_template(path, data["template"]),
        classes=_classes(path, data["classes"], sources),
        sources=sources,
        reviewed_by=tuple(_text(path, "reviewed_by", name) for name in _list(path, "reviewed_by", data["reviewed_by"])),
        path=path,
        sha256=sha256,
    )


def _classes(path: Path, data: Any, sources: Mapping[str, str]) -> dict[str, tuple[Concept, ...]]:
    classes: dict[str, tuple[Concept, ...]] = {}
    for name, entries in _mapping(path, "classes", data).items():
        _text(path, "a class name", name)
        if same := [other for other in classes if same_name(other) == same_name(name)]:
            raise BankError(f"{path}: the classes {same[0]!r} and {name!r} are the same (case, '_', '-' do not count)")
        classes[name] = _concepts(path, name, entries, sources)
    return classes


def _concepts(path: Path, classname: str, entries: Any, sources: Mapping[str, str]) -> tuple[Concept, ...]:
    where = f"class {classname!r}"
    concepts: dict[str, Concept] = {}
    for entry in _list(path, where, entries):
        _check_keys(path, f"{where}, concept {entry!r}", entry, CONCEPT_KEYS)
        text = _text(path, f"{where}, concept", entry["concept"])
        source = _text(path, f"{where}, source of {text!r}", entry["source"])
        if source not in sources:
            raise BankError(f"{path}: {where}, concept {text!r}: {names.unknown('source', source, sources)}")
        if same_name(text) in concepts:
            raise BankError(f"{path}: {where} holds the concept {text!r} twice")
        concepts[same_name(text)] = Concept(text, source)
    if not concepts:
        raise BankError(f"{path}: {where} has no concepts")
    return tuple(concepts.values())


def _sources(path: Path, data: Any) -> dict[str, str]:
    return {
        _text(path, "a source's key", key): _text(path, f"source {key!r}", citation)
        for key, citation in _mapping(path, "sources", data).items()
    }


def _template(path: Path, value: Any) -> str:
    template = _text(path, "template", value)
    fields = re.findall(r"\{[^{}]*\}", template)
    if sorted(fields) != ["{class}", "{concepts}"] or template.count("{") != 2 or template.count("}") != 2:
        raise BankError(f"{path}: template {template!r} must hold {{class}} and {{concepts}} once each, nothing else")
    return template


def _check_keys(path: Path, where: str, data: Any, keys: Sequence[str]) -> None:
    """A mapping with exactly these keys."""
    if not isinstance(data, dict):
        raise BankError(f"{path}: {where} must be a mapping with the keys {', '.join(keys)}, not {data!r}")
    for key in data:
        if key not in keys:
            raise BankError(f"{path}: {where}: {names.unknown('key', str(key), keys)}")
    if missing := [key for key in keys if key not in data]:
        raise BankError(f"{path}: {where} lacks {', '.join(repr(key) for key in missing)}")


def _mapping(path: Path, where: str, data: Any) -> dict[Any, Any]:
    if not isinstance(data, dict) or not data:
        raise BankError(f"{path}: {where} must be a mapping with at least one entry, not {data!r}")
    return data


def _list(path: Path, where: str, data: Any) -> Iterable[Any]:
    if not isinstance(data, list):
        raise BankError(f"{path}: {where} must be a list, not {data!r}")
    return data


def _text(path: Path, where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BankError(f"{path}: {where} must be a text (quote it if YAML reads something else), not {value!r}")
    return value.strip()
