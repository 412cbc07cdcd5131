"""Concepts that name a diagnosis: an explanation by them would be circular.

A class name is compared by its words. What says only how something is ("normal", "benign", "severe") names nothing, so
"normal heart size" is no name of the class "normal". Organs and kinds of pictures ("kidney tumor", "liver") name a
class only all together. Any other word ("melanoma", "cyst") does so alone, in its adjectives too ("glaucomatous").
The first two kinds of words stand in `words.yaml`, under `generic`.
"""

from __future__ import annotations

import re

from xcoop.concepts.words import normal, plain_words, vocabulary

SHORTEST_ROOT = 5  # letters; shorter ones begin too many other words
ENDINGS = ("", "a", "al", "atous", "ic", "is", "itic", "like", "oid", "ous", "tic", "tous", "um", "us")


def names_class(text: str, classname: str) -> list[str]:
    """The words by which a concept names a class, as they stand in it; none if it does not.

    Args:
        text: the concept.
        classname: as in the bank.
    """
    name = normal(classname)
    own = [word for word in name if not _is("adjectives", word)]
    telling = [word for word in own if not _is("things", word)]
    found = {word: _spoken(text, word) for word in name}
    if own and all(found.values()):
        return list(dict.fromkeys(spoken for words in found.values() for spoken in words))
    return list(dict.fromkeys(spoken for word in telling for spoken in found[word]))


def _is(kind: str, word: str) -> bool:
    return (word,) in vocabulary().phrases("generic", kind)


def _spoken(text: str, word: str) -> list[str]:
    """The words of a text that are this word of a class name, or an adjective of it."""
    return [spoken for spoken, compared in zip(plain_words(text), normal(text), strict=True) if _is_of(compared, word)]


def _is_of(word: str, name: str) -> bool:
    root = re.sub(r"(is|us|um|[aeiou]+)$", "", name)
    if len(root) < SHORTEST_ROOT:
        return word == name
    return word == name or (word.startswith(root) and word[len(root) :] in ENDINGS)
