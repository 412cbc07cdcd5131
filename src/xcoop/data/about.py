"""What is published about a dataset: where to get it, its licence, its layout, its counts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xcoop.config.augmentation import KINDS
from xcoop.config.plugins import plugin_path
from xcoop.data.facts import Reader
from xcoop.data.items import WHOLE, Splits, per_class
from xcoop.utils.reading import read_yaml

logger = logging.getLogger(__name__)

GROUPINGS = ("patient", "lesion", "case", "report", "none", "")  # what splits are kept apart by; "" is not stated


class MissingDatasetError(FileNotFoundError):
    """A dataset that is not where it was looked for; the message says how to get it."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that anybody may download.

    Attributes:
        url: an http(s) address, or `gdrive:<id>`.
        name: where it is kept, relative to the data root.
        size: in bytes; 0 if it is not published.
        checksum: `md5:<hex>` or `sha256:<hex>`; empty if it is not published.
        unpack: the folder, relative to the data root, that an archive is unpacked into; None for a file that stays.
    """

    url: str
    name: str
    size: int = 0
    checksum: str = ""
    unpack: str | None = None


@dataclass(frozen=True)
class About:
    """The facts of one dataset; see `configs/datasets/about/*.yaml`.

    Attributes:
        layout: the expected files, drawn as a tree.
        phantom: the command that makes a phantom in its place; empty if there is none.
        counts: published number of images, by task, split (`all`: of the whole set) and class.
        files: what `xcoop data prepare` fetches, in order; none if nothing may be downloaded.
        request: what is to be done by hand; empty if nothing is.
        grouping: what is kept within one split, one of `GROUPINGS`.
        positive: the class that is looked for, of sets of two.
        keeps_labels: kinds of augmentation that keep every label (see `xcoop.config.augmentation`), each with
            the reason.
        changes_labels: kinds that do not.
        caution: known leakage or label problems.
        name: of the file.
    """

    title: str
    homepage: str
    licence: str
    citation: str
    layout: str
    phantom: str
    counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    files: tuple[RemoteFile, ...] = ()
    request: str = ""
    grouping: str = ""
    keeps_labels: Mapping[str, str] = field(default_factory=dict)
    changes_labels: Mapping[str, str] = field(default_factory=dict)
    caution: str = ""
    positive: str = ""
    name: str = ""


def about(name: str) -> About:
    """The facts of the dataset `name` (lower case, as its file).

    Raises:
        ValueError: the file has a key that there is not, lacks one, or holds a value of another kind.
    """
    return read_about(plugin_path("configs", "datasets", "about", f"{name}.yaml"))


def read_about(path: Path) -> About:
    """The facts in a file; see `about`."""
    top = Reader(read_yaml(path), str(path), About, filled=("name",))
    texts = ("title", "homepage", "licence", "citation", "layout", "phantom", "request", "caution", "positive")
    return About(
        **{key: top.text(key) for key in texts},
        counts=top.counts("counts"),
        files=tuple(_remote_file(row, where) for row, where in top.rows("files")),
        grouping=top.choice("grouping", GROUPINGS),
        keeps_labels=top.texts("keeps_labels", KINDS),
        changes_labels=top.texts("changes_labels", KINDS),
        name=path.stem,
    )


def _remote_file(row: Any, where: str) -> RemoteFile:
    reader = Reader(row, where, RemoteFile)
    return RemoteFile(
        url=reader.matching("url", r"https?://\S+|gdrive:[\w-]+", "an http(s) address or gdrive:<id>"),
        name=reader.inner_path("name"),
        size=reader.size("size"),
        checksum=reader.matching("checksum", r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})?", "md5:<hex> or sha256:<hex>"),
        unpack=reader.inner_path("unpack", root=True) if reader.has("unpack") else None,
    )


def missing(facts: About, looked_for: Iterable[Path]) -> MissingDatasetError:
    """The error for a dataset that was not found: all that is needed to get it, in one message."""
    places = "\n".join(f"  {path}" for path in looked_for)
    layout = "\n".join(f"  {line}" for line in facts.layout.rstrip().splitlines())
    return MissingDatasetError(
        f"{facts.title} was not found. Looked for\n{places}\n"
        f"Set the data root (DATA=... for the scripts, --root, DATASET.ROOT) or name the place with DATASET.PATH.\n"
        f"{how_to_get(facts)}\nLicence: {facts.licence}\nCite: {facts.citation}\n"
        f"Expected layout:\n{layout}"
        + (f"\nA phantom in its place (drawn, not clinical): {facts.phantom}" if facts.phantom else "")
    )


def how_to_get(facts: About) -> str:
    """Where it comes from, the command that fetches it, and what is to be done by hand; one line each."""
    lines = [f"Get it from: {facts.homepage}"]
    lines += [f"Or let it be fetched: xcoop data prepare {facts.name}"] if facts.files else []
    lines += [f"By hand: {facts.request}"] if facts.request else []
    return "\n".join(lines)


def compare_counts(facts: About, task: str, splits: Splits) -> list[str]:
    """One line for each split whose numbers of images differ from the published ones.

    Of a set that is still undivided there is nothing to say of val and test.
    """
    published = facts.counts.get(task, {})
    found = {split: per_class(items) for split, items in splits if items or splits.divided}
    found[WHOLE] = per_class(splits.all())
    return [
        f"{split} has {_counts(found[split])}; published: {_counts(expected)}"
        for split, expected in published.items()
        if split in found and found[split] != expected
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "no images"
