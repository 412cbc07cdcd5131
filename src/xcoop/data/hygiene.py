"""No image, no image content and no patient in two splits: finds what violates it, and drops it from train or val.

Content is the upright pixels as RGB (`xcoop.data.survey`): a picture that was compressed anew has another.
The test split is never changed, so that results stay comparable with those of others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from xcoop.data.items import Item, Splits
from xcoop.utils import suggest as names

logger = logging.getLogger(__name__)

ORDER = ("test", "val", "train")  # what stands first keeps its items
CHOICES = {"drop": True, "report": False}
EXAMPLES = 3


@dataclass(frozen=True)
class Clash:
    """One item that repeats something of an item seen before.

    Attributes:
        split: where the item stands.
        other_split: where the item seen before stands.
        kind: `path`, `content` or `patient`.
        dropped: whether the item was left out.
    """

    split: str
    other_split: str
    kind: str
    item: Item
    other: Item
    dropped: bool


@dataclass
class _Seen:
    """The first item of each path, content hash and patient."""

    hashes: Mapping[str, str]
    first: dict[tuple[str, str], tuple[str, Item]] = field(default_factory=dict)

    def keys(self, item: Item) -> list[tuple[str, str]]:
        keys = [("path", item.path), ("content", self.hashes.get(item.path, "")), ("patient", item.patient)]
        return [(kind, value) for kind, value in keys if value]

    def clash(self, split: str, item: Item, drop: bool) -> Clash | None:
        """What of the item was seen before; a patient may recur within a split, a picture should not."""
        for kind, value in self.keys(item):
            if (kind, value) not in self.first:
                continue
            other_split, other = self.first[kind, value]
            if kind != "patient" or other_split != split:
                return Clash(split, other_split, kind, item, other, dropped=drop and split != "test")
        return None

    def add(self, split: str, item: Item) -> None:
        for key in self.keys(item):
            self.first.setdefault(key, (split, item))


def drops(choice: str) -> bool:
    """Whether clashes are dropped, by DATASET.HYGIENE; ValueError for an unknown word."""
    if choice not in CHOICES:
        raise ValueError(f"DATASET.HYGIENE: {names.unknown('choice', choice, CHOICES)}")
    return CHOICES[choice]


def clean(splits: Splits, hashes: Mapping[str, str], drop: bool = True) -> tuple[Splits, list[Clash]]:
    """The splits without what stands in two of them, or twice in train or val.

    Args:
        splits: of the dataset.
        hashes: content hash of each path; a path without one is compared by path and patient alone.
        drop: False: the clashes are found, and everything stays.

    Returns:
        The splits (test as it was), and every clash that was found.
    """
    seen, by_name = _Seen(hashes), dict(splits)
    kept: dict[str, list[Item]] = {}
    clashes: list[Clash] = []
    for split in ORDER:
        kept[split] = []
        for item in by_name[split]:
            if clash := seen.clash(split, item, drop):
                clashes.append(clash)
            if clash is None or not clash.dropped:
                kept[split].append(item)
                seen.add(split, item)
    return Splits.of(kept["train"], kept["val"], kept["test"]), clashes


def report(name: str, clashes: list[Clash]) -> None:
    """Warns of each kind of clash once, with its number and a few examples."""
    for line in summary(clashes):
        logger.warning("%s: %s", name, line)


def summary(clashes: list[Clash]) -> list[str]:
    """One line for each kind of clash between each pair of splits."""
    groups = Counter((clash.split, clash.other_split, clash.kind) for clash in clashes)
    return [_line(key, [c for c in clashes if (c.split, c.other_split, c.kind) == key]) for key in sorted(groups)]


def _line(key: tuple[str, str, str], clashes: list[Clash]) -> str:
    split, other, kind = key
    kept = "the test split is never changed" if split == "test" else "DATASET.HYGIENE is 'report'"
    fate = "left out" if clashes[0].dropped else f"kept ({kept})"
    where = "again" if split == other else f"in {other} too"
    contradicting = sum(clash.item.label != clash.other.label for clash in clashes)
    note = f"; {contradicting} of them under another label" if contradicting and kind != "patient" else ""
    shown = ", ".join(_example(clash) for clash in clashes[:EXAMPLES])
    more = ", ..." if len(clashes) > EXAMPLES else ""
    return f"{len(clashes)} {split} images have their {kind} {where}, {fate}{note}: {shown}{more}"


def _example(clash: Clash) -> str:
    if clash.kind == "patient":
        return f"{clash.item.path} (patient {clash.item.patient})"
    return f"{clash.item.path} = {clash.other.path}"
