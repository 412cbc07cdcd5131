"""Your own images: a folder with a directory a class, a table, or a file of splits, and nothing else."""

from __future__ import annotations

import json
import logging
import posixpath
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import TEST_SHARE, MedicalDataset
from xcoop.data.folders import left_out
from xcoop.data.ownfolder import Own, read_own
from xcoop.data.ownplace import is_list, not_there
from xcoop.data.splits import SPLITS, Item, Remark, Splits, cached_place, carve, shown_some, three_way, write_first
from xcoop.utils.console import DatasetError
from xcoop.utils.reading import read_json

logger = logging.getLogger(__name__)

BANK = "concepts.yaml"  # in the folder: the concept bank of its classes
TASK = "classes"
MAX_NAMED = 5


@register_dataset()
class Folder(MedicalDataset):
    """`DATASET.PATH` names the folder, or the file that lists; see `read_own`. Without a split one is made and kept."""

    def set_up(self, cfg: CfgNode) -> None:
        """Reads the folder or the file that lists its images, which alone tell the classes."""
        if not cfg.DATASET.PATH:
            raise DatasetError(
                "This dataset is your own: name the folder of its images, its CSV file, or its JSON file of splits "
                "(such as DATASET.PATH my_images)"
            )
        (place,) = self.places(cfg)
        if not place.exists():
            raise not_there(place, cfg.DATASET.ROOT)
        self._own, self._seed = read_own(place, list(cfg.DATASET.CLASSES)), int(cfg.DATASET.SPLIT_SEED)
        self._from: list[Remark] = []  # on where the test images are from
        self.tasks = {TASK: self._own.classes}
        bank = self._own.folder / BANK
        self.concept_bank = str(bank) if bank.is_file() else ""

    def find(self, cfg: CfgNode) -> Path:
        """The folder to which the paths of the images are relative."""
        return self._own.folder

    def read(self, folder: Path) -> Splits:
        """The splits that directories, table or file of splits state; without a test, what `DATASET.TEST_FROM` says."""
        return self._own.splits

    def tested(self, cfg: CfgNode, folder: Path, splits: Splits) -> Splits:
        """The splits with the test images that `DATASET.TEST_FROM` gives to a set that has none."""
        source = self._own.source
        if not splits.divided or splits.test:
            return super().tested(cfg, folder, splits)
        chosen, self._from = testless(source, splits, cfg.DATASET.TEST_FROM, self._seed)
        return chosen

    def remarks(self, folder: Path, splits: Splits) -> list[Remark]:
        """How the file was read; what lies below the directories of the classes, or beside them, and is not read.

        A table or a file of splits may choose among images: what it does not list is mentioned, and is no fault.
        """
        taken = {item.path for item in splits.all()}
        if self._own.table:
            beside = left_out(
                folder,
                {posixpath.dirname(path) for path in taken},
                lambda path: path in taken or is_list(posixpath.basename(path)),
            )
            return [*self._own.remarks, *self._from, *(replace(remark, matters=False) for remark in beside)]
        return [
            *self._own.remarks,
            *self._from,
            *left_out(folder, [""], lambda path: path in taken or ("/" not in path and is_list(path))),
        ]

    @classmethod
    def classes_of(cls, cfg: CfgNode) -> tuple[str, ...] | None:
        """The classes in the files, if there are any."""
        places = cls.places(cfg) if cfg.DATASET.PATH else []
        return read_own(places[0], list(cfg.DATASET.CLASSES)).classes if places and places[0].exists() else None

    def _divide(self, splits: Splits, val_share: float, hashes: Mapping[str, str]) -> Splits:
        if splits.divided:
            return super()._divide(splits, val_share, hashes)
        return made_split(splits.train, self._own, self._seed, val_share, hashes)


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


def made_split(items: Sequence[Item], own: Own, seed: int, val_share: float, hashes: Mapping[str, str]) -> Splits:
    """The split of undivided images: made once (see `three_way`), written down, and reused until it is removed.

    The file lies in the folder of the images, or below the cache if nothing can be written there. Each table that
    lists images has a split of its own.

    Raises:
        DatasetError: the file is damaged, or images were added or removed since it was written.
    """
    name = f"{own.table}.split-seed_{seed}.json" if own.table else f"split-seed_{seed}.json"
    cached, shares = cached_place(own.folder, "splits"), {"test_share": TEST_SHARE, "val_share": val_share}
    for path in (own.folder / name, cached / name):
        if path.is_file():
            return _reused(path, items, shares)
    splits = three_way(items, seed, TEST_SHARE, val_share, hashes)
    rows = {split: [item.path for item in part] for split, part in splits}
    text = json.dumps({"schema": 1, "seed": seed, **shares, **rows}, indent=1) + "\n"
    if written := write_first(own.folder, cached, name, text):
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
