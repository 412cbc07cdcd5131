"""The words of concepts: how they are compared, what they say that no image shows, and those of a concept table.

*Comparing.* Case, accents, number and spelling do not count. `words.yaml` beside this file holds the words, and says
what an entry matches.

*Diagnoses.* A concept that names a diagnosis would make an explanation circular. A class name is compared by its words.
What says only how something is ("normal", "benign", "severe") names nothing, so "normal heart size" is no name of the
class "normal". Organs and kinds of images ("kidney tumor", "liver") name a class only all together. Any other word
("melanoma", "cyst") does so alone, in its adjectives too ("glaucomatous"). The first two kinds of words stand in
`words.yaml`, under `generic`; under `diagnoses` stand families of words that mean one diagnosis ("carcinoma" and
"malignant tumor"; "BCC").

*Tables.* `pigment_network=atypical` is "atypical pigment network". What a dataset's values mean stands in
`configs/datasets/concepts/<name>.yaml`, all parts of which may be missing:

    absent: [absent]                          # values that say that nothing is there
    merge:                                    # values that are one finding: column, new value, old values
      pigmentation: {regular: [diffuse regular, localized regular]}
    words:                                    # where "value column" does not read well: column, value, words
      blue_whitish_veil: {present: blue-whitish veil}
    also:                                     # what a bank says in other words still: words, column, values
      regression areas: {regression_structures: [present]}
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from xcoop.config.plugins import plugin_path
from xcoop.utils.console import unknown
from xcoop.utils.reading import read_yaml

PLURALS = ((r"ies$", "y"), (r"(ss|x|z|ch|sh)es$", r"\1"), (r"ses$", "sis"), (r"omata$", "oma"), (r"ae$", "a"),
           (r"([^sui])s$", r"\1"))  # fmt: skip
SHORTEST_ROOT = 5  # letters of a class name's word; shorter roots begin too many other words
ADJECTIVES = ("", "a", "al", "atous", "ic", "is", "itic", "like", "oid", "ous", "tic", "tous", "um", "us")  # endings
DENIALS = ("no", "non", "not", "nothing", "without")  # in the names of classes

PRESENT, ABSENT = "present", "absent"
YES = {"present", "yes", "true", "1", "1.0", "positive"}
NO = {"absent", "no", "none", "false", "0", "0.0", "negative"}
UNKNOWN = {"", "na", "n/a", "nan", "unknown", "missing", "?"}
MODES = ("merged", "raw", "binary")  # in which a table's values are counted

Phrase = tuple[str, ...]
"""The words of a text or an entry, each in the form that is compared."""


class Group(NamedTuple):
    """One reason why words are not visual."""

    name: str  # of the reason, e.g. `treatment`
    why: str  # what such words speak of
    words: tuple[Phrase, ...]
    exempt: tuple[Phrase, ...]  # in which such a word is visible after all
    unless: tuple[Phrase, ...]  # of images to which it does not apply; with any, it needs to know their kind


class Family(NamedTuple):
    """Words that mean one diagnosis, or one group of them."""

    name: str
    words: tuple[Phrase, ...]
    classes: tuple[Phrase, ...]  # further words by which a class is of the family
    exempt: tuple[Phrase, ...]  # in which such a word means something else

    def holds(self, name: str) -> bool:
        """Whether a class of this name is of the family; "no tumor" and "non-neoplastic" are not of that of tumors."""
        phrases = (*self.words, *self.classes)
        affirmed = re.split(rf"\b(?:{'|'.join(DENIALS)})\b", " ".join(plain_words(name)))[0]
        denying = [phrase for phrase in phrases if phrase[0] in DENIALS]
        return bool(found_in(affirmed, phrases, self.exempt) or found_in(name, denying, self.exempt))


class Leak(NamedTuple):
    """How a concept says a diagnosis."""

    words: list[str]  # as they stand in the concept
    classes: list[str]  # which of the classes they mean
    family: str  # empty if they are words of the class's own name


@cache
def vocabulary() -> Mapping[str, Any]:
    """The content of `words.yaml`."""
    return read_yaml(Path(__file__).with_name("words.yaml"))


@cache
def entries(*keys: str) -> tuple[Phrase, ...]:
    """The entries of a list of `words.yaml`, e.g. `entries("generic", "things")`; none if there is no such list."""
    content: Any = vocabulary()
    for key in keys:
        content = content.get(key, {})
    words = [re.findall(r"[a-z0-9*]+", _plain(entry)) for entry in content]
    return tuple(tuple(word if "*" in word else _base(word) for word in entry) for entry in words)


@cache
def nonvisual_groups() -> tuple[Group, ...]:
    """What no image shows, by reason."""
    return tuple(
        Group(name, group["why"], *(entries("nonvisual", name, key) for key in ("words", "except", "unless")))
        for name, group in vocabulary()["nonvisual"].items()
    )


@cache
def families() -> tuple[Family, ...]:
    """The words for diagnoses, by what they mean."""
    kinds = ("words", "classes", "except")
    return tuple(
        Family(name, *(entries("diagnoses", name, kind) for kind in kinds)) for name in vocabulary()["diagnoses"]
    )


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, without accents; hyphens part words."""
    return re.findall(r"[a-z0-9]+", _plain(text))


@lru_cache(maxsize=4096)
def normal(text: str) -> Phrase:
    """The words of a text as they are compared: in the singular and in American spelling."""
    return tuple(map(_base, plain_words(text)))


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))


@cache
def _base(word: str) -> str:
    """The singular in American spelling. Only for comparing: "raised" becomes "raized", and so does every other."""
    for british, american in vocabulary()["spellings"].items():
        word = word.replace(british, american)
    if word in vocabulary()["plurals"]:
        return str(vocabulary()["plurals"][word])
    for ending, replacement in PLURALS if len(word) > 3 else ():
        singular, changed = re.subn(ending, replacement, word)
        if changed:
            return singular
    return word


def found_in(text: str, phrases: Iterable[Phrase], exempt: Iterable[Phrase] = ()) -> list[str]:
    """Which parts of a text match one of the phrases, as they stand there, in their order, overlaps left out.

    Args:
        text: any text.
        phrases: what is looked for.
        exempt: what matches lies inside of one of these does not count.
    """
    compared, phrases = normal(text), tuple(phrases)
    if not _pattern(phrases).search(" ".join(compared)):
        return []  # at once, as nearly always
    spoken = plain_words(text)
    free = list(_matches(compared, exempt))
    found, end = [], 0
    for start, stop in sorted(_matches(compared, phrases), key=lambda match: (match[0], -match[1])):
        if start >= end and not any(first <= start and stop <= last for first, last in free):
            found.append(" ".join(spoken[start:stop]))
            end = stop
    return list(dict.fromkeys(found))


@cache
def _pattern(phrases: tuple[Phrase, ...]) -> re.Pattern[str]:
    """Finds any of the phrases among words that are parted by blanks."""
    either = "|".join(re.escape(" ".join(phrase)).replace(r"\*", r"\S*") for phrase in phrases)
    return re.compile(rf"(?<!\S)(?:{either})(?!\S)" if phrases else r"(?!)")


def _matches(words: Phrase, phrases: Iterable[Phrase]) -> Iterator[tuple[int, int]]:
    for phrase in phrases:
        for start in range(len(words) - len(phrase) + 1):
            pairs = zip(words[start:], phrase, strict=False)
            if all(word == entry or ("*" in entry and fnmatchcase(word, entry)) for word, entry in pairs):
                yield start, start + len(phrase)


def nonvisual(text: str, kind: str = "") -> dict[str, Group]:
    """The words of a concept that no image shows, as they stand there, each with its group; none if it is visual.

    Of `itchy plaque in the elderly` they are `itchy` (symptoms) and `elderly` (epidemiology).

    Args:
        text: the concept.
        kind: what says of which kind the images are, e.g. the bank's template: cells are visible in histology,
            and not on skin. If it is empty, what depends on it is let pass.
    """
    hits: dict[str, Group] = {}
    for group in nonvisual_groups():
        if not group.unless or (kind and not found_in(kind, group.unless)):
            for word in found_in(text, group.words, group.exempt):
                hits.setdefault(word, group)
    return dict(sorted(hits.items(), key=lambda hit: text.lower().find(hit[0].split()[0])))


def names_class(text: str, classname: str) -> list[str]:
    """The words by which a concept names a class, as they stand in it; none if it does not."""
    name = normal(classname)
    words = list(zip(plain_words(text), normal(text), strict=True))
    found = {word: [spoken for spoken, compared in words if _is_of(compared, word)] for word in name}
    own = [word for word in name if (word,) not in entries("generic", "adjectives")]
    if own and all(found.values()):
        telling = name
    else:
        telling = tuple(word for word in own if (word,) not in entries("generic", "things"))
    return list(dict.fromkeys(spoken for word in telling for spoken in found[word]))


def leaks(text: str, names: Mapping[str, Sequence[str]]) -> list[Leak]:
    """What a concept says of diagnoses: by the words of a class's names, or by others that mean it.

    Args:
        text: the concept.
        names: per class of the bank the names that it has: its own, then its aliases. An alias counts as a whole, and
            not if it holds nothing but adjectives, organs and kinds of images ("pituitary").

    Returns:
        First those by a name, one a class, then those by a family of words. A family of which all classes are says
        nothing, and is left out, as is a class that is named already.
    """
    found = []
    for classname, (own, *aliases) in names.items():
        words = [*names_class(text, own), *found_in(text, filter(_tells, map(normal, aliases)))]
        if words:
            found.append(Leak(list(dict.fromkeys(words)), [classname], ""))
    named = {name for leak in found for name in leak.classes}
    for family in families():
        if words := found_in(text, family.words, family.exempt):
            meant = [classname for classname, own in names.items() if any(map(family.holds, own))]
            if len(meant) < len(names) and not named.issuperset(meant):
                found.append(Leak(words, meant, family.name))
    return found


def _tells(name: Phrase) -> bool:
    """Whether a name holds a word that tells a diagnosis."""
    return not {(word,) for word in name} <= {*entries("generic", "adjectives"), *entries("generic", "things")}


def _is_of(word: str, name: str) -> bool:
    """Whether a word is this word of a class name, or an adjective of it."""
    root = re.sub(r"(is|us|um|[aeiou]+)$", "", name)
    return word == name or (len(root) >= SHORTEST_ROOT and word.startswith(root) and word[len(root) :] in ADJECTIVES)


# The columns and values of concept tables.


@dataclass(frozen=True)
class Wording:
    """What the values of some concept columns mean; columns and values as `plain_name` has them."""

    absent: frozenset[str] = frozenset(NO)  # values that say that nothing is there
    merged: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # per column, the new value of each old one
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # per column, the words for a value
    # Further words that banks use, and the values of each column that they mean; any of them.
    also: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)

    def values(self, raw: Mapping[str, str], mode: str) -> dict[str, str]:
        """An image's values as they are counted; what is unknown is left out.

        Args:
            raw: per column the value in the table.
            mode: `merged`: as the dataset's file says; `raw`: as they are; `binary`: `present`, or `absent`.
        """
        counted = {}
        for column, value in ((column, value.strip().lower()) for column, value in raw.items()):
            if value in UNKNOWN:
                continue
            if value in self.absent:
                counted[column] = ABSENT
            elif mode == "binary" or value in YES:
                counted[column] = PRESENT
            else:
                merged = self.merged.get(plain_name(column), {}) if mode == "merged" else {}
                counted[column] = merged.get(plain_name(value), value)
        return counted

    def phrase(self, column: str, value: str) -> str:
        """The words for a value of a column."""
        words = self.words.get(plain_name(column), {})
        if plain_name(value) in words:
            return words[plain_name(value)]
        name = readable(column)
        if value in self.absent or value == ABSENT:
            return f"no {words.get(PRESENT, name)}"
        return name if value == PRESENT else f"{readable(value)} {name}"


def load_wording(*names: str) -> Wording:
    """The wording of the first of these names that has a file; else the plain one, "value column".

    Raises:
        ValueError: the file has a key that means nothing.
    """
    paths = [plugin_path("configs", "datasets", "concepts", f"{name}.yaml") for name in names]
    path = next(filter(Path.is_file, paths), None)
    if not path:
        return Wording()
    content: Mapping[str, Any] = read_yaml(path)
    keys = ("absent", "merge", "words", "also")
    if strange := set(content).difference(keys):
        raise ValueError(f"{path}: {unknown('key', min(strange), keys)}")
    return Wording(
        absent=frozenset(NO.union(content.get("absent", ()))),
        merged={
            plain_name(column): {plain_name(old): new for new, olds in values.items() for old in olds}
            for column, values in content.get("merge", {}).items()
        },
        words={
            plain_name(column): {plain_name(value): text for value, text in values.items()}
            for column, values in content.get("words", {}).items()
        },
        also={
            text: {plain_name(column): frozenset(values) for column, values in meant.items()}
            for text, meant in content.get("also", {}).items()
        },
    )


def readable(name: str) -> str:
    """A column's name as words: `BlueWhitish_veil` is "blue whitish veil"."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.sub(r"[\s_()\[\].:;,]+", " ", parted).strip().lower()


def plain_name(name: str) -> str:
    """A column or a value as it is compared: `Brown(Hyperpigmentation)` is "brown hyperpigmentation"."""
    return " ".join(plain_words(name))
