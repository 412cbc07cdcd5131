"""A class's concepts, dealt out to its prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from xcoop.concepts.bank import Concept, ConceptBank


def shares(bank: ConceptBank, prompts: int) -> list[ConceptBank]:
    """One bank a prompt: prompt k of a class speaks of every K-th of its concepts, from the k-th on.

    A class with fewer concepts than prompts starts again from its first one; one without any stays so.

    Args:
        bank: of the dataset's classes.
        prompts: K >= 1.

    Returns:
        K banks of the same classes; together they hold every concept.
    """
    return [
        replace(bank, classes={name: _share(concepts, k, prompts) for name, concepts in bank.classes.items()})
        for k in range(prompts)
    ]


def _share(concepts: Sequence[Concept], k: int, prompts: int) -> tuple[Concept, ...]:
    return tuple(concepts[k::prompts] or concepts[k % max(1, len(concepts)) :][:1])
