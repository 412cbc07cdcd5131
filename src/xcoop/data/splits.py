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
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from xcoop.data.folders import writable
from xcoop.data.items import SPLITS, Item, Splits, shown_some
from xcoop.utils.console import DatasetError
from xcoop.utils.files import atomic_write_text, cache_dir, require_ours, unused
from xcoop.utils.reading import read_json
from xcoop.utils.suggest import unknown

logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")

MAX_VAL_SHOTS = 4  # as in CoOp: a few-shot learner has no large validation set
ALL_VAL = -1
TOLERANCE = 1e-6  # images: 0.1 / 0.7 of 7 is one, whatever the rounding
SUBSAMPLES = ("all", "base", "new")
MAX_NAMED = 5


def few_shot(splits: Splits, shots: int, seed: int, salt: str, val_shots: int = 0) -> Splits:
    """K training and min(K, 4) validation items a class; all of a class that has fewer. Test stays whole.

    Fewer than one shot leaves nothing out. `salt` is the dataset's name and task; `val_shots` another number of
    validation items a class (0: min(K, 4); `ALL_VAL`: all; ValueError below that).
    """
    if val_shots < ALL_VAL:
        raise ValueError(
            f"DATASET.VAL_SHOTS must be -1 (all), 0 (min(shots, {MAX_VAL_SHOTS})) or more, not {val_shots}"
        )
    if shots < 1:
        return splits
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

    Base classes are the first ceil(n / 2) labels of train, the new ones the rest. ValueError for an unknown word, or if
    there are no such classes.
    """
    if which not in SUBSAMPLES:
        raise ValueError(f"DATASET.SUBSAMPLE_CLASSES: {unknown('choice', which, SUBSAMPLES)}")
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
    """Training items parted into train and validation, by patient and stratified by class.

    Items of one patient, or of one content, stay together. Each class gives whole patients until at least
    `fraction` of its images are reached, and keeps at least one patient.

    Returns the items left for training, and those for validation. `fraction` lies in (0, 1); `hashes` has the content
    hash of each path, or of some.
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


def _cached(folder: Path, kind: str) -> Path:
    """Where what belongs into a folder of data goes if nothing can be written there."""
    key = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return cache_dir() / kind / f"{folder.name}-{key}"


def record(splits: Splits, folder: Path, facts: Mapping[str, object], name: str) -> Path | None:
    """Writes a few-shot subset as JSON beside the data, or below the cache if the data cannot be written to.

    The file is a record, never an input: the subset follows from data, shots and seed. One that says otherwise (made
    from other data, edited or damaged) is replaced, with a warning; what does not look like a record is kept beside it.

    Returns where it lies; None if it could not be written anywhere. Train and val are written, after the `facts`:
    dataset, task, shots, seed and the digest of the full splits.
    """
    rows = {split: [[i.path, i.label, i.classname] for i in items] for split, items in splits if split != "test"}
    text = json.dumps({"schema": 1, **facts, **rows}, indent=1, ensure_ascii=False) + "\n"
    written = _write_first(folder / "split_fewshot", _cached(folder, "split_fewshot"), name, text)
    if written is None:
        logger.warning("the few-shot subset %s could not be written below %s or %s", name, folder, cache_dir())
    return written


def _write_first(beside: Path, cached: Path, name: str, text: str) -> Path | None:
    """Writes a text beside the data, else below the cache; where, or None if neither takes it."""
    for path in (beside / name, cached / name) if writable(beside) else (cached / name,):
        try:
            _write_record(path, text)
        except OSError as error:
            logger.debug("cannot write %s (%s)", path, error)
        else:
            return path
    return None


def _write_record(path: Path, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    if os.path.lexists(path):
        if path.is_file() and path.read_bytes() == data:
            return
        logger.warning("%s does not fit the data, shots and seed (stale, edited or damaged); it is replaced", path)
        try:
            require_ours(path, kind="few-shot subset")
        except FileExistsError:  # past recognition, or somebody else's
            path.rename(kept := unused(path.with_name(f"{path.name}.old")))
            logger.warning("what was in %s is kept as %s", path, kept)
    atomic_write_text(path, text)


@dataclass(frozen=True)
class Recipe:
    """How a split is made: the seed, and the shares of the images of each class."""

    seed: int
    test: float
    val: float


def made_split(
    items: Sequence[Item], recipe: Recipe, hashes: Mapping[str, str], folder: Path, table: str = ""
) -> Splits:
    """The split of a user's own images: made once (see `three_way`), written down, and reused until it is removed.

    The file lies in the folder of the images, or below the cache if nothing can be written there. Each `table` that
    lists images has a split of its own.

    Raises:
        DatasetError: the file is damaged, or images were added or removed since it was written.
    """
    name = f"{table}.split-seed_{recipe.seed}.json" if table else f"split-seed_{recipe.seed}.json"
    cached = _cached(folder, "splits")
    for path in (folder / name, cached / name):
        if path.is_file():
            return _reused(path, items, recipe)
    splits = three_way(items, recipe.seed, recipe.test, recipe.val, hashes)
    rows = {split: [item.path for item in own] for split, own in splits}
    facts = {"schema": 1, "seed": recipe.seed, "test_share": recipe.test, "val_share": recipe.val}
    if written := _write_first(folder, cached, name, json.dumps({**facts, **rows}, indent=1) + "\n"):
        logger.info("no split is stated; one was made (seed %d) and written to %s", recipe.seed, written)
    else:
        logger.warning("the split could not be written down; it stays the same as long as the images do")
    return splits


def _reused(path: Path, items: Sequence[Item], recipe: Recipe) -> Splits:
    try:
        tree = read_json(path)
        images = [image for split in SPLITS for image in tree[split]]
        whole = all(isinstance(image, str) for image in images) and len(set(images)) == len(images)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged ({error}): restore it, or delete it for a new split") from error
    if not whole:
        raise DatasetError(f"{path} is damaged (an image stands twice, or is no path): restore or delete it")
    by_path = {item.path: item for item in items}
    spelt = {unicodedata.normalize("NFC", path): path for path in by_path}  # the file may come from another system
    divided = {
        split: [
            image if image in by_path else spelt.get(unicodedata.normalize("NFC", image), image)
            for image in tree[split]
        ]
        for split in SPLITS
    }
    known = {image for own in divided.values() for image in own}
    new, gone = sorted(by_path.keys() - known), sorted(known - by_path.keys())
    if new or gone:
        found = ", ".join(
            f"{len(paths)} {what}" + (f" ({shown_some(paths, MAX_NAMED)})" if paths else "")
            for what, paths in (("new", new), ("gone", gone))
        )
        raise DatasetError(
            f"{path} divides other images than there are: {found}.\n"
            "It is not remade by itself: figures would no longer compare. To have a new one made, delete that file, or "
            "set DATASET.SPLIT_SEED to another number."
        )
    if (tree.get("test_share"), tree.get("val_share")) != (recipe.test, recipe.val):
        logger.warning("%s was made with other shares; it is used as it is. Delete it to have it made anew", path)
    logger.info("the split of %s is used", path)
    return Splits.of(*([by_path[image] for image in divided[split]] for split in SPLITS))
