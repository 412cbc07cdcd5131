"""What a reader hands over: items and the three splits, with paths relative to the dataset's folder."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SPLITS = ("train", "val", "test")
WHOLE = "all"  # of three splits: what is published of a set without official ones


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
