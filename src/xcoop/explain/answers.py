"""What a trained model answers of images: probabilities, and why. In a notebook an explanation shows itself.

Symbols: B images, C classes; gh x gw patches.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xcoop.explain.content import Grid, ImageEntry, Mask, Part, SeenConcept, Sum
from xcoop.explain.content import HeatMap as MapEntry
from xcoop.explain.exact import Seen
from xcoop.explain.figures import thumbnail
from xcoop.explain.html import Notice, notebook
from xcoop.explain.maps import Methods, explainer
from xcoop.utils.images import from_array, open_bytes, open_image, upright

ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Tensor
HeatMap = NDArray[np.float32]

SMALL = 384  # px, the longer side of a picture in a notebook


@dataclass(frozen=True)
class Prediction:
    """What a model makes of some images."""

    probabilities: NDArray[np.float64]  # (B, C), each row sums to one
    classnames: tuple[str, ...]  # C names, in the order of the columns

    @property
    def labels(self) -> list[str]:
        """The most probable class of each image."""
        return [self.classnames[index] for index in self.probabilities.argmax(1)]


@dataclass(frozen=True, repr=False)
class Explanation:
    """What is said of one image, by the names of classes and concepts."""

    predicted: str  # the most probable class
    probabilities: dict[str, float]
    methods: Methods  # of the class maps, and of the concept maps
    # Where the tower looked for a logit, raw: (gh, gw), finer for methods at half a patch; higher = more relevant.
    class_maps: dict[str, HeatMap]
    concept_maps: dict[str, HeatMap]
    concept_scores: dict[str, float]  # the cosine of the image with the concept's sentence
    # By concept, and by class that it bears on: what it adds to the logit. If there is a `base`, exactly, and compared
    # with a typical training image ("" is what prompts without a concept add); else logit with it less logit without.
    contributions: dict[str, dict[str, float]]
    base: dict[str, float]  # by class: with its contributions it sums to the logit; {} if logits are no such sums
    seen: dict[str, Seen]  # by concept: whether the image shows it, as far as that is known
    text: list[str]  # sentences, each with its number
    certainty_means: str = ""  # how often such a certainty was right on validation images, in words
    image: ImageLike | None = field(default=None, compare=False)  # as it was given, for `_repr_html_`
    size: tuple[int, int] = (0, 0)  # height and width of what the model saw of it, px
    notice: Notice | None = field(default=None, compare=False)  # what stands above its card

    def parts(self, label: str) -> dict[str, float]:
        """By concept, what adds to the logit of a class."""
        return {text: own[label] for text, own in self.contributions.items() if label in own}

    def __repr__(self) -> str:
        """Without the maps, whose numbers would fill a screen."""
        maps = f"maps of {len(self.class_maps)} classes and {len(self.concept_maps)} concepts"
        return f"<Explanation: {self.predicted}, probability {self.probabilities[self.predicted]:.3f}; {maps}>"

    def _repr_html_(self) -> str | None:
        """The image's card, for notebooks; None where the image was not kept."""
        if self.image is None or self.notice is None:
            return None
        name = Path(self.image).name if isinstance(self.image, (str, os.PathLike)) else "the image"
        return notebook(entry_of(self, Shown(opened(self.image), name, SMALL)), self.notice)


class Explanations(list[Explanation]):
    """Those of several images; in a notebook, their cards below one another."""

    def _repr_html_(self) -> str:
        return "".join(one._repr_html_() or "" for one in self)


def is_preprocessed(image: object) -> bool:
    """Whether it is what the backbone takes, and not an image as it was taken."""
    return isinstance(image, Tensor) and image.is_floating_point()


def opened(image: ImageLike) -> Image.Image:
    """An image as it was taken, upright and in colours; tensors are of integers here.

    Raises:
        ValueError: what is no image, or may be two; the message says what to hand over instead.
    """
    if isinstance(image, Tensor):
        image = image.cpu().numpy()
    if isinstance(image, np.ndarray):
        return from_array(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return open_bytes(bytes(image), "the image given as bytes")
    if isinstance(image, Image.Image):
        return upright(image)
    if isinstance(image, (str, os.PathLike)):
        return open_image(image)
    raise ValueError(
        f"{type(image).__name__} is no image: hand over a path, the bytes of a file, a PIL image, an array or a tensor"
    )


# The card of an image.


class Shown(NamedTuple):
    """An image that is put on a page."""

    image: Image.Image
    name: str
    side: int  # px, the longer side of its picture: larger ones are reduced


def entry_of(
    said: Explanation,
    shown: Shown,
    label: str | None = None,
    labels: Mapping[str, int | None] | None = None,
    masks: Sequence[Mask] = (),
) -> ImageEntry:
    """The card of an image, of what a model says and what is known of it.

    Args:
        said: why the model sees what it sees.
        shown: the image.
        label: its class; None: not known.
        labels: by concept, the expert's.
        masks: where concepts are known to lie.
    """
    maps = [heat_map(name, "class", values, said.methods.of_class) for name, values in said.class_maps.items()]
    maps += [heat_map(text, "concept", values, said.methods.of_concept) for text, values in said.concept_maps.items()]
    concepts = []
    for text, score in said.concept_scores.items():
        seen = said.seen.get(text, Seen(""))
        concepts.append(SeenConcept(
            concept=text, score=score, adds=dict(said.contributions.get(text, {})), label=(labels or {}).get(text),  # type: ignore[arg-type]
            seen=seen.word, probability=seen.probability,  # type: ignore[arg-type]
        ))  # fmt: skip
    height, width = said.size
    return ImageEntry(
        path=shown.name,
        label=label,
        predicted=said.predicted,
        probabilities=said.probabilities,
        certainty=max(said.probabilities.values()),
        certainty_means=said.certainty_means,
        picture=thumbnail(shown.image, shown.side),
        size=list(shown.image.size),
        window=window(shown.image.size, (width, height)),
        maps=maps,
        masks=list(masks),
        concepts=concepts,
        sums=_sums(said),
        prose=said.text,
    )


def _sums(said: Explanation) -> list[Sum]:
    """The logit of each class as the sum that it is, the largest first; [] where it is none."""
    found = []
    for name, base in said.base.items():
        parts = [Part(concept=text, value=value) for text, value in said.parts(name).items()]
        logit = base + sum(part.value for part in parts)
        found.append(Sum(name=name, base=base, parts=parts, logit=logit))
    return sorted(found, key=lambda one: -one.logit)


def window(size: tuple[int, int], seen: tuple[int, int]) -> list[float]:
    """What the model sees of an image, as shares of it: left, top, width, height.

    The smaller edge is resized to the larger side of what is seen, which is then cut out of the centre.

    Args:
        size: width and height of the image.
        seen: width and height of what the model takes.
    """
    scale = max(seen) / min(size)
    width, height = (min(1.0, part / (scale * whole)) for part, whole in zip(seen, size, strict=True))
    return [(1 - width) / 2, (1 - height) / 2, width, height]


def heat_map(target: str, kind: Literal["class", "concept"], values: NDArray[Any], method: str) -> MapEntry:
    """A map (gh, gw) as it is kept."""
    zero = float(values.mean()) if explainer(method).relative else 0.0
    return MapEntry(target=target, kind=kind, values=grid_of(values), zero=zero)


def grid_of(values: NDArray[Any]) -> Grid:
    """Values (gh, gw) with four digits."""
    return [[float(f"{value:.4g}") for value in row] for row in values]
