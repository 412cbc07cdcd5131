"""Reading keys and values that a person wrote: each is checked, and an error names the file, the key and the value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from typing import Any

from xcoop.data.items import SPLITS, WHOLE
from xcoop.utils.suggest import shown, unknown

MAX_SIZE = 1 << 50  # bytes


class Reader:
    """The values of one mapping of a YAML file.

    Args:
        tree: what the file holds at this place.
        where: the file, and the place in it, for messages.
        kind: the dataclass that the keys stand for: its fields are the keys, those without a default are required.
        filled: fields that do not stand in the file.

    Raises:
        ValueError: `tree` is no mapping, has an unknown key, or lacks a required one.
    """

    def __init__(self, tree: Any, where: str, kind: type, filled: Iterable[str] = ()) -> None:
        if not isinstance(tree, dict):
            raise ValueError(f"{where} must hold keys and values, not {shown(tree)}")
        self._tree, self._where = tree, where
        known = {field.name: field for field in fields(kind) if field.name not in filled}
        for key in tree:
            if key not in known:
                raise ValueError(f"{where}: {unknown('key', str(key), known)}")
        required = [name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
        if lacking := [name for name in required if name not in tree]:
            raise ValueError(f"{where} lacks {', '.join(lacking)}")

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self._tree

    def text(self, key: str) -> str:
        """A text without the blanks around it (line breaks stay within); empty if the key is absent."""
        value = self._tree.get(key, "")
        if not isinstance(value, str):
            raise self._wrong(key, "a text", value)
        return value.strip("\n") if "\n" in value.strip() else value.strip()

    def matching(self, key: str, pattern: str, meaning: str) -> str:
        """A text that a regular expression matches as a whole."""
        value = self.text(key)
        if not re.fullmatch(pattern, value):
            raise self._wrong(key, meaning, value)
        return value

    def choice(self, key: str, options: Iterable[str]) -> str:
        """One of several words; empty if the key is absent."""
        value = self.text(key)
        if value not in options:
            raise ValueError(f"{self._where}: {unknown(key, value, [word for word in options if word])}")
        return value

    def texts(self, key: str, options: Iterable[str]) -> dict[str, str]:
        """A text for some of several words; none if the key is absent."""
        found = self._mapping(self._tree.get(key, {}), key)
        for word, text in found.items():
            if word not in options:
                raise ValueError(f"{self._where}: {key}: {unknown('key', word, options)}")
            if not isinstance(text, str) or not text.strip():
                raise self._wrong(f"{key}.{word}", "a text", text)
        return found

    def size(self, key: str) -> int:
        """A number of bytes above 0; 0 if the key is absent."""
        value = self._tree.get(key, 0)
        if type(value) is not int or not (0 < value < MAX_SIZE or key not in self._tree):
            raise self._wrong(key, "a number of bytes", value)
        return value

    def inner_path(self, key: str, root: bool = False) -> str:
        """A relative path that stays below its root, with `/`.

        Args:
            key: where it stands.
            root: whether `.`, the root itself, will do.
        """
        value = self.text(key)
        parts = value.split("/")
        good = value and "\\" not in value and ":" not in value and not {"", ".", ".."} & set(parts)
        if not good and not (root and value == "."):
            raise self._wrong(key, "a path below the data root, such as 'Name/file.zip'", value)
        return value

    def rows(self, key: str) -> Iterator[tuple[Any, str]]:
        """The entries of a list, each with its place for messages; none if the key is absent."""
        value = self._tree.get(key, [])
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return ((row, f"{self._where}: {key}[{index}]") for index, row in enumerate(value))

    def counts(self, key: str) -> dict[str, dict[str, dict[str, int]]]:
        """Numbers of images by task, split and class."""
        tasks: dict[str, dict[str, dict[str, int]]] = {}
        for task, splits in self._mapping(self._tree[key], key).items():
            tasks[task] = {}
            for split, classes in self._mapping(splits, f"{key}.{task}").items():
                if split not in (*SPLITS, WHOLE):
                    raise ValueError(f"{self._where}: {key}.{task}: {unknown('split', split, (*SPLITS, WHOLE))}")
                tasks[task][split] = self._numbers(classes, f"{key}.{task}.{split}")
        return tasks

    def _numbers(self, value: Any, key: str) -> dict[str, int]:
        numbers = self._mapping(value, key)
        for name, number in numbers.items():
            if type(number) is not int or number < 0:
                raise self._wrong(f"{key}.{name}", "a number of images", number)
        return numbers

    def _mapping(self, value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise self._wrong(key, "a mapping from names", value)
        return value

    def _wrong(self, key: str, expected: str, value: Any) -> ValueError:
        return ValueError(f"{self._where}: {key} must be {expected}, not {shown(value)}")
