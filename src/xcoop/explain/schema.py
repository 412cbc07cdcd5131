"""What `explanations.json` holds: the types, and a check that says which entry is wrong.

Shares, probabilities and certainties are fractions in [0, 1]. A number that is not known is null (None).
Positions are counted from the picture's upper left; a grid is a list of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

SCHEMA = 2

Grid = list[list[float]]  # (gh, gw)


class Run(TypedDict):
    """The run that is explained; all but `folder` is copied from its `results.json`."""

    folder: str
    dataset: str
    trainer: str
    backbone: str
    shots: int | None  # None: all images
    seed: int
    is_phantom: bool
    classnames: list[str]
    metrics: dict[str, float | None]
    config_hash: str
    git: str | None
    created: str  # ISO time of the explanations


class Method(TypedDict):
    """How the maps were made."""

    name: str  # of the visual method, as registered
    kind: Literal["class", "concept"]  # what the maps explain
    description: str  # one sentence
    grid: list[int]  # of a map: rows, columns


class Control(TypedDict):
    """What a metric gives for something that knows nothing: a random map, the centre, the mask's area, ..."""

    name: str
    value: float | None
    low: float | None  # 95 % interval
    high: float | None


class Trust(TypedDict):
    """One metric of how far the explanations can be trusted, over all images that were asked."""

    metric: str
    direction: Literal["higher", "lower"]  # which is better
    unit: str  # "" for none
    value: float | None
    low: float | None  # 95 % interval
    high: float | None
    n: int  # images
    controls: list[Control]
    note: str


class ClassVector(TypedDict):
    """What images are compared with, one a class."""

    noun: str  # names it, e.g. "prompt"
    learned: bool  # whether training changes it
    about: str  # a plain sentence on it; "" for none


class PromptConcept(TypedDict):
    """What a class's prompt, or whatever images are compared with, has to do with one concept."""

    concept: str
    own_class: bool  # whether the bank lists it for this class
    before: float | None  # cosine with the prompt before training; None if there was nothing then
    after: float | None  # cosine with the learned prompt
    shift: float | None  # after - before
    weight: float | None  # in the learned prompt as a sparse sum of concepts, >= 0


class Word(TypedDict):
    """A vocabulary word near a learned context vector."""

    word: str
    distance: float
    null_low: float | None  # distance below which the nearest word of a random vector seldom comes
    noise: bool  # whether the word is no nearer than chance


class Vector(TypedDict):
    """A learned context vector and the words near it."""

    name: str  # its place, e.g. "2", or "prompt 1, 2" where a class has several prompts
    words: list[Word]  # nearest first


class PromptClass(TypedDict):
    """What the prompt of one class learned; in the methods without prompts, see `ClassVector.noun`."""

    name: str
    concepts: list[PromptConcept]
    explained_share: float | None  # of what sets the learned prompt apart, by the sum of concepts
    own_share: float | None  # of the weights, on the class's own concepts
    words: list[Vector]
    prose: list[str]


class _Map(TypedDict):
    target: str  # a class's or concept's name
    kind: Literal["class", "concept"]
    values: Grid  # raw; higher = more relevant
    scores: dict[str, float | None]


class Map(_Map, total=False):
    """A heat map. `mask` names the mask that its scores speak of; without it, that of the target's name is taken."""

    mask: str


class Mask(TypedDict):
    """Where a concept is known to lie."""

    concept: str
    grid: Grid  # the share of each cell that is covered; any size, it is laid over the whole picture


_Seen = TypedDict(
    "_Seen",
    {
        "concept": str,
        "score": float | None,
        "for": dict[str, float | None],  # what it adds to each class's score; a class may be left out
        "label": int | None,  # the expert's: 1 present, 0 absent, None not known
    },
)


class SeenConcept(_Seen):
    """A concept in one image."""


class ImageEntry(TypedDict):
    """One explained image."""

    path: str
    label: str | None  # a class's name; None: not known
    predicted: str
    probabilities: dict[str, float]
    certainty: float | None  # the less, the earlier it is shown
    picture: str  # what the model saw (after resizing and cropping), as `page.thumbnail` gives it
    maps: list[Map]
    masks: list[Mask]
    concepts: list[SeenConcept]
    prose: list[str]


class _Explanations(TypedDict):
    schema: int
    run: Run
    methods: list[Method]
    trust: list[Trust]
    classes: list[PromptClass]
    images: list[ImageEntry]


class Explanations(_Explanations, total=False):
    """The whole file. Without `class_vector`, as files of older versions, it is a learned prompt."""

    class_vector: ClassVector


def check(content: object, kind: Any = Explanations, name: str = "explanations") -> None:
    """Raises ValueError if `content` is not of the given type; the message names the entry and what it should be."""
    if isinstance(content, Mapping) and kind is Explanations and content.get("schema") != SCHEMA:
        raise ValueError(f"{name} has schema {content.get('schema')!r}; this version of xcoop reads {SCHEMA}")
    for problem in _problems(content, kind, name):
        raise ValueError(problem)


def _problems(value: Any, kind: Any, name: str) -> Iterator[str]:
    origin, inner = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        yield from _typed_dict(value, kind, name)
    elif origin is list:
        yield from _unless(isinstance(value, list), value, "a list", name)
        for index, item in enumerate(value):
            yield from _problems(item, inner[0], f"{name}[{index}]")
    elif origin is dict:
        yield from _unless(isinstance(value, Mapping), value, "a mapping", name)
        for key, item in value.items():
            yield from _problems(item, inner[1], f"{name}[{key!r}]")
    elif origin in (Union, UnionType):
        if value is not None:
            yield from _problems(value, next(one for one in inner if one is not type(None)), name)
    elif origin is Literal:
        yield from _unless(value in inner, value, " or ".join(map(repr, inner)), name)
    else:
        fits = isinstance(value, (int, float) if kind is float else kind) and (
            kind is bool or value not in (True, False)
        )
        fits = fits or (kind in (int, float) and type(value) in (int, float))
        yield from _unless(fits, value, f"of type {kind.__name__}", name)


def _typed_dict(value: Any, kind: Any, name: str) -> Iterator[str]:
    yield from _unless(isinstance(value, Mapping), value, "a mapping", name)
    missing = sorted(kind.__required_keys__ - set(value))
    if missing:
        yield f"{name} lacks {', '.join(missing)}"
    for key, inner in get_type_hints(kind).items():
        if key in value:
            yield from _problems(value[key], inner, f"{name}.{key}")


def _unless(fits: bool, value: object, wanted: str, name: str) -> Iterator[str]:
    if not fits:
        yield f"{name} is {str(value)[:60]!r}; it must be {wanted}"
