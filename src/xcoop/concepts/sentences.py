"""The clinical sentences of a class: its concepts in the bank's template, within the text tower's context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xcoop.concepts.bank import ConceptBank
from xcoop.utils.suggest import shown


def clinical_sentences(bank: ConceptBank, classname: str, fits: Callable[[str], bool]) -> list[str]:
    """One sentence with all concepts of a class, or the fewest sentences that share them evenly and all fit.

    Args:
        bank: holds the class under this very name (see `ConceptBank.for_classes`).
        classname: the class.
        fits: whether the text tower takes a sentence whole.

    Returns:
        The sentences; every concept stands in exactly one, in the bank's order. Without concepts it is the template
        with the class name, alone.

    Raises:
        ValueError: a concept, or a class without any, does not fit even alone; the message names it.
    """
    concepts = bank.texts(classname)
    for parts in range(1, max(1, len(concepts)) + 1):
        sentences = [fill(bank.template, classname, chunk) for chunk in _share(concepts, parts)]
        if all(fits(sentence) for sentence in sentences):
            return sentences
    too_long = next((text for text in concepts if not fits(fill(bank.template, classname, [text]))), None)
    what = f"the concept {shown(too_long)} alone" if too_long else "its name"
    raise ValueError(
        f"{bank.path}: class {shown(classname)}: {what} is longer than the text context of this backbone; "
        "word it shorter"
    )


def fill(template: str, classname: str, concepts: Sequence[str]) -> str:
    """The template with a class name and a list of concepts in place."""
    # One after the other from the right would let a class name that holds "{concepts}" be filled too.
    before, _, after = template.partition("{class}")
    listed = ", ".join(concepts)
    return before.replace("{concepts}", listed) + classname + after.replace("{concepts}", listed)


def _share(concepts: Sequence[str], parts: int) -> list[Sequence[str]]:
    """Contiguous chunks whose lengths differ by at most one, the longer ones first."""
    size, longer = divmod(len(concepts), parts)
    ends = [size * (i + 1) + min(i + 1, longer) for i in range(parts)]
    return [concepts[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
