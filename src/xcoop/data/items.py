"""What a reader of a dataset hands over, and what must not stand in it twice.

A reader gives items in three splits, with paths relative to the dataset's folder. No image, no image content and no
patient may be in two splits: `clean` finds what violates it, and drops it from train or val. The test split is never
changed, so that results stay comparable with those of others.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

SPLITS = ("train", "val", "test")
WHOLE = "all"  # of three splits: what is published of a set without official ones
EXAMPLES = 3  # of what is found, in a message


@dataclass(frozen=True)
class Remark:
    """What a reader says of how it read a dataset, or of what it left unread.

    Attributes:
        matters: whether something may be missing or mistaken; else it is for information.
    """

    text: str
    matters: bool = False


@dataclass(frozen=True, order=True)
class Item:
    """One labelled image.

    Attributes:
        path: relative to the dataset's folder, with `/` on every system.
        patient: who is shown (any id that is unique in the dataset); empty if unknown.
    """

    path: str
    label: int
    classname: str
    patient: str = ""


@dataclass(frozen=True)
class Splits:
    """Training, validation and test items, each sorted by path.

    Attributes:
        divided: false for a set without official splits, whose items all stand in `train`.
    """

    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    divided: bool = True

    @classmethod
    def of(cls, train: Iterable[Item], val: Iterable[Item], test: Iterable[Item]) -> Splits:
        """The splits of items in any order: nothing later depends on how a folder was listed."""
        return cls(tuple(sorted(train)), tuple(sorted(val)), tuple(sorted(test)))

    @classmethod
    def undivided(cls, items: Iterable[Item]) -> Splits:
        """A whole set that has no official splits, still to be divided."""
        return cls(tuple(sorted(items)), (), (), divided=False)

    def __iter__(self) -> Iterator[tuple[str, tuple[Item, ...]]]:
        """Pairs of a split's name and its items."""
        return iter([("train", self.train), ("val", self.val), ("test", self.test)])

    def all(self) -> list[Item]:
        """Every item of every split."""
        return [item for _, items in self for item in items]

    def digest(self) -> str:
        """SHA-256 (hex) over the split, path and label of every item: the same digest means the same splits."""
        lines = [f"{split}\t{item.path}\t{item.label}\n" for split, items in self for item in items]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def per_class(items: Iterable[Item]) -> dict[str, int]:
    """How many items each class has, in label order."""
    counts = Counter((item.label, item.classname) for item in items)
    return {classname: counts[label, classname] for label, classname in sorted(counts)}


def shown_some(texts: Iterable[str], limit: int = EXAMPLES) -> str:
    """The first of some texts for a message, `a, b, c, ...`."""
    shown = list(texts)
    return ", ".join(shown[:limit]) + (", ..." if len(shown) > limit else "")


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


def clean(splits: Splits, hashes: Mapping[str, str], drop: bool = True) -> tuple[Splits, list[Clash]]:
    """The splits without what stands in two of them, or twice in train or val.

    Args:
        splits: of the dataset.
        hashes: content hash of each path, of the upright pixels as RGB (`xcoop.data.survey`): an image that was
            compressed anew has another. A path without one is compared by path and patient alone.
        drop: False: the clashes are found, and everything stays.

    Returns:
        The splits (test as it was), and every clash that was found.
    """
    first: dict[tuple[str, str], tuple[str, Item]] = {}  # kind and value -> split and item that have it first
    kept: dict[str, list[Item]] = {}
    clashes: list[Clash] = []
    by_name = dict(splits)
    for split in ("test", "val", "train"):  # what stands first keeps its items
        kept[split] = []
        for item in by_name[split]:
            values = {"path": item.path, "content": hashes.get(item.path, ""), "patient": item.patient}
            keys = [(kind, value) for kind, value in values.items() if value]
            clash = None
            for kind, value in keys:
                other_split, other = first.get((kind, value), (split, None))
                # A patient may recur within a split, an image should not.
                if other and (kind != "patient" or other_split != split):
                    clash = Clash(split, other_split, kind, item, other, dropped=drop and split != "test")
                    clashes.append(clash)
                    break
            if clash is None or not clash.dropped:
                kept[split].append(item)
                for key in keys:
                    first.setdefault(key, (split, item))
    return Splits.of(kept["train"], kept["val"], kept["test"]), clashes


def grouped(clashes: Iterable[Clash]) -> list[list[Clash]]:
    """The clashes of each kind between each pair of splits."""
    groups: dict[tuple[str, str, str], list[Clash]] = defaultdict(list)
    for clash in clashes:
        groups[clash.split, clash.other_split, clash.kind].append(clash)
    return [group for _, group in sorted(groups.items())]


def told(group: list[Clash]) -> str:
    """One line on the clashes of one kind between two splits."""
    split, other, kind = group[0].split, group[0].other_split, group[0].kind
    kept = "the test split is never changed" if split == "test" else "DATASET.HYGIENE is 'report'"
    fate = "left out" if group[0].dropped else f"kept ({kept})"
    where = "again" if split == other else f"in {other} too"
    contradicting = sum(clash.item.label != clash.other.label for clash in group)
    note = f"; {contradicting} of them under another label" if contradicting and kind != "patient" else ""
    shown = shown_some(
        f"{one.item.path} (patient {one.item.patient})" if kind == "patient" else f"{one.item.path} = {one.other.path}"
        for one in group
    )
    return f"{len(group)} {split} images have their {kind} {where}, {fate}{note}: {shown}"
