"""Backbones that are known by name, each an entry of `presets.yaml`: whose adapter reads it, and where its weights are.

A preset is the name of a family's model and nothing more. How the model computes is read from its own config by the
family's adapter; what stands here serves the config of a run, messages and tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from xcoop.backbones.base import Backbone, TextLimits, Wanted, fetcher_of, loader_of, register_backbone
from xcoop.backbones.making import CLIP_MEAN, CLIP_STD
from xcoop.backbones.openai import count_tokens
from xcoop.utils.reading import read_yaml

TABLE = Path(__file__).with_name("presets.yaml")
CLIP_TOKENIZER = "clip"


@dataclass(frozen=True)
class Preset:
    """What is published of a backbone.

    Attributes:
        name: what it is called.
        hub: its name on huggingface.co.
        architecture: in words.
        licence: of its weights; `not stated` where nobody says.
        citation: of its paper.
        found: where the above was found.
        family: the registered backbone whose loader reads it; "" if none does.
        unread: why none does.
        tokenizer: `clip` if OpenAI's vocabulary cuts its texts; "" for another, that its files tell.
        size: side of its images, in pixels; 0 if unknown.
        length: tokens that a text may have; 0 if unknown.
        mean: of its images, RGB in [0, 1].
        std: their deviation.
    """

    name: str
    hub: str
    architecture: str
    licence: str
    citation: str
    found: str
    family: str = ""
    unread: str = ""
    tokenizer: str = ""
    size: int = 0
    length: int = 0
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @property
    def text(self) -> TextLimits | None:
        """How long its texts may be; None if only its files tell."""
        return TextLimits(self.length, count_tokens) if self.tokenizer == CLIP_TOKENIZER else None


@cache
def presets() -> Mapping[str, Preset]:
    """All presets by their names, those that cannot be used included."""
    entries = read_yaml(TABLE)
    found = (Preset(name, **{key: _plain(value) for key, value in entry.items()}) for name, entry in entries.items())
    return {preset.name: preset for preset in found}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _by_family(name: str, wanted: Wanted) -> tuple[str, Wanted]:
    """The family that reads a preset, and what is wanted of it; ValueError, which says why, if none does."""
    preset = presets()[name]
    if not preset.family:
        raise ValueError(f"the backbone {name} cannot be used: {preset.unread}")
    source = wanted.source or ("" if wanted.path else preset.hub)
    return preset.family, replace(wanted, source=source)


def load_preset(name: str, wanted: Wanted) -> Backbone:
    """The backbone of that name, by its family's loader: from a local place if one is given, else from the hub.

    Raises:
        ValueError: no adapter reads it; the message says why.
    """
    family, wanted = _by_family(name, wanted)
    return loader_of(family)(name, wanted)


def fetch_preset(name: str, wanted: Wanted) -> None:
    """Sees to it that its files are here; raises what `load_preset` does."""
    family, wanted = _by_family(name, wanted)
    if fetch := fetcher_of(family):
        fetch(name, wanted)


for _preset in presets().values():
    register_backbone(_preset.name, text=_preset.text, fetch=fetch_preset)(load_preset)
