"""The answers beside a bank, `<bank>.answers.jsonl`: one line an answer, the query first.

A line is appended by one write, and counts when its end is there: what a killed process left half-written is cut off
when the file is opened again and `--force` says so. From this file alone a bank can be made.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xcoop.concepts.elicit_prompt import Query
from xcoop.utils.files import take, unguarded, unlinked
from xcoop.utils.reading import MOST_JSON, parse_json, read_bytes

logger = logging.getLogger(__name__)

QUERY_KEYS = frozenset(Query.__dataclass_fields__)


class AnswersError(ValueError):
    """A file of answers that cannot be used; the message names it."""


@dataclass(frozen=True)
class Stored:
    """One raw answer.

    Attributes:
        sample: which of the samples, from 1.
        classes: that were asked for.
        text: the answer as it came.
        finish: why the model stopped, in the server's words.
        served: the model that the server says it used.
        time: UTC, ISO form.
    """

    sample: int
    classes: tuple[str, ...]
    text: str
    finish: str
    served: str
    time: str


def answers_path(bank: Path) -> Path:
    """Where the answers of a bank lie."""
    return bank.with_suffix(".answers.jsonl")


class Store:
    """An open file of answers.

    Attributes:
        query: that was asked.
        answers: in the order in which they came.
    """

    def __init__(self, path: Path, query: Query, answers: list[Stored], handle: int | None = None) -> None:
        self.path = path
        self.query = query
        self.answers = answers
        self._handle = handle

    def add(self, answer: Stored) -> None:
        """Appends an answer; it is on the disk when this returns."""
        if self._handle is None:
            raise AnswersError(f"{self.path} is open for reading only")
        _append(self._handle, asdict(answer))
        self.answers.append(answer)


def read_store(path: Path) -> Store:
    """The answers of a file, which is not changed; a half-written last line is left out.

    Raises:
        FileNotFoundError: there is no such file.
        AnswersError: it is no file of answers; the message names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no answers {path}; they are written beside a bank when it is elicited")
    lines, _ = _whole_lines(path)
    if not lines:
        raise AnswersError(f"{path} holds no answers")
    return Store(path, _query(path, lines[0]), [_answer(path, i, line) for i, line in enumerate(lines[1:], 2)])


@contextmanager
def open_store(path: Path, query: Query, resume: bool, force: bool = False) -> Iterator[Store]:
    """The file of answers, to be added to; nobody else adds to it meanwhile.

    Args:
        path: made if it is not there.
        query: that is asked.
        resume: go on with what is there; otherwise nothing may be there.
        force: a last line without an end may be cut off.

    Raises:
        AnswersError: the file holds answers and is not to be resumed, ends within a line, belongs to another query, or
            is in use; nothing is changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = unlinked(str(path), os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        _lock(path, handle)
        lines, length = _whole_lines(path)
        if lines and not resume:
            raise AnswersError(
                f"{path} holds answers: --resume goes on, --rebuild makes the bank; or name another --out"
            )
        if (rest := os.fstat(handle).st_size - length) and not force:
            raise AnswersError(
                f"{path} ends within a line ({rest:,} bytes, as a killed process leaves them): "
                f"{'--resume --force' if lines else '--force'} cuts them off"
            )
        if lines:
            _require_same(path, read_store(path).query, query)
        os.ftruncate(handle, length)
        if not lines:
            _append(handle, asdict(query))
        yield Store(path, query, read_store(path).answers, handle)
    finally:
        os.close(handle)


def _lock(path: Path, handle: int) -> None:
    if take(handle, path) is False:
        raise AnswersError(f"{path} is in use by another process")
    if unguarded(path.parent):
        logger.warning("%s lies on a disk without locks: do not ask for the same bank twice at a time", path.parent)


def _append(handle: int, content: dict[str, Any]) -> None:
    line = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    while line:  # once, but for a full disk or a signal
        line = line[os.write(handle, line) :]
    os.fsync(handle)


def _whole_lines(path: Path) -> tuple[list[bytes], int]:
    """The lines that have an end, and the bytes that they take."""
    whole = read_bytes(path, MOST_JSON)
    whole = whole[: whole.rfind(b"\n") + 1]
    return whole.splitlines(), len(whole)


def _query(path: Path, line: bytes) -> Query:
    content = _content(path, 1, line, QUERY_KEYS)
    return Query(**content | {"classes": tuple(content["classes"])})


def _answer(path: Path, number: int, line: bytes) -> Stored:
    content = _content(path, number, line, frozenset(Stored.__dataclass_fields__))
    if type(content["sample"]) is not int or not isinstance(content["text"], str):
        raise AnswersError(f"{path}, line {number}: no answer")
    return Stored(**content | {"classes": tuple(content["classes"])})


def _content(path: Path, number: int, line: bytes, keys: frozenset[str]) -> dict[str, Any]:
    try:
        content = parse_json(line, str(path))
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.keys() != keys or not isinstance(content["classes"], list):
        raise AnswersError(f"{path}, line {number}: not a line of a file of answers")
    return content


def _require_same(path: Path, there: Query, now: Query) -> None:
    old, new = asdict(there), asdict(now)
    if other := [f"{key} {old[key]!r} there, {new[key]!r} now" for key in new if old[key] != new[key]]:
        raise AnswersError(f"{path} belongs to another query ({'; '.join(other)}); name another --out")
