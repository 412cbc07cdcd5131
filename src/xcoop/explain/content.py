"""What `explanations.json` holds: everything that its page shows. Plain data; no torch.

Shares, probabilities and certainties are fractions in [0, 1]. A number that is not known is null (None). A grid is a
list of rows, from the image's upper left. Whatever does not follow the types is refused; the message names the entry.
Nothing here tells of the folders of a machine, unless that was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

logger = logging.getLogger(__name__)

FILE = "explanations.json"
FOLDER = "explanations"  # in that of a run
Grid = list[list[float]]  # (gh, gw)
Known = float | None
SURE = 0.75  # the probability from which a concept is seen; below 1 less this it is not seen


def chance(probability: float, sign: str = "%") -> str:
    """A probability in percent; few labelled images tell no more of nearly sure ones than that they are."""
    if not 0.01 <= probability <= 0.99:
        return f"{'above 99' if probability > 0.5 else 'below 1'}{sign}"
    return f"{100 * probability:.0f}{sign}"


class Entry(BaseModel):
    """Base of all: nothing is converted, and no NaN is let in."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, populate_by_name=True, protected_namespaces=())


class Run(Entry):
    """The run that is explained; all but `folder` and `created` is copied from its `results.json`."""

    folder: str  # the end of its path
    dataset: str
    trainer: str
    backbone: str
    shots: int | None  # None: all images
    seed: int
    is_phantom: bool
    classnames: list[str]
    metrics: dict[str, Known]
    config_hash: str
    git: str | None
    created: str  # ISO time of the explanations
    bank: str = ""  # name, version and SHA-256 of its concepts; "" for none
    backbone_sha256: str = ""


class Method(Entry):
    """How the maps were made."""

    name: str  # of the visual method, as registered
    kind: Literal["class", "concept"]  # what the maps explain
    description: str  # one sentence
    grid: list[int]  # of a map: rows, columns


class Control(Entry):
    """What a metric gives for something that knows nothing: a random map, the centre, the mask's area, ..."""

    name: str
    value: Known
    low: Known = None  # 95 % interval
    high: Known = None


class Trust(Entry):
    """One metric of how far the explanations can be trusted, over all images that were asked."""

    metric: str
    direction: Literal["higher", "lower"]  # which is better
    unit: str  # "" for none
    value: Known
    low: Known  # 95 % interval
    high: Known
    n: int  # images
    controls: list[Control]
    note: str


class Bin(Entry):
    """Validation images on which the run was about as certain."""

    certain_from: float  # the least certain of them
    certain_to: float
    images: int
    right: int  # of them, decided rightly
    low: float  # 95 % interval of the share that is right
    high: float


class Calibration(Entry):
    """How often a certainty was right on images that the run was not trained on; `calibration.py` makes it."""

    images: int  # validation images that were asked
    bins: list[Bin]  # by rising certainty; [] if there are too few images to tell
    note: str = ""  # what a reader must know


class ClassVector(Entry):
    """What images are compared with, one a class."""

    noun: str = "prompt"  # names it
    learned: bool = True  # whether training changes it
    about: str = ""  # a plain sentence on it; "" for none


class PromptConcept(Entry):
    """What a class's prompt, or whatever images are compared with, has to do with one concept."""

    concept: str
    own_class: bool  # whether the bank lists it for this class
    before: Known  # cosine with the prompt before training; None if there was nothing then
    after: Known  # cosine with the learned prompt
    shift: Known  # after - before
    weight: Known  # in the learned prompt as a sparse sum of concepts, >= 0


class Word(Entry):
    """A vocabulary word near a learned context vector."""

    word: str
    distance: float
    null_low: Known  # distance below which the nearest word of a random vector seldom comes
    noise: bool  # whether the word is no nearer than chance


class Vector(Entry):
    """A learned context vector and the words near it."""

    name: str  # its place, e.g. "2", or "prompt 1, 2" where a class has several prompts
    words: list[Word]  # nearest first


class MovedWord(Entry):
    """A word of a learned sentence."""

    word: str
    change: float  # the length of what was learned, as a share of that of its embedding
    nearest: str  # word of the vocabulary now; "" for none
    towards: str  # the word that it moved towards; "" for none
    cosine: float  # of the change and the way to that word
    by_chance: float  # what the best word of a random direction seldom exceeds


class Sentence(Entry):
    """A prompt that is a sentence whose words are learned."""

    concept: str  # "" for the name of the class alone
    text: str
    moved: float  # how far its feature moved, in logits
    by_chance: float  # what a random change of the same size seldom exceeds
    words: list[MovedWord]


class PromptClass(Entry):
    """What the prompt of one class learned; in the methods without prompts, see `ClassVector.noun`."""

    name: str
    concepts: list[PromptConcept]
    explained_share: Known  # of what sets the learned prompt apart, by the sum of concepts
    own_share: Known  # of the weights, on the class's own concepts
    words: list[Vector]
    sentences: list[Sentence] = []
    prose: list[str]


class HeatMap(Entry):
    """Where the model looked."""

    target: str  # a class's or concept's name
    kind: Literal["class", "concept"]
    values: Grid  # raw; higher = more relevant
    zero: float = 0.0  # the value that is neither more nor less: in maps whose 0 means nothing, their mean


class Mask(Entry):
    """Where a concept is known to lie."""

    concept: str
    grid: Grid  # the share of each cell that is covered; any size, it is laid over the whole image


class SeenConcept(Entry):
    """A concept in one image."""

    concept: str
    score: float
    adds: dict[str, Known] = Field(validation_alias="for", serialization_alias="for")  # to a class's score; if any
    label: Literal[0, 1] | None  # the expert's: 1 present, 0 absent, None not known
    seen: Literal["seen", "not seen", "undecided", ""] = ""  # "" where that cannot be told
    probability: Known = None  # that the image shows it, from labelled training images

    @property
    def said(self) -> str:
        """Whether the image shows it, and with which probability; "" where that cannot be told."""
        return self.seen if self.probability is None else f"{self.seen} ({chance(self.probability, ' %')})"


class Part(Entry):
    """What one concept adds to a logit, compared with a typical training image."""

    concept: str  # "" for the name of the class alone
    value: float


class Sum(Entry):
    """The logit of a class as a sum."""

    name: str  # of the class
    base: float  # its logit in a typical training image
    parts: list[Part]
    logit: float

    @model_validator(mode="after")
    def adds_up(self) -> Sum:
        """Refuses a sum that is none."""
        found = self.base + sum(part.value for part in self.parts)
        if abs(found - self.logit) > 1e-4:
            raise ValueError(f"base and parts of {self.name} sum to {found:.6g}, not to its logit {self.logit:.6g}")
        return self


class ImageEntry(Entry):
    """One explained image."""

    path: str  # within its dataset, or the file's name; the whole path if that was asked for
    label: str | None  # a class's name; None: not known
    predicted: str
    probabilities: dict[str, float]
    certainty: Known  # the less, the earlier it is shown
    certainty_means: str = ""  # how often such a certainty is right, in words; "" in files of older versions
    picture: str = Field(pattern="^data:image/(jpeg|png);base64,[A-Za-z0-9+/]+=*$")  # see `thumbnail`
    size: list[int] | None = None  # width and height of the image itself, px; None: as `picture`
    maps: list[HeatMap]
    masks: list[Mask]
    concepts: list[SeenConcept]
    sums: list[Sum] = []  # of each class, the largest logit first; [] where logits are no exact sums
    window: list[float] = [0.0, 0.0, 1.0, 1.0]  # left, top, width, height of what the model saw, as shares of `picture`
    prose: list[str]

    @property
    def name(self) -> str:
        """The image's own name and that of its folder."""
        return "/".join(self.path.replace("\\", "/").split("/")[-2:])

    @property
    def is_right(self) -> bool | None:
        """Whether the prediction is right; None if no label is known."""
        return None if self.label is None else self.label == self.predicted


class Explanations(Entry):
    """The whole file. Without `class_vector`, as files of older versions, it is a learned prompt."""

    version: Literal[2] = Field(default=2, validation_alias="schema", serialization_alias="schema")
    run: Run
    methods: list[Method]
    trust: list[Trust]
    calibration: Calibration | None = None  # None: no validation images were asked
    class_vector: ClassVector = ClassVector()
    is_sum: bool | None = None  # whether each logit is an exact sum over concepts; None in files of older versions
    classes: list[PromptClass]
    images: list[ImageEntry]

    def to_json(self) -> str:
        """As it is written to `explanations.json`."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"


def earlier(folder: Path, results: Mapping[str, Any]) -> Explanations | None:
    """What an earlier page of a run measured; None if there is none, or none of the run as it is now.

    Args:
        folder: of the run.
        results: its `results.json`.
    """
    path = folder / FOLDER / FILE
    if not path.is_file():
        return None
    try:
        found = Explanations.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.info("%s is not used: %s", path, error)
        return None
    same = (found.run.config_hash, found.run.metrics) == (results["config_hash"], results["metrics"])
    return found if same else None
