"""Many sentences for each class, from its concepts or from a JSON file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from xcoop.concepts.bank import ConceptBank, same_name
from xcoop.concepts.sentences import fill
from xcoop.files import read_json
from xcoop.names import closest

# Beside the bank's own template, which knows what kind of image it is.
PHRASES = (
    "a {class} with {concepts}.",
    "a {class} showing {concepts}.",
    "a medical image of a {class} with {concepts}.",
    "{concepts} in a {class}.",
    "{concepts}, a sign of {class}.",
    "an image with {concepts}, typical of {class}.",
)


def bank_ensemble(bank: ConceptBank, count: int, fits: Callable[[str], bool]) -> list[list[str]]:
    """Each class's concepts one at a time, in one phrase after the other, `count` sentences a class.

    A class with few concepts says the same again, as often as is needed for the number.

    Args:
        bank: of the dataset's classes, in label order (`ConceptBank.for_classes`).
        count: at least 1.
        fits: whether the text tower takes a sentence whole; what doesn't fit is left out.

    Raises:
        ValueError: no sentence of a class fits.
    """
    return [list(islice(cycle(_sentences(bank, name, fits)), count)) for name in bank.classes]


def _sentences(bank: ConceptBank, name: str, fits: Callable[[str], bool]) -> list[str]:
    shown = name.replace("_", " ")
    phrases = product((bank.template, *PHRASES), bank.texts(name))
    fitting = [text for phrase, concept in phrases if fits(text := fill(phrase, shown, [concept]))]
    if not fitting:
        raise ValueError(f"{bank.path}: class {name!r}: no sentence fits the text context of this backbone")
    return fitting


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
    known = {same_name(name): _listed(path, name, sentences) for name, sentences in content.items()}
    if missing := [name for name in classnames if same_name(name) not in known]:
        near = ", ".join(f"{name!r} (nearest: {closest(name, content)!r})" for name in missing)
        raise ValueError(f"{path} has no sentences for {near}; its classes: {', '.join(content)}")
    return [list(islice(cycle(known[same_name(name)]), count)) for name in classnames]


def _listed(path: Path, name: str, sentences: Any) -> list[str]:
    good = isinstance(sentences, list) and all(isinstance(text, str) and text.strip() for text in sentences)
    if not good or not sentences:
        raise ValueError(f"{path}: class {name!r}: a list of sentences is needed, not {sentences!r:.80}")
    return list(sentences)
