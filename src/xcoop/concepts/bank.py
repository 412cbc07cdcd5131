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
    aliases:                     # may be missing: other names of its classes, for data whose classes are called so
      melanoma: [mel, malignant melanoma]

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

One that was counted in concept labels (`xcoop concepts mine`) has the key `mined`, which says what its knowledge cost:

    mined:
      images: {nevus: 16, melanoma: 16}   # whose labels were counted
      shots: 16                           # if they are those of a few-shot run: its shots and its seed
      seed: 1

Only `template` and `classes` are needed, and a concept may be its wording alone: a bank for a folder of one's own is a
few lines.

    template: "an ultrasound image of a {class}, {concepts}."
    classes:
      benign: [oval shape, circumscribed margin, parallel orientation, posterior enhancement]
      malignant: [irregular shape, spiculated margin, posterior shadowing, microcalcifications]

It is data: nothing in it is executed, and every fault is reported with the file, the class and the value.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from xcoop.config.plugins import plugin_path
from xcoop.utils.console import UserError, closest, shown, unknown
from xcoop.utils.files import atomic_path
from xcoop.utils.reading import MOST_YAML, parse_yaml, read_bytes

TEMPLATE = "a photo of a {class}, {concepts}."  # of a bank for which nothing better is known
FEWEST, MOST = 4, 10  # concepts that are good for a class
NEEDED = ("template", "classes")  # of a file's keys; `_checked` says what stands for the others
POSSIBLE = ("name", "version", "dataset", "reviewed_by", "sources", "aliases", "elicited", "mined")


class BankError(ValueError):
    """A concept bank that breaks the schema; the message names the file, the place and the value."""


@dataclass(frozen=True)
class Concept:
    """One visual concept: its wording, the key of the source that names it ("": none), a language model's votes."""

    text: str
    source: str
    votes: int | None = None


@dataclass(frozen=True)
class Elicited:
    """Which language model a bank was asked of, when, and how; see the head of this module."""

    model: str
    host: str
    date: str
    samples: int
    threshold: float
    prompt_sha256: str
    prompt: str


@dataclass(frozen=True)
class Mined:
    """In whose labels a bank's concepts were counted: images by class, and the run whose shots they are, if any."""

    images: Mapping[str, int]
    shots: int | None = None
    seed: int | None = None

    def summary(self) -> str:
        """How many, and which."""
        which = f", the {self.shots} shots of seed {self.seed}" if self.shots else ""
        return f"{sum(self.images.values())} labelled images{which}"


@dataclass(frozen=True)
class ConceptBank:
    """The concepts of some classes, with where they come from.

    Attributes:
        classes: per class name its concepts, in the order of the file (or of `for_classes`). A file has at least one a
            class; `sentences.bank_or_control` makes banks without any.
        template: a sentence with `{class}` and `{concepts}` (the latter only where there are concepts).
        sha256: of the file's content: what a result records.
        elicited: None for a bank that people wrote.
        mined: None for a bank that was not counted in labels.
        aliases: per class the other names under which `for_classes` finds it.
        by_alias: of the classes that `for_classes` found under another name, the bank's own: `{"mel": "melanoma"}`.
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
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    by_alias: Mapping[str, str] = field(default_factory=dict)
    mined: Mined | None = None

    def for_classes(self, classnames: Sequence[str]) -> ConceptBank:
        """The bank of exactly these classes, in their order and under the names given here; see `match`.

        Classes of the bank that are not asked for are left out.
        """
        found = self.match(classnames)
        own = {name: self.by_alias.get(found[name], found[name]) for name in classnames}  # as the file calls them
        return replace(
            self,
            classes={name: self.classes[found[name]] for name in classnames},
            aliases={
                name: tuple(other for other in self.names(found[name]) if same_name(other) != same_name(name))
                for name in classnames
            },
            by_alias={name: own[name] for name in classnames if same_name(name) != same_name(own[name])},
        )

    def match(self, classnames: Sequence[str]) -> dict[str, str]:
        """The bank's class for each of these names: that of the same name, else the one that has it as an alias.

        Case, `_`, `-` and blanks do not count.

        Raises:
            ValueError: a class is missing, or two of the names are the same class.
        """
        known = {same_name(alias): name for name in self.classes for alias in self.names(name)}
        if missing := [name for name in classnames if same_name(name) not in known]:
            every = [alias for name in self.classes for alias in self.names(name)]
            near = {name: closest(name, every) for name in missing}
            absent = (shown(name) + (f" (nearest: {near[name]!r})" if near[name] else "") for name in missing)
            raise ValueError(
                f"{self.path}: the bank has no concepts for {', '.join(absent)}.\n"
                f"  classes of the dataset: {', '.join(classnames)}\n"
                f"  classes of the bank:    {', '.join(map(self._with_aliases, self.classes))}\n"
                "  If one of them is meant, say so in a copy of the bank: `aliases: {its class: [the dataset's name]}`"
            )
        if len({same_name(name) for name in classnames}) < len(classnames):
            raise ValueError(f"the dataset's classes hold the same name twice: {list(classnames)}")
        found: dict[str, str] = {}
        for name in classnames:
            own = known[same_name(name)]
            if own in found.values():
                other = next(other for other in found if found[other] == own)
                raise ValueError(
                    f"{self.path}: the classes {shown(other)} and {shown(name)} of the dataset are both {own!r} in the "
                    "bank, so its concepts cannot tell them apart"
                )
            found[name] = own
        return found

    def names(self, classname: str) -> tuple[str, ...]:
        """A class's own name, and its aliases."""
        return (classname, *self.aliases.get(classname, ()))

    def _with_aliases(self, classname: str) -> str:
        aliases = self.aliases.get(classname, ())
        return classname + (f" (or {', '.join(aliases)})" if aliases else "")

    def summary(self) -> str:
        """Name, version, the number of concepts a class, and who reviewed them."""
        counts = " + ".join(str(len(concepts)) for concepts in self.classes.values())
        readers = ", ".join(self.reviewed_by) or "nobody so far"
        mined = [f"mined from {self.mined.summary()}"] if self.mined else []
        renamed = (f"{name!r} is its {own!r}" for name, own in self.by_alias.items())
        first = f"{self.name} {self.version}: {counts} concepts, reviewed by {readers}"
        return "; ".join([first, *mined, *renamed])

    def facts(self) -> dict[str, Any]:
        """What a record says of the bank; `aliases`: the dataset's classes that the bank calls otherwise."""
        facts = {"name": self.name, "version": self.version, "sha256": self.sha256, "aliases": dict(self.by_alias)}
        return facts | ({"mined": asdict(self.mined)} if self.mined else {})

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
    try:
        return _checked(path, content, hashlib.sha256(data).hexdigest())
    except BankError as error:
        raise BankError(f"{path}: {error}") from None


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
    if serving := [name for name in bank_names() if classnames and _serves(load_bank(name), classnames)]:
        message += f" Banks of this package with classes of these names: {', '.join(serving)}."
    if classnames:
        where = f"{dataset.dataset_dir}/concepts.yaml" if own == "Folder" else "a YAML file"
        message += f" To write one, fill this in and save it as {where}:\n\n{skeleton(own, classnames)}"
    raise ValueError(message)


def _serves(bank: ConceptBank, classnames: Sequence[str]) -> bool:
    try:
        bank.match(classnames)
    except ValueError:
        return False
    return True


def require_new_bank(out: Path, force: bool) -> None:
    """Refuses an --out that is no YAML file, or that is there already; UserError."""
    if out.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(f"--out must be a YAML file (.yaml), not {out}")
    if out.exists() and not force:
        raise UserError(f"{out} exists; --force overwrites it")


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

    seen = f"# what is seen; {FEWEST} to {MOST} lines"
    classes = "".join(f"  {quoted(name)}:\n    - {{concept: , source: atlas}}  {seen}\n" for name in classnames)
    return (
        f"name: {quoted(dataset.lower())}\n"
        'version: "1"\n'
        f"dataset: {quoted(dataset)}\n"
        'template: "a medical image of {class}, {concepts}."\n'
        "reviewed_by: []  # clinicians who approved it\n"
        f"sources:\n  atlas:   # the publication that names the concepts\nclasses:\n{classes}"
    )


# The schema. What is checked here is plain data: each function takes where it stands, for the message, and the value.


def _checked(path: Path, data: Any, sha256: str) -> ConceptBank:
    """The bank that a file's content describes; BankError for the first fault."""
    content = {
        "name": path.stem,
        "version": "unnumbered",
        "dataset": path.stem,
        "reviewed_by": [],
        **_mapping("the bank", data, NEEDED, POSSIBLE),
    }
    name, version, dataset, template = (_text(key, content[key]) for key in ("name", "version", "dataset", "template"))
    if sorted(re.findall(r"\{[^{}]*\}|[{}]", template)) != ["{class}", "{concepts}"]:
        raise BankError(f"template {shown(template)} must hold {{class}} and {{concepts}} once each, nothing else")
    sources = {
        _text("a source's key", key): _text(f"source {shown(key)}", citation)
        for key, citation in (_entries("sources", content["sources"]) if "sources" in content else {}).items()
    }
    classes: dict[str, tuple[Concept, ...]] = {}
    spelt: dict[str, str] = {}
    for classname, concepts in _entries("classes", content["classes"]).items():
        where = f"class {shown(_text('a class name', classname))}"
        if (other := spelt.setdefault(same_name(classname), classname)) != classname:
            raise BankError(f"the classes {other!r} and {classname!r} are the same (case, '_', '-' do not count)")
        own = [_concept(where, concept, sources) for concept in _list(where, concepts)]
        if not own:
            raise BankError(f"{where} has no concepts")
        texts = [same_name(concept.text) for concept in own]
        for i, text in enumerate(texts):
            if text in texts[:i]:
                raise BankError(f"{where} holds the concept {shown(own[i].text)} twice")
        classes[classname.strip()] = tuple(own)
    reviewed_by = tuple(_text("reviewed_by", reader) for reader in _list("reviewed_by", content["reviewed_by"]))
    elicited = _elicited(content["elicited"]) if "elicited" in content else None
    aliases = _aliases(content["aliases"], classes) if "aliases" in content else {}
    mined = _mined(content["mined"]) if "mined" in content else None
    return ConceptBank(
        name, version, dataset, template, classes, sources, reviewed_by, path, sha256, elicited, aliases, mined=mined
    )


def _aliases(data: Any, classes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Per class its other names, no two of which are the same in a match, nor the same as a class."""
    owners = {same_name(name): name for name in classes}
    aliases: dict[str, tuple[str, ...]] = {}
    for classname, names in _entries("aliases", data).items():
        where = f"aliases of {shown(classname)}"
        if classname not in owners.values():
            raise BankError(f"aliases: {unknown('class', str(classname), owners.values())}")
        aliases[classname] = tuple(_text(where, name) for name in _list(where, names))
        for name in aliases[classname]:
            if (owner := owners.setdefault(same_name(name), classname)) != classname:
                raise BankError(f"{where}: {shown(name)} is a name of the class {owner!r} already")
        if len(set(map(same_name, (classname, *aliases[classname])))) <= len(aliases[classname]):
            raise BankError(f"{where}: {[classname, *aliases[classname]]} holds a name twice (case, '_', '-' aside)")
    return aliases


def _concept(where: str, data: Any, sources: Mapping[str, str]) -> Concept:
    if isinstance(data, str):
        return Concept(_text(f"{where}, a concept", data), "")
    where = f"{where}, concept {shown(data.get('concept', data) if isinstance(data, dict) else data)}"
    if not isinstance(data, dict):
        raise BankError(f"{where} must be a text (quote it if YAML reads something else), or a mapping with `concept`")
    concept = _mapping(where, data, ["concept"], ["source", "votes"])
    text = _text(f"{where}, concept", concept["concept"])
    source = _text(f"{where}, source", concept["source"]) if "source" in concept else ""
    if source and source not in sources:
        raise BankError(f"{where}: {unknown('source', source, sources)}")
    return Concept(text, source, _count(f"{where}, votes", concept["votes"]) if "votes" in concept else None)


def _elicited(data: Any) -> Elicited:
    content = _mapping("elicited", data, [*Elicited.__annotations__])
    for key in ("model", "host", "date", "prompt_sha256", "prompt"):
        _text(f"elicited, {key}", content[key])
    _count("elicited, samples", content["samples"])
    share = content["threshold"]
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise BankError(f"elicited, threshold must be a share above 0, at most 1, not {shown(share)}")
    if hashlib.sha256(content["prompt"].encode()).hexdigest() != content["prompt_sha256"]:
        raise BankError("elicited, prompt is not the text that prompt_sha256 belongs to")
    return Elicited(**content)


def _mined(data: Any) -> Mined:
    content = _mapping("mined", data, ["images"], ["shots", "seed"])
    images = _entries("mined, images", content["images"])
    counts = {
        _text("mined, images: a class", name): _count(f"mined, images of {name}", n) for name, n in images.items()
    }
    if ("shots" in content) != ("seed" in content):
        raise BankError("mined: shots and seed stand together, or neither does")
    if type(seed := content.get("seed", 0)) is not int:
        raise BankError(f"mined, seed must be a whole number, not {shown(seed)}")
    shots = _count("mined, shots", content["shots"]) if "shots" in content else None
    return Mined(counts, shots, content.get("seed"))


def _mapping(where: str, value: Any, needed: Sequence[str], possible: Sequence[str] = ()) -> dict[str, Any]:
    """A mapping with these keys and no others."""
    known = [*needed, *possible]
    if not isinstance(value, dict):
        raise BankError(f"{where} must be a mapping with the keys {', '.join(known)}, not {shown(value)}")
    for key in value:
        if key not in known:  # before those that lack: it may be one of them misspelt
            raise BankError(f"{where}: {unknown('key', str(key), known)}")
    if lacking := [key for key in needed if key not in value]:
        raise BankError(f"{where} lacks {', '.join(map(repr, lacking))}")
    return value


def _entries(where: str, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict) or not value:
        raise BankError(f"{where} must be a mapping with at least one entry, not {shown(value)}")
    return value


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BankError(f"{where} must be a list, not {shown(value)}")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BankError(f"{where} must be a text (quote it if YAML reads something else), not {shown(value)}")
    return value.strip()


def _count(where: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise BankError(f"{where} must be a whole number above 0, not {shown(value)}")
    return value
