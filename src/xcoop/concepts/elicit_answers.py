"""What a language model's answer says, as far as it can be used; the rest is named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xcoop.concepts.bank import same_name
from xcoop.utils.reading import parse_json

LONGEST_FINDING = 80  # characters
THOUGHTS = re.compile(r"<think(ing)?>.*?</think(ing)?>", re.DOTALL)
FENCE = re.compile(r"```[\w-]*\n(.*?)(?:```|\Z)", re.DOTALL)


class AnswerError(ValueError):
    """An answer of which nothing can be used."""


@dataclass(frozen=True)
class Answer:
    """The usable part of an answer.

    Attributes:
        findings: per class, spelt as it was asked for, at least one text.
        remarks: what was wrong with the answer all the same.
    """

    findings: dict[str, list[str]]
    remarks: tuple[str, ...]


def read_answer(text: str, classes: Sequence[str]) -> Answer:
    """Reads an answer: a JSON object with a list of texts a class, alone, in a Markdown fence, or among other words.

    Args:
        text: the answer as it came.
        classes: that were asked for; others are left out.

    Raises:
        AnswerError: no class has a usable list; the message says why.
    """
    content, remarks = _json(text)
    if not isinstance(content, dict):
        raise AnswerError("wrong schema")
    known = {same_name(name): name for name in classes}
    findings: dict[str, list[str]] = {}
    for name, entries in content.items():
        if same_name(name) not in known:
            remarks.append("extra classes")
        elif not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            remarks.append("wrong schema")
        elif texts := [clean for entry in entries if (clean := _clean(entry))]:
            findings.setdefault(known[same_name(name)], []).extend(texts)
        else:
            remarks.append("empty list")
    if len(findings) < len(known):
        remarks.append("missing classes")
    remarks = list(dict.fromkeys(remarks))
    if not findings:
        raise AnswerError(", ".join(remarks))
    return Answer(findings, tuple(remarks))


def _json(text: str) -> tuple[Any, list[str]]:
    """The JSON in an answer, and what was round it."""
    text, remarks = THOUGHTS.sub("", text).strip(), []
    if not text:
        raise AnswerError("empty answer")
    if fence := FENCE.search(text):
        text = fence[1].strip()
        remarks.append("Markdown fence")
    start, end = text.find("{"), text.rfind("}") + 1
    if start < 0 and not text.startswith("["):
        raise AnswerError("no JSON")
    try:
        return parse_json(text[start:end] if 0 <= start < end else text, "the answer"), remarks
    except ValueError:
        raise AnswerError("truncated or malformed JSON") from None


def _clean(entry: str) -> str:
    """A finding without list marks and final punctuation; "" if it is none."""
    text = " ".join(entry.split()).strip(" .,;:-*\u2022")
    return text if len(text) <= LONGEST_FINDING and text.isprintable() and not set("{}") & set(text) else ""
