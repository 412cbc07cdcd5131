"""What is said of each class: clinical sentences from a bank's concepts, the controls of a bank, and their features.

A clinical sentence is the bank's template with the class and its concepts; none is longer than the text tower takes.
A control is a bank that knows wrong things, unrelated ones, or nothing: if a method does as well with any of these as
with the bank itself, it does not use what the bank knows.

Symbols: C classes, K prompts a class, m concepts of a class, D joint width.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle, islice, pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from xcoop.concepts.bank import Concept, ConceptBank, same_name
from xcoop.utils.console import closest, shown, unknown
from xcoop.utils.reading import read_json, read_yaml

if TYPE_CHECKING:
    from xcoop.backbones import Backbone

KNOWLEDGE = ("bank", "shuffled", "random", "none")  # the bank itself, or one of its controls
UNRELATED = "unrelated"  # the source of unrelated concepts
PLAIN = "a photo of a {class}."
JOINED = re.compile(r"[\s,;:]*(?:\b(?:with|showing|and)\b)?\s*\{concepts\}")  # the concepts, and what ties them on
CONCEPTS = 3  # in a sentence of an ensemble
# Beside the bank's own template, which knows what kind of image it is.
PHRASES = (
    "a {class} with {concepts}.",
    "a {class} showing {concepts}.",
    "a medical image of a {class} with {concepts}.",
    "{concepts} in a {class}.",
    "{concepts}, a sign of {class}.",
    "an image with {concepts}, typical of {class}.",
)


def fill(template: str, classname: str, concepts: Sequence[str]) -> str:
    """The template with a class name and a list of concepts in place."""
    # One after the other from the right would let a class name that holds "{concepts}" be filled too.
    before, _, after = template.partition("{class}")
    listed = ", ".join(concepts)
    return before.replace("{concepts}", listed) + classname + after.replace("{concepts}", listed)


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
        size, longer = divmod(len(concepts), parts)  # the first `longer` sentences have one concept more
        starts = [size * i + min(i, longer) for i in range(parts + 1)]
        chunks = [concepts[start:end] for start, end in pairwise(starts)]
        sentences = [fill(bank.template, classname, chunk) for chunk in chunks]
        if all(map(fits, sentences)):
            return sentences
    too_long = next((text for text in concepts if not fits(fill(bank.template, classname, [text]))), None)
    what = f"the concept {shown(too_long)} alone" if too_long else "its name"
    raise ValueError(
        f"{bank.path}: class {shown(classname)}: {what} is longer than the text context of this backbone; "
        "word it shorter"
    )


def bank_sentences(backbone: Backbone, bank: ConceptBank) -> list[list[str]]:
    """Per class of the bank its clinical sentences, each within the backbone's context."""
    longest = backbone.context_length
    return [
        clinical_sentences(bank, name, lambda text: backbone.count_tokens(text) <= longest) for name in bank.classes
    ]


@torch.no_grad()
def clinical_features(backbone: Backbone, bank: ConceptBank) -> Tensor:
    """One unit vector a class: the mean of its sentences' unit features, renormalised.

    Args:
        backbone: encodes the sentences.
        bank: of the dataset's classes, in label order (`ConceptBank.for_classes`).

    Returns:
        (C, D), on the backbone's device, in its dtype, without gradient.
    """
    sentences = bank_sentences(backbone, bank)
    features = normalize(backbone.encode_text([text for texts in sentences for text in texts]), dim=-1)  # (N, D)
    means = [part.mean(dim=0) for part in features.split([len(texts) for texts in sentences])]
    return normalize(torch.stack(means), dim=-1)  # (C, D)


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
        replace(
            bank,
            classes={
                name: concepts[k::prompts] or concepts[k % max(1, len(concepts)) :][:1]
                for name, concepts in bank.classes.items()
            },
        )
        for k in range(prompts)
    ]


# Controls.


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
    taken = _words_of([*bank.classes, *(text for name in bank.classes for text in bank.texts(name))])
    phrases = [f"{make} {thing}" for make, thing in product(_lists()["makes"], _lists()["things"])]
    return [phrase for phrase in phrases if taken.isdisjoint(_words_of([phrase]))]


@cache
def _lists() -> Mapping[str, list[str]]:
    return read_yaml(Path(__file__).with_name("unrelated.yaml"))


def _words_of(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[^\W_]+", text.lower())}


# Ensembles: many sentences for each class, from its concepts or from a file.


def groups(concepts: Sequence[str], size: int) -> list[list[str]]:
    """Different groups of `size` concepts, first of neighbours, then of every second one, and so on, round the list.

    The first m groups name each of the m concepts equally often; within a group, the order is the list's.
    """
    m = len(concepts)
    steps = product(range(1, max(2, m)), range(m))
    chosen = (tuple(sorted({(start + step * k) % m for k in range(size)})) for step, start in steps)
    return [[concepts[i] for i in group] for group in dict.fromkeys(chosen) if len(group) == size]


def bank_ensemble(bank: ConceptBank, count: int, fits: Callable[[str], bool]) -> list[list[str]]:
    """Sentences with three concepts of a class each, in one phrase after the other, `count` sentences a class.

    One concept alone seldom tells classes apart: on the phantom, CLIP with the mean of such sentences is right for 72 %
    of the test images, and with three concepts in each for 85 %. A class with few concepts says the same again.

    Args:
        bank: of the dataset's classes, in label order (`ConceptBank.for_classes`).
        count: at least 1.
        fits: whether the text tower takes a sentence whole; what doesn't fit is left out, and where three concepts
            never fit, two or one are taken.

    Raises:
        ValueError: no sentence of a class fits.
    """
    ensembles = []
    for name in bank.classes:
        concepts, fitting = bank.texts(name), list[str]()
        for size in range(min(CONCEPTS, len(concepts)), 0, -1):
            pairs = product((bank.template, *PHRASES), groups(concepts, size))
            sentences = [fill(phrase, name.replace("_", " "), group) for phrase, group in pairs]
            if fitting := list(filter(fits, sentences)):
                break
        else:
            raise ValueError(f"{bank.path}: class {shown(name)}: no sentence fits the text context of this backbone")
        ensembles.append(list(islice(cycle(fitting), count)))
    return ensembles


def read_ensemble(path: Path, classnames: Sequence[str], count: int) -> list[list[str]]:
    """The first `count` sentences of each class; a class with fewer says them again.

    Args:
        path: a JSON file, `{"class": ["sentence", ...], ...}`; case, `_` and `-` of a name do not count.
        classnames: in label order.
        count: at least 1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another structure, or a class without sentences; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of sentences {path} (looked for {path.absolute()})")
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: an object with a list of sentences a class is needed, not {type(content).__name__}")
    for name, texts in content.items():
        if not (texts and isinstance(texts, list) and all(isinstance(text, str) and text.strip() for text in texts)):
            raise ValueError(f"{path}: class {shown(name)}: a list of sentences is needed, not {shown(texts)}")
    known = {same_name(name): texts for name, texts in content.items()}
    if missing := [name for name in classnames if same_name(name) not in known]:
        near = ", ".join(f"{shown(name)} (nearest: {closest(name, content)!r})" for name in missing)
        raise ValueError(f"{path} has no sentences for {near}; its classes: {', '.join(content)}")
    return [list(islice(cycle(known[same_name(name)]), count)) for name in classnames]
