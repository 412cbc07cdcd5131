"""What `explanations.json` holds: one type for what is written, what the page shows, and what may be read again.

Shares, probabilities and certainties are fractions in [0, 1]. A number that is not known is null (None). A grid is a
list of rows, from the image's upper left. Whatever does not follow the types is refused; the message names the entry.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Grid = list[list[float]]  # (gh, gw)
Known = float | None


class Entry(BaseModel):
    """Base of all: nothing is converted, and no NaN is let in."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, populate_by_name=True, protected_namespaces=())


class Run(Entry):
    """The run that is explained; all but `folder` and `created` is copied from its `results.json`."""

    folder: str
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


class PromptClass(Entry):
    """What the prompt of one class learned; in the methods without prompts, see `ClassVector.noun`."""

    name: str
    concepts: list[PromptConcept]
    explained_share: Known  # of what sets the learned prompt apart, by the sum of concepts
    own_share: Known  # of the weights, on the class's own concepts
    words: list[Vector]
    prose: list[str]


class HeatMap(Entry):
    """Where the model looked."""

    target: str  # a class's or concept's name
    kind: Literal["class", "concept"]
    values: Grid  # raw; higher = more relevant


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


class ImageEntry(Entry):
    """One explained image."""

    path: str
    label: str | None  # a class's name; None: not known
    predicted: str
    probabilities: dict[str, float]
    certainty: Known  # the less, the earlier it is shown
    picture: str = Field(
        pattern="^data:image/(jpeg|png);base64,[A-Za-z0-9+/]+=*$"
    )  # what the model saw, see `thumbnail`
    maps: list[HeatMap]
    masks: list[Mask]
    concepts: list[SeenConcept]
    prose: list[str]

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
    class_vector: ClassVector = ClassVector()
    classes: list[PromptClass]
    images: list[ImageEntry]

    def to_json(self) -> str:
        """As it is written to `explanations.json`."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"
