"""What is published about a dataset: where to get it, its licence, its layout, its counts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from xcoop.data.items import Splits, per_class
from xcoop.plugins import plugin_path

logger = logging.getLogger(__name__)


class MissingDatasetError(FileNotFoundError):
    """A dataset that is not where it was looked for; the message says how to get it."""


@dataclass(frozen=True)
class About:
    """The facts of one dataset; see `configs/datasets/about/*.yaml`.

    Attributes:
        layout: the expected files, drawn as a tree.
        phantom: the command that makes a phantom in its place; empty if there is none.
        counts: published number of images, by task, split and class.
    """

    title: str
    homepage: str
    licence: str
    citation: str
    layout: str
    phantom: str
    counts: Mapping[str, Mapping[str, Mapping[str, int]]]


def about(name: str) -> About:
    """The facts of the dataset `name` (lower case, as its file)."""
    text = plugin_path("configs", "datasets", "about", f"{name}.yaml").read_text(encoding="utf-8")
    return About(**yaml.safe_load(text))


def missing(facts: About, looked_for: Iterable[Path]) -> MissingDatasetError:
    """The error for a dataset that was not found: all that is needed to get it, in one message."""
    places = "\n".join(f"  {path}" for path in looked_for)
    layout = "\n".join(f"  {line}" for line in facts.layout.rstrip().splitlines())
    instead = f"\nA phantom in its place (drawn, not clinical): {facts.phantom}" if facts.phantom else ""
    return MissingDatasetError(
        f"{facts.title} was not found. Looked for\n{places}\n"
        f"Set the data root (DATA=... for the scripts, --root, DATASET.ROOT) or name the place with DATASET.PATH.\n"
        f"Get it from: {facts.homepage}\nLicence: {facts.licence}\nCite: {facts.citation}\n"
        f"Expected layout:\n{layout}{instead}"
    )


def compare_counts(facts: About, task: str, splits: Splits) -> list[str]:
    """One line for each split whose numbers of images differ from the published ones."""
    published = facts.counts.get(task, {})
    found = {split: per_class(items) for split, items in splits}
    return [
        f"{split} has {_counts(found[split])}; published: {_counts(expected)}"
        for split, expected in published.items()
        if found[split] != expected
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "no images"
