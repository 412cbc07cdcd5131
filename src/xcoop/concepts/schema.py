"""What the schemas of YAML files are checked with: every fault is a `BankError` that names the file and the place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from xcoop.utils import suggest as names
from xcoop.utils.suggest import shown


class BankError(ValueError):
    """A concept bank that breaks the schema; the message names the file, the place and the value."""


def check_keys(path: Path, where: str, data: Any, keys: Sequence[str], optional: Sequence[str] = ()) -> None:
    """A mapping with all of `keys`, and nothing else but what is optional."""
    if not isinstance(data, dict):
        raise BankError(f"{path}: {where} must be a mapping with the keys {', '.join(keys)}, not {shown(data)}")
    for key in data:
        if key not in (*keys, *optional):
            raise BankError(f"{path}: {where}: {names.unknown('key', str(key), (*keys, *optional))}")
    if missing := [key for key in keys if key not in data]:
        raise BankError(f"{path}: {where} lacks {', '.join(repr(key) for key in missing)}")


def mapping(path: Path, where: str, data: Any) -> dict[Any, Any]:
    """A mapping that is not empty."""
    if not isinstance(data, dict) or not data:
        raise BankError(f"{path}: {where} must be a mapping with at least one entry, not {shown(data)}")
    return data


def items(path: Path, where: str, data: Any) -> Iterable[Any]:
    """A list."""
    if not isinstance(data, list):
        raise BankError(f"{path}: {where} must be a list, not {shown(data)}")
    return data


def text(path: Path, where: str, value: Any) -> str:
    """A text that is not empty, without the blanks around it."""
    if not isinstance(value, str) or not value.strip():
        raise BankError(f"{path}: {where} must be a text (quote it if YAML reads something else), not {shown(value)}")
    return value.strip()


def whole(path: Path, where: str, value: Any) -> int:
    """A whole number above 0."""
    if type(value) is not int or value < 1:
        raise BankError(f"{path}: {where} must be a whole number above 0, not {shown(value)}")
    return value
