"""From stored answers to a bank's file: the same answers give the same file, without any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from xcoop.concepts.bank import ConceptBank, load_bank
from xcoop.concepts.elicit import findings
from xcoop.concepts.elicit_client import ElicitError
from xcoop.concepts.elicit_store import Store
from xcoop.concepts.elicit_votes import Dropped, Elected, Rules, elect
from xcoop.concepts.elicited import Elicited
from xcoop.utils.files import atomic_path

WIDTH = 116
HEAD = "# Elicited from a language model (`elicited` says which, and how). No clinician has reviewed it.\n"


def build(store: Store, threshold: float, most: int) -> tuple[dict[str, list[Elected]], list[Dropped]]:
    """The findings that enough answers agree on, and those that were dropped.

    Raises:
        ElicitError: a class has no usable answer, or none that enough answers agree on; all such classes are named.
    """
    answers = _answers(store)
    if silent := [name for name, lists in answers.items() if not lists]:
        raise ElicitError(
            f"no usable answer for {_quoted(silent)}; no bank is written, the answers are in {store.path}"
        )
    chosen, dropped = elect(answers, Rules(store.query.template, threshold, most))
    if empty := [name for name, own in chosen.items() if not own]:
        raise ElicitError(
            f"no finding for {_quoted(empty)} is visual and in {100 * threshold:g} % of the answers; no bank is "
            f"written. --rebuild with a lower --threshold counts the answers in {store.path} again"
        )
    return chosen, dropped


def write_bank(path: Path, store: Store, chosen: Mapping[str, Sequence[Elected]], threshold: float) -> ConceptBank:
    """Writes the bank, whole and loadable, or not at all.

    Args:
        path: of the YAML file; what is there is replaced.
        store: the answers that were counted.
        chosen: of `build`.
        threshold: that was counted with.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(bank_text(path.stem, store, chosen, threshold), encoding="utf-8")
        load_bank(temporary.absolute())
    return load_bank(path.absolute())


def bank_text(name: str, store: Store, chosen: Mapping[str, Sequence[Elected]], threshold: float) -> str:
    """The YAML of the bank."""
    query = store.query
    date = max(answer.time for answer in store.answers)[:10]
    samples = max(answer.sample for answer in store.answers)
    elicited = Elicited(query.model, query.host, date, samples, threshold, query.sha256, query.prompt())
    every = [one for own in chosen.values() for one in own]
    sources = {
        _key(one): f"Elicited from {query.model} on {date}, {one.votes} of {one.answers} answers; not reviewed."
        for one in sorted(every, key=lambda one: (-one.votes, one.answers))
    }
    content: dict[str, Any] = {
        "name": name,
        "version": "1",
        "dataset": query.dataset,
        "template": query.template,
        "reviewed_by": [],
        "elicited": elicited.as_data(),
        "sources": sources,
        "classes": {
            classname: [{"concept": one.text, "source": _key(one), "votes": one.votes} for one in own]
            for classname, own in chosen.items()
        },
    }
    return HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=WIDTH)


def _answers(store: Store) -> dict[str, list[list[str]]]:
    """Per class the findings of each sample that has any."""
    samples = sorted({answer.sample for answer in store.answers})
    found = [findings(store, sample) for sample in samples]
    return {name: [one[name] for one in found if name in one] for name in store.query.classes}


def _key(one: Elected) -> str:
    return f"elicited-{one.votes}-of-{one.answers}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
