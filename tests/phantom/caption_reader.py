"""Reads captions back, independently of how they are made."""

import re
from functools import cache

from xcoop.phantom.captions import DIAGNOSES, terms


def said_in(kind, text):
    """The terms and the diagnosis words that stand in a caption (the longest wording wins)."""
    by_words, pattern = _reader(kind)
    found = pattern.findall(text)
    said = {by_words[words] for words in found if words in by_words}
    return said, {words for words in found if words not in by_words}


@cache
def _reader(kind):
    by_words = {wording: term for term in terms(kind) for wording in term.wordings}
    names = {name for names in DIAGNOSES[kind].values() for name in names}
    longest_first = sorted({*by_words, *names}, key=len, reverse=True)
    return by_words, re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, longest_first)) + r")(?![\w-])")
