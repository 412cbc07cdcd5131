"""How the words of a concept are compared, what they say that no image shows, and whether they name a diagnosis.

The words themselves are data: `words.yaml` beside this file says what an entry matches.

A concept that names a diagnosis would make an explanation circular. A class name is compared by its words. What says
only how something is ("normal", "benign", "severe") names nothing, so "normal heart size" is no name of the class
"normal". Organs and kinds of images ("kidney tumor", "liver") name a class only all together. Any other word
("melanoma", "cyst") does so alone, in its adjectives too ("glaucomatous"). The first two kinds of words stand in
`words.yaml`, under `generic`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from xcoop.utils.reading import read_yaml

PLURALS = ((r"ies$", "y"), (r"(ss|x|z|ch|sh)es$", r"\1"), (r"ses$", "sis"), (r"omata$", "oma"), (r"ae$", "a"),
           (r"([^sui])s$", r"\1"))  # fmt: skip
SHORTEST_ROOT = 5  # letters of a class name's word; shorter roots begin too many other words
ADJECTIVES = ("", "a", "al", "atous", "ic", "is", "itic", "like", "oid", "ous", "tic", "tous", "um", "us")  # endings

Phrase = tuple[str, ...]
"""The words of a text or an entry, each in the form that is compared."""


@dataclass(frozen=True)
class Group:
    """One reason why words are not visual."""

    name: str  # of the reason, e.g. `treatment`
    why: str  # what such words speak of
    words: tuple[Phrase, ...]
    exempt: tuple[Phrase, ...]  # in which such a word is visible after all
    unless: tuple[Phrase, ...]  # of images to which it does not apply; with any, it needs to know their kind


@cache
def vocabulary() -> Mapping[str, Any]:
    """The content of `words.yaml`."""
    content: Mapping[str, Any] = read_yaml(Path(__file__).with_name("words.yaml"))
    return content


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


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, without accents; hyphens part words."""
    return re.findall(r"[a-z0-9]+", _plain(text))


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
    spoken, compared = plain_words(text), normal(text)
    free = list(_matches(compared, exempt))
    found, end = [], 0
    for start, stop in sorted(_matches(compared, phrases), key=lambda match: (match[0], -match[1])):
        if start >= end and not any(first <= start and stop <= last for first, last in free):
            found.append(" ".join(spoken[start:stop]))
            end = stop
    return list(dict.fromkeys(found))


def _matches(words: Phrase, phrases: Iterable[Phrase]) -> Iterator[tuple[int, int]]:
    for phrase in phrases:
        for start in range(len(words) - len(phrase) + 1):
            pairs = zip(words[start:], phrase, strict=False)
            if all(word == entry or ("*" in entry and fnmatchcase(word, entry)) for word, entry in pairs):
                yield start, start + len(phrase)


def nonvisual(text: str, kind: str = "") -> list[str]:
    """The words of a concept that no image shows, as they stand there; none if it is visual as far as we know.

    `nonvisual("itchy plaque in the elderly")` is `["itchy", "elderly"]`.

    Args:
        text: the concept.
        kind: what says of which kind the images are, e.g. the bank's template: cells are visible in histology,
            and not on skin. If it is empty, what depends on it is let pass.
    """
    return [word for word, _ in nonvisual_by_group(text, kind)]


def nonvisual_by_group(text: str, kind: str = "") -> list[tuple[str, Group]]:
    """As `nonvisual`, each with the group that it belongs to."""
    hits: dict[str, Group] = {}
    for group in nonvisual_groups():
        if not group.unless or (kind and not found_in(kind, group.unless)):
            for word in found_in(text, group.words, group.exempt):
                hits.setdefault(word, group)
    return sorted(hits.items(), key=lambda hit: text.lower().find(hit[0].split()[0]))


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


def _is_of(word: str, name: str) -> bool:
    """Whether a word is this word of a class name, or an adjective of it."""
    root = re.sub(r"(is|us|um|[aeiou]+)$", "", name)
    return word == name or (len(root) >= SHORTEST_ROOT and word.startswith(root) and word[len(root) :] in ADJECTIVES)
