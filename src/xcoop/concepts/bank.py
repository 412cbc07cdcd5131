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

A bank that a language model was asked for (`xcoop concepts elicit`) has one key more, `elicited`, and beside each
concept the answers that name it, `votes: 4`:

    elicited:
      model: some-model-7b           # as it was asked for
      host: api.example.org          # of the server
      date: "2026-01-31"             # UTC, of the last answer
      samples: 5                     # answers that were asked for
      threshold: 0.5                 # the share of a class's answers that must name a concept
      prompt_sha256: 9f86d0...       # of the prompt
      prompt: |                      # what was asked, in full

It is data: nothing in it is executed, and every fault is reported with the file, the class and the value.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, Strict, StringConstraints, TypeAdapter, ValidationError, WrapValidator
from typing_extensions import NotRequired, TypedDict

from xcoop.config.plugins import plugin_path
from xcoop.utils.files import atomic_path
from xcoop.utils.reading import MOST_YAML, parse_yaml, read_bytes
from xcoop.utils.suggest import closest, shown, unknown


class BankError(ValueError):
    """A concept bank that breaks the schema; the message names the file, the place and the value."""


def _must_be(meaning: str) -> WrapValidator:
    """What a value of a type must be, in the words of the message."""

    def check(value: Any, validate: Any) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(f"must be {meaning}, not {shown(value)}") from None

    return WrapValidator(check)


Text = Annotated[
    str,
    StringConstraints(strict=True, strip_whitespace=True, min_length=1),
    _must_be("a text (quote it if YAML reads something else)"),
]
Count = Annotated[int, Strict(), Field(ge=1), _must_be("a whole number above 0")]
Share = Annotated[float, Strict(), Field(gt=0, le=1), _must_be("a share above 0, at most 1")]


@dataclass(frozen=True)
class Concept:
    """One visual concept: its wording, the key of the source that names it, and a language model's votes for it."""

    text: str
    source: str
    votes: int | None = None


@dataclass(frozen=True)
class Elicited:
    """Which language model a bank was asked of, when, and how; see the head of this module."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    model: Text
    host: Text
    date: Text
    samples: Count
    threshold: Share
    prompt_sha256: Text
    prompt: Annotated[str, Strict()]

    def as_data(self) -> dict[str, Any]:
        """As it stands in a bank's file."""
        return asdict(self)


@dataclass(frozen=True)
class ConceptBank:
    """The concepts of some classes, with where they come from.

    Attributes:
        classes: per class name its concepts, in the order of the file (or of `for_classes`). A file has at least one a
            class; `controls.bank_or_control` makes banks without any.
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
        if missing := [name for name in classnames if same_name(name) not in known]:
            near = ", ".join(f"{shown(name)} (nearest: {closest(name, self.classes)!r})" for name in missing)
            raise ValueError(
                f"{self.path}: the bank has no concepts for {near}.\n"
                f"  classes of the dataset: {', '.join(classnames)}\n"
                f"  classes of the bank:    {', '.join(self.classes)}"
            )
        if len({same_name(name) for name in classnames}) < len(classnames):
            raise ValueError(f"the dataset's classes hold the same name twice: {list(classnames)}")
        return replace(self, classes={name: known[same_name(name)] for name in classnames})

    def summary(self) -> str:
        """Name, version, the number of concepts a class, and who reviewed them."""
        counts = " + ".join(str(len(concepts)) for concepts in self.classes.values())
        readers = ", ".join(self.reviewed_by) or "nobody so far"
        return f"{self.name} {self.version}: {counts} concepts, reviewed by {readers}"

    def texts(self, classname: str) -> list[str]:
        """The wording of a class's concepts."""
        return [concept.text for concept in self.classes[classname]]


def same_name(name: str) -> str:
    """A class name reduced to what counts in a match: lower case, one blank for each `_`, `-` or run of blanks.

    Letters that Unicode spells in two forms (as one character, or with an accent of its own) are the same in both.
    """
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().lower()


def bank_names() -> list[str]:
    """The banks of this package, sorted."""
    return sorted(path.stem for path in plugin_path("concept_banks").glob("*.yaml"))


def load_bank(name_or_path: str | Path) -> ConceptBank:
    """The concept bank of a name (`derm7pt`) or of a YAML file.

    Raises:
        FileNotFoundError: no such bank or file; a name is answered with the nearest known one.
        BankError: the file breaks the schema.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise FileNotFoundError(f"no concept bank {path} (looked for {path.absolute()})")
    elif str(name_or_path) in bank_names():
        path = plugin_path("concept_banks", f"{name_or_path}.yaml")
    else:
        raise FileNotFoundError(unknown("concept bank", str(name_or_path), bank_names()))
    try:
        data = read_bytes(path, MOST_YAML)
        content = parse_yaml(data, str(path))
    except ValueError as error:
        raise BankError(str(error)) from error
    return _checked(path, content, hashlib.sha256(data).hexdigest())


def load_dataset_bank(cfg: Any, dataset: Any) -> ConceptBank:
    """The bank that DATASET.CONCEPT_BANK names, else the dataset's own.

    Raises:
        ValueError: there is none; the message holds one to be filled in.
    """
    name = cfg.DATASET.CONCEPT_BANK or getattr(dataset, "concept_bank", "")
    if name:
        return load_bank(name)
    message = f"dataset {cfg.DATASET.NAME} names no concept bank; set DATASET.CONCEPT_BANK to a name or file."
    own, classnames = getattr(dataset, "name", type(dataset).__name__), getattr(dataset, "classnames", ())
    if classnames:
        where = f"{dataset.dataset_dir}/concepts.yaml" if own == "Folder" else "a YAML file"
        message += f" To write one, fill this in and save it as {where}:\n\n{skeleton(own, classnames)}"
    raise ValueError(message)


def save_bank(path: Path, text: str) -> ConceptBank:
    """Writes the YAML of a bank, whole and loadable, or not at all; what is there is replaced.

    Raises:
        BankError: it breaks the schema.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        load_bank(temporary.absolute())
    return load_bank(path.absolute())


def skeleton(dataset: str, classnames: Sequence[str]) -> str:
    """The text of a bank with these classes; it is not read before its concepts and sources are filled in."""

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    classes = "".join(
        f"  {quoted(name)}:\n    - {{concept: , source: atlas}}  # what is seen; 4 to 10 lines\n" for name in classnames
    )
    return (
        f"name: {quoted(dataset.lower())}\n"
        'version: "1"\n'
        f"dataset: {quoted(dataset)}\n"
        'template: "a medical image of {class}, {concepts}."\n'
        "reviewed_by: []  # clinicians who approved it\n"
        f"sources:\n  atlas:   # the publication that names the concepts\nclasses:\n{classes}"
    )


# The keys of the file.


class _Concept(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    concept: Text
    source: Text
    votes: NotRequired[Count]


class _Bank(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    name: Text
    version: Text
    dataset: Text
    template: Text
    reviewed_by: list[Text]
    sources: Annotated[dict[Text, Text], Field(min_length=1)]
    classes: Annotated[dict[Text, list[_Concept]], Field(min_length=1)]
    elicited: NotRequired[Elicited]


_SCHEMA = TypeAdapter(_Bank)
_EXTRA = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")  # how pydantic calls an unknown key


def _checked(path: Path, data: Any, sha256: str) -> ConceptBank:
    """The bank that a file's content describes; BankError for the first fault."""
    try:
        content = _SCHEMA.validate_python(data)
    except ValidationError as error:
        raise BankError(f"{path}: {_fault(error, data)}") from None
    template = content["template"]
    if sorted(re.findall(r"\{[^{}]*\}|[{}]", template)) != ["{class}", "{concepts}"]:
        raise BankError(
            f"{path}: template {shown(template)} must hold {{class}} and {{concepts}} once each, nothing else"
        )
    spelt: dict[str, str] = {}
    for name, entries in content["classes"].items():
        if (other := spelt.setdefault(same_name(name), name)) != name:
            raise BankError(f"{path}: the classes {other!r} and {name!r} are the same (case, '_', '-' do not count)")
        if not entries:
            raise BankError(f"{path}: class {shown(name)} has no concepts")
        seen = set()
        for entry in entries:
            words, source = entry["concept"], entry["source"]
            if source not in content["sources"]:
                known = unknown("source", source, content["sources"])
                raise BankError(f"{path}: class {shown(name)}, concept {shown(words)}: {known}")
            if same_name(words) in seen:
                raise BankError(f"{path}: class {shown(name)} holds the concept {shown(words)} twice")
            seen.add(same_name(words))
    elicited = content.get("elicited")
    if elicited and hashlib.sha256(elicited.prompt.encode()).hexdigest() != elicited.prompt_sha256:
        raise BankError(f"{path}: elicited, prompt is not the text that prompt_sha256 belongs to")
    return ConceptBank(
        name=content["name"],
        version=content["version"],
        dataset=content["dataset"],
        template=template,
        classes={
            name: tuple(Concept(entry["concept"], entry["source"], entry.get("votes")) for entry in entries)
            for name, entries in content["classes"].items()
        },
        sources=content["sources"],
        reviewed_by=tuple(content["reviewed_by"]),
        path=path,
        sha256=sha256,
        elicited=elicited,
    )


def _fault(error: ValidationError, data: Any) -> str:
    """The first fault, in words; an unknown key before others, since it may be a missing one misspelt."""
    faults = error.errors(include_url=False)
    fault = min(
        faults,
        key=lambda fault: (fault["loc"][-1:] != ("[key]",), fault["type"] not in _EXTRA),
    )
    kind, place, value = fault["type"], fault["loc"], fault["input"]
    key = place[-1] if kind in ("missing", *_EXTRA) else None
    place = place[:-1] if key is not None else place
    schema: Any = _Bank
    match place:
        case ():
            where = "the bank"
        case ("sources" | "classes" as part, _, "[key]"):
            where = {"sources": "a source's key", "classes": "a class name"}[part]
        case ("sources", name):
            where = f"source {shown(name)}"
        case ("classes", name):
            where = f"class {shown(name)}"
        case ("classes", name, int(number), *rest):
            schema, entry = _Concept, data["classes"][name][number]
            words = entry.get("concept", entry) if isinstance(entry, dict) else entry
            where = ", ".join([f"class {shown(name)}", f"concept {shown(words)}", *map(str, rest)])
        case _:
            schema, where = Elicited, ", ".join(map(str, place))
    if kind == "missing":
        beside = [one["loc"][-1] for one in faults if one["type"] == kind and one["loc"][:-1] == fault["loc"][:-1]]
        return f"{where} lacks {', '.join(map(repr, beside))}"
    if kind in _EXTRA:
        return f"{where}: {unknown('key', str(key), schema.__annotations__)}"
    if kind == "value_error":
        return f"{where} {fault['ctx']['error']}"
    if kind == "list_type":
        return f"{where} must be a list, not {shown(value)}"
    if place in (("sources",), ("classes",)):
        return f"{where} must be a mapping with at least one entry, not {shown(value)}"
    return f"{where} must be a mapping with the keys {', '.join(schema.__annotations__)}, not {shown(value)}"
