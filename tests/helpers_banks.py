"""A concept bank for tests, written as a user would write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from xcoop.concepts import ConceptBank, load_bank

SKIN = {
    "nevus": ("typical network", "even streaks"),
    "melanoma": ("blue veil", "uneven streaks", "atypical network"),
}


def toy_bank(folder: Path, classes: Mapping[str, Sequence[str]]) -> ConceptBank:
    """The bank `folder/toy.yaml` of these classes and their concepts, in their order."""
    content = {
        "name": "toy",
        "version": "1",
        "dataset": "Toy",
        "template": "a photo of a {class}, {concepts}.",
        "reviewed_by": [],
        "sources": {"here": "this test"},
        "classes": {
            name: [{"concept": text, "source": "here"} for text in concepts] for name, concepts in classes.items()
        },
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return load_bank(path).for_classes(list(classes))
