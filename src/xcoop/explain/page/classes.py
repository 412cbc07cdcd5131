"""What the prompt of each class learned: its concepts before and after, and its nearest words beside chance."""

from __future__ import annotations

from xcoop.explain.schema import PromptClass, PromptConcept, Vector, Word
from xcoop.page.markup import number, paragraphs, table, text


def class_block(one: PromptClass, key: str) -> str:
    """One class as an HTML `section`; `key` is an id that nothing else on the page has."""
    return (
        f'<section class="card" id="{text(key)}" aria-labelledby="{text(key)}-title">'
        f'<h3 id="{text(key)}-title">{text(one["name"])}</h3>{paragraphs(one["prose"])}'
        f"{_concepts(one['concepts'])}{_words(one['words'])}</section>"
    )


def _concepts(concepts: list[PromptConcept]) -> str:
    if not concepts:
        return ""
    head = ["Concept", "Listed for this class", "Before training", "Learned", "Shift", "Weight"]
    rows = [
        [
            text(one["concept"]),
            "yes" if one["own_class"] else "no",
            number(one["before"]),
            number(one["after"]),
            number(one["shift"]),
            number(one["weight"]),
        ]
        for one in concepts
    ]
    return "<h4>Concepts</h4>" + table("Cosine of the prompt with each concept, and its weight in the sum", head, rows)


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
