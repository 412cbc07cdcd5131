"""Controls: a bank turned into one that knows wrong things, unrelated ones, or nothing.

If a method does as well with any of these as with the bank itself, it does not use what the bank knows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

from xcoop.concepts.bank import Concept, ConceptBank
from xcoop.utils.reading import read_yaml
from xcoop.utils.suggest import unknown

KNOWLEDGE = ("bank", "shuffled", "random", "none")
UNRELATED = "unrelated"  # the source of unrelated concepts
PLAIN = "a photo of a {class}."
JOINED = re.compile(r"[\s,;:]*(?:\b(?:with|showing|and)\b)?\s*\{concepts\}")  # the concepts, and what ties them on


def bank_or_control(bank: ConceptBank, knowledge: str, seed: int) -> ConceptBank:
    """The bank itself, or what one of the controls puts in its place.

    Args:
        bank: of the dataset's classes, in label order (`ConceptBank.for_classes`).
        knowledge: `bank` as it is; `shuffled`: every class has the concepts of another one; `random`: unrelated
            concepts, as many as the class had, no two alike; `none`: no concepts, and a template without them.
        seed: of what is drawn; same bank and seed, same result.

    Raises:
        ValueError: an unknown kind of knowledge, one class alone to shuffle, or more concepts than there are
            unrelated ones.
    """
    if knowledge not in KNOWLEDGE:
        raise ValueError(unknown("TRAINER.XCOOP.KNOWLEDGE", knowledge, KNOWLEDGE))
    if knowledge == "bank":
        return bank
    if knowledge == "none":
        template = plain_template(bank.template)
        return replace(bank, classes=dict.fromkeys(bank.classes, ()), template=template, sources={})
    rng = random.Random(f"{seed}|{knowledge}")
    if knowledge == "shuffled":
        circle = list(bank.classes)  # in random order; each has the concepts of the next
        if len(circle) < 2:
            raise ValueError(f"{bank.path}: KNOWLEDGE shuffled needs two classes to exchange concepts, not {circle}")
        rng.shuffle(circle)
        given = dict(zip(circle, circle[1:] + circle[:1], strict=True))
        return replace(bank, classes={name: bank.classes[given[name]] for name in bank.classes})
    phrases, needed = unrelated_to(bank), sum(map(len, bank.classes.values()))
    if needed > len(phrases):
        raise ValueError(f"{bank.path}: KNOWLEDGE random needs {needed} unrelated concepts; there are {len(phrases)}")
    drawn = iter(rng.sample(phrases, needed))
    classes = {name: tuple(Concept(next(drawn), UNRELATED) for _ in own) for name, own in bank.classes.items()}
    return replace(bank, classes=classes, sources={UNRELATED: "Drawn at random; has nothing to do with the class."})


question = bank_or_control  # its name in version 0.1


def plain_template(template: str) -> str:
    """A bank's template without its concepts: `a {class} scan with {concepts}.` is `a {class} scan.`, say.

    Where the concepts come before the class, no rest of the sentence is sure to make sense; then it is CoOp's.
    """
    before, concepts, after = template.partition("{concepts}")
    return JOINED.sub("", before + concepts) + after if "{class}" in before else PLAIN


def words_around_class(template: str) -> str:
    """What a plain template says beside the class name: `a photo of a {class}.` gives `a photo of a`."""
    return " ".join(template.replace("{class}", " ").split()).strip(" .,") or words_around_class(PLAIN)


def unrelated_to(bank: ConceptBank) -> list[str]:
    """The unrelated phrases that share no word with the bank's classes or concepts, in a fixed order."""
    taken = _words([*bank.classes, *(text for name in bank.classes for text in bank.texts(name))])
    phrases = [f"{make} {thing}" for make, thing in product(_lists()["makes"], _lists()["things"])]
    return [phrase for phrase in phrases if taken.isdisjoint(_words([phrase]))]


@cache
def _lists() -> Mapping[str, list[str]]:
    lists: Mapping[str, list[str]] = read_yaml(Path(__file__).with_name("unrelated.yaml"))
    return lists


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[^\W_]+", text.lower())}
