"""What a language model is asked for: the findings of each class that a picture can show, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xcoop.concepts.elicited import sha256
from xcoop.concepts.knowledge import plain_template, words_around_class

MOST_CLASSES = 12  # a query; long answers are cut off

PROMPT = """\
You describe what can be seen in medical images. The images are of this kind: {picture}.
The classes of the data set are: {known}.

For each of these classes, list {concepts} visual findings that speak for it rather than for the other classes: {asked}.

Each finding must be
- visible in an image of this kind, so that a reader could point at it,
- a noun phrase of two to five words, in the terms of the specialty,
- without the name of a diagnosis, and without symptoms, causes, treatment, age, sex, or how frequent anything is.

Answer with one JSON object and nothing else: each of these class names, spelt as above, with a list of texts.
{{{example}: ["finding", "finding"], ...}}
"""


@dataclass(frozen=True)
class Query:
    """What a bank is elicited for, and from whom.

    Attributes:
        dataset: registered name.
        classes: in label order.
        template: of the bank's sentences.
        picture: what the images are, e.g. "a dermoscopic photo".
        model: as the server knows it.
        host: of the server.
        concepts: to be named a class.
    """

    dataset: str
    classes: tuple[str, ...]
    template: str
    picture: str
    model: str
    host: str
    concepts: int

    def prompt(self, classes: Sequence[str] = ()) -> str:
        """The text that is sent; it asks for all classes, or for some of them."""
        asked = list(classes or self.classes)
        return PROMPT.format(
            picture=self.picture, known=_listed(self.classes), concepts=self.concepts, asked=_listed(asked),
            example=f'"{asked[0]}"',
        )  # fmt: skip

    @property
    def sha256(self) -> str:
        """Of the prompt for all classes."""
        return sha256(self.prompt())

    def batches(self) -> list[tuple[str, ...]]:
        """The classes in portions that one answer can hold."""
        return [self.classes[i : i + MOST_CLASSES] for i in range(0, len(self.classes), MOST_CLASSES)]


def picture_of(template: str) -> str:
    """What a bank's template says of its images, e.g. `a skin photo` in `a skin photo of a {class}, ...`."""
    words = words_around_class(plain_template(template))
    return words.removesuffix(" a").removesuffix(" an").removesuffix(" the").removesuffix(" of")


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in classes)
