"""The split of a user's own images: made once, written down as JSON, and reused until the user removes it."""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xcoop.data.folders import writable
from xcoop.data.items import SPLITS, Item, Splits
from xcoop.data.splits import three_way
from xcoop.utils.console import DatasetError
from xcoop.utils.files import atomic_write_text, cache_dir
from xcoop.utils.reading import read_json

logger = logging.getLogger(__name__)

MAX_NAMED = 5


@dataclass(frozen=True)
class Recipe:
    """How a split is made: the seed, and the shares of the images of each class."""

    seed: int
    test: float
    val: float


def made_split(
    items: Sequence[Item], recipe: Recipe, hashes: Mapping[str, str], folder: Path, table: str = ""
) -> Splits:
    """The split that is written down, or a new one (see `three_way`), which is written down.

    Args:
        items: all images.
        recipe: of a new one.
        hashes: content hash of each path.
        folder: of the images; the file lies there, or below the cache if nothing can be written there.
        table: that lists the images; each table has a split of its own.

    Raises:
        DatasetError: the file is damaged, or images were added or removed since it was written.
    """
    name = f"{table}.split-seed_{recipe.seed}.json" if table else f"split-seed_{recipe.seed}.json"
    places = _places(folder, name)
    for path in places:
        if path.is_file():
            return _reused(path, items, recipe)
    splits = three_way(items, recipe.seed, recipe.test, recipe.val, hashes)
    _write(places if writable(folder) else places[1:], splits, recipe)
    return splits


def _places(folder: Path, name: str) -> list[Path]:
    key = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return [folder / name, cache_dir() / "splits" / f"{folder.name}-{key}" / name]


def _write(places: Iterable[Path], splits: Splits, recipe: Recipe) -> None:
    rows = {split: [item.path for item in items] for split, items in splits}
    facts = {"schema": 1, "seed": recipe.seed, "test_share": recipe.test, "val_share": recipe.val}
    for path in places:
        try:
            atomic_write_text(path, json.dumps({**facts, **rows}, indent=1) + "\n")
        except OSError as error:
            logger.debug("cannot write %s (%s)", path, error)
        else:
            logger.info("no split is stated; one was made (seed %d) and written to %s", recipe.seed, path)
            return
    logger.warning("the split could not be written down; it stays the same as long as the images do")


def _reused(path: Path, items: Sequence[Item], recipe: Recipe) -> Splits:
    tree = _read(path)
    by_path = {item.path: item for item in items}
    spelt = {unicodedata.normalize("NFC", path): path for path in by_path}  # the file may come from another system

    def on_disk(image: str) -> str:
        return image if image in by_path else spelt.get(unicodedata.normalize("NFC", image), image)

    split_of = {on_disk(image): split for split in SPLITS for image in tree[split]}
    new, gone = sorted(by_path.keys() - split_of.keys()), sorted(split_of.keys() - by_path.keys())
    if new or gone:
        raise DatasetError(
            f"{path} divides other images than there are: {_named('new', new)}, {_named('gone', gone)}.\n"
            "It is not remade by itself: figures would no longer compare. To have a new one made, delete that file, or "
            "set DATASET.SPLIT_SEED to another number."
        )
    if (tree.get("test_share"), tree.get("val_share")) != (recipe.test, recipe.val):
        logger.warning("%s was made with other shares; it is used as it is. Delete it to have it made anew", path)
    logger.info("the split of %s is used", path)
    train, val, test = ([by_path[on_disk(image)] for image in tree[split]] for split in SPLITS)
    return Splits.of(train, val, test)


def _read(path: Path) -> dict[str, list[str]]:
    try:
        tree = read_json(path)
        images = [image for split in SPLITS for image in tree[split]]
        whole = all(isinstance(image, str) for image in images) and len(set(images)) == len(images)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged ({error}): restore it, or delete it for a new split") from error
    if not whole:
        raise DatasetError(f"{path} is damaged (an image stands twice, or is no path): restore or delete it")
    return dict(tree)


def _named(what: str, paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:MAX_NAMED]) + (", ..." if len(paths) > MAX_NAMED else "")
    return f"{len(paths)} {what} ({shown})" if paths else f"0 {what}"
