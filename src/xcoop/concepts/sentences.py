"""The clinical sentences of a class: concepts in the bank's template, within the text tower's context; their features.

Symbols: C classes, K prompts a class, m concepts of a class, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice, pairwise, product
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from xcoop.concepts.bank import ConceptBank, same_name
from xcoop.utils.reading import read_json
from xcoop.utils.suggest import closest, shown

SENTENCES = ("share", "whole", "each", "both")  # which concepts the clinical sentence of a prompt holds
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


class TextTower(Protocol):
    """What is needed of a backbone here."""

    @property
    def context_length(self) -> int:
        """Tokens that the tower takes, start and end included."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, start and end included."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Features (N, D) of N texts, not normalised."""


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


def bank_sentences(backbone: TextTower, bank: ConceptBank) -> list[list[str]]:
    """Per class of the bank its clinical sentences, each within the backbone's context."""

    def fits(text: str) -> bool:
        return backbone.count_tokens(text) <= backbone.context_length

    return [clinical_sentences(bank, name, fits) for name in bank.classes]


@torch.no_grad()
def clinical_features(backbone: TextTower, bank: ConceptBank) -> Tensor:
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


def single_features(backbone: TextTower, bank: ConceptBank) -> list[Tensor]:
    """Per class a sentence for each of its concepts, (m, D), unit; without any, its plain sentence alone."""
    counts = [max(1, len(concepts)) for concepts in bank.classes.values()]
    dealt = torch.stack([clinical_features(backbone, share) for share in shares(bank, max(counts))])  # (max m, C, D)
    return [dealt[:count, c] for c, count in enumerate(counts)]


def prompt_sentences(backbone: TextTower, bank: ConceptBank, prompts: int, kind: str = "share") -> Tensor:
    """The clinical sentences of K prompts a class, as features.

    Args:
        backbone: encodes the sentences.
        bank: of the dataset's classes, in label order.
        prompts: K.
        kind: `share`: prompt k's own concepts in one sentence; `whole`: all concepts of the class in one, the same for
            every prompt; `each`: the mean of one sentence for each concept, the same for every prompt; `both`: the mean
            of `share` and `each`. What a long sentence hides in a text tower, short ones say.

    Returns:
        (K, C, D), unit.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in SENTENCES:
        raise ValueError(f"unknown kind of sentences {kind!r}; known: {', '.join(SENTENCES)}")
    if kind == "whole":
        return clinical_features(backbone, bank).repeat(prompts, 1, 1)
    own = torch.stack([clinical_features(backbone, share) for share in shares(bank, prompts)])  # (K, C, D)
    if kind == "share":
        return own
    each = normalize(torch.stack([features.mean(0) for features in single_features(backbone, bank)]), dim=-1)  # (C, D)
    return each.repeat(prompts, 1, 1) if kind == "each" else normalize(own + each, dim=-1)


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
