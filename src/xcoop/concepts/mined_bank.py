"""Writes a concept bank from what was mined, with the counts beside each concept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from xcoop.concepts.bank import ConceptBank, load_bank
from xcoop.concepts.mining import Association
from xcoop.concepts.wording import Wording
from xcoop.concepts.words import plain_words
from xcoop.utils.files import atomic_path

WIDTH = 116


@dataclass(frozen=True)
class Origin:
    """What a mined bank says of itself.

    Attributes:
        name: of the bank.
        dataset: for whose classes it is.
        template: a sentence with `{class}` and `{concepts}`.
        citation: whose labels were counted.
        remark: what was counted, and how: the comment at the head of the file.
    """

    name: str
    dataset: str
    template: str
    citation: str
    remark: str


def write_bank(
    path: Path, chosen: Mapping[str, Sequence[Association]], wording: Wording, origin: Origin
) -> ConceptBank:
    """Writes the bank, whole and loadable, or not at all.

    Args:
        path: of the YAML file; what is there is replaced.
        chosen: per class its concepts.
        wording: their words.
        origin: what else the bank says.

    Returns:
        The bank, as it is loaded from the file.

    Raises:
        ValueError: a class has no concepts, or the bank breaks the schema.
    """
    if empty := [classname for classname, own in chosen.items() if not own]:
        raise ValueError(
            f"no concept speaks for {', '.join(map(repr, empty))}: none has its whole interval above 0. More images, "
            "merged values or a lower confidence may help; a bank without concepts for a class is not written"
        )
    text = bank_text(chosen, wording, origin)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        load_bank(temporary.absolute())
    return load_bank(path.absolute())


def bank_text(chosen: Mapping[str, Sequence[Association]], wording: Wording, origin: Origin) -> str:
    """The YAML of a bank: one line a concept, with its counts as a comment."""
    key = source_key(origin.citation)
    head: dict[str, Any] = {
        "name": origin.name,
        "version": "1",
        "dataset": origin.dataset,
        "template": origin.template,
        "reviewed_by": [],
        "sources": {key: origin.citation},
    }
    lines = [f"# {line}" for line in origin.remark.splitlines()]
    lines += [yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=WIDTH) + "classes:"]
    for classname, own in chosen.items():
        lines.append(f"  {_flat(classname)}:")
        for phrase, one in _phrased(own, wording).items():
            lines.append(f"    - {_flat({'concept': phrase, 'source': key})}  # {counted(one)}")
    return "\n".join(lines) + "\n"


def counted(one: Association) -> str:
    """The counts and the interval, e.g. `49/90, rest 36/256; 1.98 [1.45, 2.51]`."""
    shares = f"{one.own}/{one.own_total}, rest {one.rest}/{one.rest_total}"
    return f"{shares}; {one.log_odds:.2f} [{one.low:.2f}, {one.high:.2f}]"


def source_key(citation: str) -> str:
    """A key for a citation: the first author's name and the year, or the first word alone."""
    author = (plain_words(citation) or ["labels"])[0]
    year = re.search(r"\b(?:19|20)\d\d\b", citation)
    return author + (year[0] if year else "")


def _phrased(own: Sequence[Association], wording: Wording) -> dict[str, Association]:
    """By its words each concept; of two with the same words the surer one, which stands first."""
    phrased: dict[str, Association] = {}
    for one in own:
        phrased.setdefault(wording.phrase(one.concept, one.value), one)
    return phrased


def _flat(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()
