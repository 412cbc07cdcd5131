"""What the prompt of each class learned: its concepts before and after, and its nearest words beside chance.

For methods without prompts the same of what they compare images with, under its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from xcoop.explain.schema import ClassVector, PromptClass, PromptConcept, Vector, Word
from xcoop.page.markup import number, paragraphs, table, text

PROMPT = ClassVector(noun="prompt", learned=True, about="")
Column = tuple[str, Callable[[PromptConcept], str]]


def heading(compared: ClassVector) -> str:
    """The title of the section on classes."""
    return f"What the {compared['noun']}s learned" if compared["learned"] else "What images are compared with"


def class_block(one: PromptClass, key: str, compared: ClassVector = PROMPT) -> str:
    """One class as an HTML `section`.

    Args:
        one: the class.
        key: an id that nothing else on the page has.
        compared: what the method compares images with.
    """
    return (
        f'<section class="card" id="{text(key)}" aria-labelledby="{text(key)}-title">'
        f'<h3 id="{text(key)}-title">{text(one["name"])}</h3>{paragraphs(one["prose"])}'
        f"{_concepts(one['concepts'], compared)}{_words(one['words'])}</section>"
    )


def _concepts(concepts: list[PromptConcept], compared: ClassVector) -> str:
    if not concepts:
        return ""
    columns = list(_columns(compared["learned"], began=any(one["before"] is not None for one in concepts)))
    rows = [[show(one) for _, show in columns] for one in concepts]
    caption = f"Cosine of the {compared['noun']} with each concept, and its weight in the sum"
    return "<h4>Concepts</h4>" + table(caption, [name for name, _ in columns], rows)


def _columns(learned: bool, began: bool) -> Iterator[Column]:
    """What is shown of a concept: no start of what is never trained, nor of what there is only after training."""
    yield "Concept", lambda one: text(one["concept"])
    yield "Listed for this class", lambda one: "yes" if one["own_class"] else "no"
    if learned and began:
        yield "Before training", lambda one: number(one["before"])
    yield "Learned" if learned else "Cosine", lambda one: number(one["after"])
    if learned and began:
        yield "Shift", lambda one: number(one["shift"])
    yield "Weight", lambda one: number(one["weight"])


def _words(vectors: list[Vector]) -> str:
    if not vectors:
        return ""
    rows = [[text(one["name"]), _listed(one["words"], False), _listed(one["words"], True)] for one in vectors]
    return (
        "<h4>Nearest words</h4><p>Weak evidence: a learned vector need not mean any word. In brackets: its distance; "
        "the distance below which the nearest word of a random vector seldom comes.</p>"
        + table("Nearest words of each context vector", ["Vector", "Nearer than chance", "No nearer than chance"], rows)
    )


def _listed(words: list[Word], noise: bool) -> str:
    found = [one for one in words if one["noise"] == noise]
    return ", ".join(f"{text(one['word'])} ({_distances(one)})" for one in found) or "none"


def _distances(word: Word) -> str:
    return f"{number(word['distance'])}; {number(word['null_low'])}"
