"""The splits of a user's own images that nobody states: made once, by patient, written down, and used again."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from xcoop.data.dataset import TEST_SHARE
from xcoop.data.ownfolder import Own
from xcoop.data.splits import SPLITS, Item, Remark, Splits, cached_place, carve, shown_some, three_way, write_first
from xcoop.utils.console import DatasetError
from xcoop.utils.reading import read_json

logger = logging.getLogger(__name__)

MAX_NAMED = 5


def split_file(seed: int, table: str = "") -> str:
    """The name of the file that keeps a made split: of the directories, or of the table of that name."""
    return f"{table}.split-seed_{seed}.json" if table else f"split-seed_{seed}.json"


def testless(source: Path, splits: Splits, test_from: str, seed: int) -> tuple[Splits, list[Remark]]:
    """The splits of a set without test images, and what has to be said of them.

    With `val` the validation images are the test, and others are carved from train. With `train` test images are made
    from train, by patient: with those of val as they are, or, without any, as for a set without splits.

    Raises:
        DatasetError: nothing is chosen, or what is chosen is not there.
    """
    has = [split for split, items in splits if items]
    if test_from == "val" and splits.val:
        text = f"the {len(splits.val)} images of val are the test (DATASET.TEST_FROM val); val is carved from train"
        return Splits.of(splits.train, (), splits.val), [Remark(f"{source}: {text}", True)]
    if test_from == "train" and not splits.val:
        text = "test and val are made from train, by patient (DATASET.TEST_FROM train)"
        return Splits.undivided(splits.train), [Remark(f"{source}: {text}", True)]
    if test_from == "train":
        train, test = carve(splits.train, TEST_SHARE, seed, {})
        text = f"{len(test)} images of train are the test, by patient (DATASET.TEST_FROM train)"
        return Splits.of(train, splits.val, test), [Remark(f"{source}: {text}", True)]
    choices = ["DATASET.TEST_FROM val tests on the val images, which then choose nothing"] if splits.val else []
    choices.append(f"DATASET.TEST_FROM train makes a test of {TEST_SHARE:.0%} of the train images, by patient")
    raise DatasetError(f"{source} has no test images; it has {has}. {'; '.join(choices)}")


def kept_split(own: Own, seed: int) -> Path | None:
    """The file of the split that was made of these images before; None if there is none."""
    name = split_file(seed, own.table)
    places = (own.folder / name, cached_place(own.folder, "splits") / name)
    return next(filter(Path.is_file, places), None)


def made_split(items: Sequence[Item], own: Own, seed: int, val_share: float, hashes: Mapping[str, str]) -> Splits:
    """The split of undivided images: made once (see `three_way`), written down, and reused until it is removed.

    The file lies in the folder of the images, or below the cache if nothing can be written there. Each table that
    lists images has a split of its own.

    Raises:
        DatasetError: the file is damaged, or images were added or removed since it was written.
    """
    shares = {"test_share": TEST_SHARE, "val_share": val_share}
    if path := kept_split(own, seed):
        return _reused(path, items, shares)
    splits = three_way(items, seed, TEST_SHARE, val_share, hashes)
    rows = {split: [item.path for item in part] for split, part in splits}
    text = json.dumps({"schema": 1, "seed": seed, **shares, **rows}, indent=1) + "\n"
    if written := write_first(own.folder, cached_place(own.folder, "splits"), split_file(seed, own.table), text):
        logger.info("no split is stated; one was made (seed %d) and written to %s", seed, written)
    else:
        logger.warning("the split could not be written down; it stays the same as long as the images do")
    return splits


def _reused(path: Path, items: Sequence[Item], shares: Mapping[str, float]) -> Splits:
    try:
        tree = read_json(path)
        images = [image for split in SPLITS for image in tree[split]]
        if not all(isinstance(image, str) for image in images) or len(set(images)) < len(images):
            raise ValueError("an image stands twice, or is no path")
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged ({error}): restore it, or delete it for a new split") from error
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
    if any(tree.get(key) != share for key, share in shares.items()):
        logger.warning("%s was made with other shares; it is used as it is. Delete it to have it made anew", path)
    logger.info("the split of %s is used", path)
    return Splits.of(*([by_path[image] for image in divided[split]] for split in SPLITS))
