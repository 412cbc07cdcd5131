"""From the columns of a concept table to words: `pigment_network=atypical` is "atypical pigment network".

What a dataset's values mean stands in `configs/datasets/concepts/<name>.yaml`, all parts of which may be missing:

    absent: [absent]                          # values that say that nothing is there
    merge:                                    # values that are one finding: column, new value, old values
      pigmentation: {regular: [diffuse regular, localized regular]}
    words:                                    # where "value column" does not read well: column, value, words
      blue_whitish_veil: {present: blue-whitish veil}
    also:                                     # what a bank says in other words still: words, column, values
      regression areas: {regression_structures: [present]}

Columns and values are compared by their words: `Brown(Hyperpigmentation)` is `brown hyperpigmentation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xcoop.concepts.words import plain_words
from xcoop.config.plugins import plugin_path
from xcoop.utils.reading import read_yaml
from xcoop.utils.suggest import unknown

PRESENT, ABSENT = "present", "absent"
YES = {"present", "yes", "true", "1", "1.0", "positive"}
NO = {"absent", "no", "none", "false", "0", "0.0", "negative"}
UNKNOWN = {"", "na", "n/a", "nan", "unknown", "missing", "?"}
MODES = ("merged", "raw", "binary")
KEYS = ("absent", "merge", "words", "also")  # of a file

Table = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Wording:
    """What the values of some concept columns mean."""

    absent: frozenset[str] = frozenset(NO)  # values that say that nothing is there
    merged: Table = field(default_factory=dict)  # per column, the new value of each old one
    words: Table = field(default_factory=dict)  # per column, the words for a value
    # Further words that banks use, and the values of each column that they mean; any of them.
    also: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)

    def values(self, raw: Mapping[str, str], mode: str) -> dict[str, str]:
        """An image's values as they are counted; what is unknown is left out.

        Args:
            raw: per column the value in the table.
            mode: `merged`: as the dataset's file says; `raw`: as they are; `binary`: `present`, or `absent`.

        Raises:
            ValueError: another mode.
        """
        if mode not in MODES:
            raise ValueError(unknown("way to count values", mode, MODES))
        cleaned = {column: value.strip().lower() for column, value in raw.items()}
        return {column: self._value(column, value, mode) for column, value in cleaned.items() if value not in UNKNOWN}

    def phrase(self, column: str, value: str) -> str:
        """The words for a value of a column."""
        if words := self.words.get(_key(column), {}).get(_key(value)):
            return words
        name = readable(column)
        if value in self.absent or value == ABSENT:
            return f"no {self.words.get(_key(column), {}).get(PRESENT, name)}"
        return name if value == PRESENT else f"{readable(value)} {name}"

    def _value(self, column: str, value: str, mode: str) -> str:
        if value in self.absent:
            return ABSENT
        if mode == "binary" or value in YES:
            return PRESENT
        return self.merged.get(_key(column), {}).get(_key(value), value) if mode == "merged" else value


def load_wording(*names: str) -> Wording:
    """The wording of the first of these names that has a file; else the plain one, "value column"."""
    for name in names:
        path = plugin_path("configs", "datasets", "concepts", f"{name}.yaml")
        if name and path.is_file():
            return parse_wording(read_yaml(path))
    return Wording()


def parse_wording(content: Mapping[str, Any]) -> Wording:
    """The wording that a file states; see the head of this module.

    Raises:
        ValueError: a key that means nothing.
    """
    if strange := set(content) - set(KEYS):
        raise ValueError(unknown("key of a wording", min(strange), KEYS))
    merged = {
        _key(column): {_key(old): new for new, olds in values.items() for old in olds}
        for column, values in content.get("merge", {}).items()
    }
    words = {
        _key(column): {_key(value): text for value, text in values.items()}
        for column, values in content.get("words", {}).items()
    }
    also = {
        text: {_key(column): frozenset(values) for column, values in meant.items()}
        for text, meant in content.get("also", {}).items()
    }
    return Wording(frozenset(content.get("absent", ())) | NO, merged, words, also)


def readable(name: str) -> str:
    """A column's name as words: `BlueWhitish_veil` is "blue whitish veil"."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.sub(r"[\s_()\[\].:;,]+", " ", parted).strip().lower()


def _key(name: str) -> str:
    return " ".join(plain_words(name))
