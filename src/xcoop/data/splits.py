"""Which items are trained on: whole sets divided, validation carved from train, few-shot subsets, base and new classes.

Every choice ranks the items by a hash of what they are (dataset, seed, class, path) and takes the first ones. It
depends on nothing else: not on how a folder was listed, nor on random calls made before, nor on the Python version.
The subset of fewer shots lies within that of more.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import posixpath
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from xcoop.utils.files import atomic_write_text, cache_dir, require_ours, unused, writable

SPLITS = ("train", "val", "test")
WHOLE = "all"  # of three splits: what is published of a set without official ones
EXAMPLES = 3  # of what is found, in a message


@dataclass(frozen=True)
class Remark:
    """What a reader says of how it read a dataset, or of what it left unread."""

    text: str
    matters: bool = False  # something may be missing or mistaken; else it is for information


@dataclass(frozen=True, order=True)
class Item:
    """One labelled image."""

    path: str  # relative to the dataset's folder, with `/` on every system
    label: int
    classname: str
    patient: str = ""  # who is shown (any id that is unique in the dataset); empty if unknown


@dataclass(frozen=True)
class Splits:
    """Training, validation and test items, each sorted by path."""

    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    divided: bool = True  # false for a set without official splits, whose items all stand in `train`

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
    """One item of a split that repeats something of another item, seen before in the same split or another."""

    split: str
    other_split: str
    kind: str  # path, content or patient
    item: Item
    other: Item
    dropped: bool  # whether the item was left out


def clean(splits: Splits, hashes: Mapping[str, str], drop: bool = True) -> tuple[Splits, list[Clash]]:
    """The splits without what stands in two of them, or twice in train or val.

    `hashes` has the content hash of each path (see `xcoop.data.folders.survey`); a path without one is compared by path
    and patient alone. Test stays as it was; without `drop`, all do. Returns the splits and every clash that was found.
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


logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")

MAX_VAL_SHOTS = 4  # as in CoOp: a few-shot learner has no large validation set
ALL_VAL = -1
TOLERANCE = 1e-6  # images: 0.1 / 0.7 of 7 is one, whatever the rounding
MAX_NAMED = 5


def few_shot(splits: Splits, shots: int, seed: int, salt: str, val_shots: int = 0) -> Splits:
    """K training and min(K, 4) validation items a class; all of a class that has fewer. Test stays whole.

    `salt` is the dataset's name and task; `val_shots` another number of validation items a class (0: min(K, 4);
    `ALL_VAL`: all).
    """
    wanted = val_shots or min(shots, MAX_VAL_SHOTS)
    train = _take(splits.train, shots, f"{salt}|train|{seed}")
    val = splits.val if wanted == ALL_VAL else _take(splits.val, wanted, f"{salt}|val|{seed}")
    return Splits.of(train, val, splits.test)


def _take(items: Iterable[Item], count: int, salt: str) -> list[Item]:
    by_class: dict[tuple[int, str], list[Item]] = defaultdict(list)
    for item in items:
        by_class[item.label, item.classname].append(item)
    taken: list[Item] = []
    for (_, classname), own in sorted(by_class.items()):
        if len(own) < count:
            logger.warning("class %r has only %d of the %d shots asked for", classname, len(own), count)
        taken += _ranked(own, f"{salt}|{classname}", lambda item: item.path)[:count]
    return taken


def _ranked(things: Iterable[Thing], salt: str, name: Callable[[Thing], str]) -> list[Thing]:
    """The things in the order of a hash of their names: a shuffle that needs no generator."""

    def rank(thing: Thing) -> bytes:
        text = unicodedata.normalize("NFC", f"{salt}|{name(thing)}")  # the same on systems that spell letters otherwise
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

    return sorted(things, key=rank)


def subsample_classes(splits: Splits, which: str) -> Splits:
    """All classes, or the base or new half of them, relabelled from 0 (CoOp's rule).

    Base classes are the first ceil(n / 2) labels of train, the new ones the rest. ValueError if there are none.
    """
    if which == "all":
        return splits
    labels = sorted({item.label for item in splits.train})
    half = math.ceil(len(labels) / 2)
    chosen = labels[:half] if which == "base" else labels[half:]
    if not chosen:
        raise ValueError(f"DATASET.SUBSAMPLE_CLASSES is {which!r}, but there is only the label {labels}")
    relabel = {label: new for new, label in enumerate(chosen)}
    kept = [[replace(i, label=relabel[i.label]) for i in items if i.label in relabel] for _, items in splits]
    return Splits.of(*kept)


def carve(
    items: Sequence[Item], fraction: float, seed: int, hashes: Mapping[str, str]
) -> tuple[list[Item], list[Item]]:
    """Training items parted into train and validation, by patient and stratified by class; see `three_way`.

    Each class gives whole patients until at least `fraction` (in (0, 1)) of its images are reached.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the share of the images carved for validation must lie between 0 and 1, not {fraction}")
    return _part(items, fraction, f"carve|{seed}", hashes, lambda group: group[0].path)


def three_way(items: Sequence[Item], seed: int, test: float, val: float, hashes: Mapping[str, str]) -> Splits:
    """A set without official splits, divided by patient and stratified by class.

    Items of one patient, or of one content, stay together. Each class gives whole patients to test, then to val,
    until the shares are reached, and keeps at least one. Patients are ranked by their ids, and images without one by
    their file names alone: the split is the same wherever the folders lie and in whatever format they hold the images.

    `test` and `val` are the shares of the images of each class, above 0, and below 1 together; `hashes` has the content
    hash of each path, or of some.
    """
    if not (test > 0 and val > 0 and test + val < 1):
        raise ValueError(f"the shares of test ({test}) and val ({val}) must be above 0, and below 1 together")

    def own_name(group: list[Item]) -> str:
        return min(item.patient or posixpath.splitext(posixpath.basename(item.path))[0] for item in group)

    rest, tested = _part(items, test, f"test|{seed}", hashes, own_name)
    train, validated = _part(rest, val / (1 - test), f"val|{seed}", hashes, own_name)
    return Splits.of(train, validated, tested)


def _part(
    items: Sequence[Item],
    fraction: float,
    salt: str,
    hashes: Mapping[str, str],
    name: Callable[[list[Item]], str],
) -> tuple[list[Item], list[Item]]:
    """What stays and what is taken: of each class the first groups by the hash of their names."""
    strata: dict[tuple[int, ...], list[list[Item]]] = defaultdict(list)
    for group in sorted(_inseparable(items, hashes), key=lambda group: group[0].path):
        strata[tuple(sorted({item.label for item in group}))].append(group)
    taken: list[Item] = []
    for groups in strata.values():
        wanted = len(taken) + fraction * sum(map(len, groups)) - TOLERANCE
        for group in _ranked(groups, salt, name)[: len(groups) - 1]:
            if len(taken) >= wanted:
                break
            taken += group
    chosen = set(taken)
    return [item for item in items if item not in chosen], taken


def _inseparable(items: Sequence[Item], hashes: Mapping[str, str]) -> list[list[Item]]:
    """Groups of items linked by patient or content, directly or through others (union-find)."""
    parent = list(range(len(items)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, item in enumerate(items):
        for key in (("patient", item.patient), ("content", hashes.get(item.path, ""))):
            if key[1]:
                parent[root(index)] = root(first.setdefault(key, index))
    groups: dict[int, list[Item]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[root(index)].append(item)
    return [sorted(group) for group in groups.values()]


def cached_place(folder: Path, kind: str) -> Path:
    """Where what belongs into a folder of data goes if nothing can be written there."""
    key = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return cache_dir() / kind / f"{folder.name}-{key}"


def record(splits: Splits, folder: Path, facts: Mapping[str, object], name: str) -> Path | None:
    """Writes train and val of a few-shot subset, after `facts`, as JSON beside the data, or below the cache.

    The file is a record, never an input: the subset follows from data, shots and seed. One that says otherwise (made
    from other data, edited or damaged) is replaced, with a warning; what does not look like a record is kept beside it.
    Returns where it lies; None if it could not be written anywhere.
    """
    rows = {split: [[i.path, i.label, i.classname] for i in items] for split, items in splits if split != "test"}
    text = json.dumps({"schema": 1, **facts, **rows}, indent=1, ensure_ascii=False) + "\n"
    written = write_first(folder / "split_fewshot", cached_place(folder, "split_fewshot"), name, text)
    if written is None:
        logger.warning("the few-shot subset %s could not be written below %s or %s", name, folder, cache_dir())
    return written


def write_first(beside: Path, cached: Path, name: str, text: str) -> Path | None:
    """Writes a text beside the data, else below the cache; where, or None if neither takes it."""
    for path in (beside / name, cached / name) if writable(beside) else (cached / name,):
        with suppress(OSError):
            _write_record(path, text)
            return path
    return None


def _write_record(path: Path, text: str) -> None:
    if os.path.lexists(path):
        if path.is_file() and path.read_bytes() == text.encode():
            return
        logger.warning("%s does not fit the data, shots and seed (stale, edited or damaged); it is replaced", path)
        try:
            require_ours(path, kind="few-shot subset")
        except FileExistsError:  # past recognition, or somebody else's
            path.rename(kept := unused(path.with_name(f"{path.name}.old")))
            logger.warning("what was in %s is kept as %s", path, kept)
    atomic_write_text(path, text)
