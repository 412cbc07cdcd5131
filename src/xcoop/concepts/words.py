"""What the words of a concept say that no picture shows, and how words are compared.

The words themselves are data: `words.yaml` beside this file says what an entry matches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from xcoop.utils.reading import read_yaml

WORD = re.compile(r"[a-z0-9]+")
PATTERN = re.compile(r"[a-z0-9*]+")
PLURALS = ((r"ies$", "y"), (r"(ss|x|z|ch|sh)es$", r"\1"), (r"ses$", "sis"), (r"omata$", "oma"), (r"ae$", "a"),
           (r"([^sui])s$", r"\1"))  # fmt: skip

Phrase = tuple[str, ...]
"""The words of a text or an entry, each in the form that is compared."""


@dataclass(frozen=True)
class Group:
    """One reason why words are not visual.

    Attributes:
        name: of the reason, e.g. `treatment`.
        why: what such words speak of.
        words: what is looked for.
        exempt: phrases in which such a word is visible after all.
        unless: words of a kind of picture to which the group does not apply; if there are any, the group applies only
            where the kind of picture is known.
    """

    name: str
    why: str
    words: tuple[Phrase, ...]
    exempt: tuple[Phrase, ...] = ()
    unless: tuple[Phrase, ...] = ()

    def applies(self, picture: str) -> bool:
        """Whether such words are not visible in this kind of picture."""
        return not self.unless or (bool(picture) and not found_in(picture, self.unless))


def nonvisual(text: str, picture: str = "") -> list[str]:
    """The words of a concept that no picture shows, as they stand there; none if it is visual as far as we know.

    `nonvisual("itchy plaque in the elderly")` is `["itchy", "elderly"]`.

    Args:
        text: the concept.
        picture: what says of which kind the pictures are, e.g. the bank's template: cells are visible in histology,
            and not on skin. If it is empty, what depends on it is let pass.
    """
    return [word for word, _ in nonvisual_by_group(text, picture)]


def nonvisual_by_group(text: str, picture: str = "") -> list[tuple[str, Group]]:
    """As `nonvisual`, each with the group that it belongs to."""
    hits = [
        (word, group)
        for group in vocabulary().nonvisual
        if group.applies(picture)
        for word in found_in(text, group.words, group.exempt)
    ]
    unique = {word: (word, group) for word, group in reversed(hits)}
    return sorted(unique.values(), key=lambda hit: text.lower().find(hit[0].split()[0]))


def found_in(text: str, phrases: Iterable[Phrase], exempt: Iterable[Phrase] = ()) -> list[str]:
    """Which parts of a text match one of the phrases, as they stand there, in their order, overlaps left out.

    Args:
        text: any text.
        phrases: what is looked for.
        exempt: what matches lies inside of one of these does not count.
    """
    spoken, compared = plain_words(text), normal(text)
    free = list(_matches(compared, exempt))
    taken: list[range] = []
    for match in sorted(_matches(compared, phrases), key=lambda match: (match.start, -len(match))):
        if not (any(_inside(match, other) for other in free) or any(_overlap(match, other) for other in taken)):
            taken.append(match)
    return list(dict.fromkeys(" ".join(spoken[match.start : match.stop]) for match in taken))


def _matches(words: Phrase, phrases: Iterable[Phrase]) -> Iterator[range]:
    for phrase in phrases:
        for start in range(len(words) - len(phrase) + 1):
            if all(map(_equal, words[start:], phrase)):
                yield range(start, start + len(phrase))


def _inside(inner: range, outer: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def _equal(word: str, pattern: str) -> bool:
    return word == pattern or ("*" in pattern and fnmatchcase(word, pattern))


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, without accents; hyphens part words."""
    return WORD.findall(_plain(text))


def normal(text: str) -> Phrase:
    """The words of a text as they are compared: in the singular and in American spelling."""
    return tuple(_base(word) for word in plain_words(text))


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))


@cache
def _base(word: str) -> str:
    """The singular in American spelling. Only for comparing: "raised" becomes "raized", and so does every other."""
    for british, american in vocabulary().spellings.items():
        word = word.replace(british, american)
    if word in vocabulary().plurals:
        return vocabulary().plurals[word]
    for ending, replacement in PLURALS if len(word) > 3 else ():
        singular, changed = re.subn(ending, replacement, word)
        if changed:
            return singular
    return word


@dataclass(frozen=True)
class Vocabulary:
    """The content of `words.yaml`; see there."""

    spellings: Mapping[str, str]
    plurals: Mapping[str, str]
    raw: Mapping[str, Any]

    @property
    def nonvisual(self) -> tuple[Group, ...]:
        """What no picture shows, by reason."""
        return _groups()

    def phrases(self, *keys: str) -> tuple[Phrase, ...]:
        """The entries of a list, e.g. `phrases("generic", "things")`."""
        content: Any = self.raw
        for key in keys:
            content = content[key]
        return _phrases(content)


@cache
def vocabulary() -> Vocabulary:
    """The words of `words.yaml`."""
    content = read_yaml(Path(__file__).with_name("words.yaml"))
    return Vocabulary(content.pop("spellings"), content.pop("plurals"), content)


@cache
def _groups() -> tuple[Group, ...]:
    return tuple(
        Group(name, group["why"], *(_phrases(group.get(key, ())) for key in ("words", "except", "unless")))
        for name, group in vocabulary().raw["nonvisual"].items()
    )


def _phrases(entries: Sequence[str]) -> tuple[Phrase, ...]:
    return tuple(tuple(map(_pattern, PATTERN.findall(_plain(entry)))) for entry in entries)


def _pattern(word: str) -> str:
    """A word of an entry as it is compared; a part of a word keeps its ending."""
    return word if "*" in word else _base(word)
