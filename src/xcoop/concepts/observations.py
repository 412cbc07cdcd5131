"""Concept labels of training images: from a dataset that has them, or from any CSV table."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from xcoop.concepts.mining import Observation
from xcoop.concepts.wording import UNKNOWN, Wording
from xcoop.utils import suggest as names
from xcoop.utils.reading import read_csv

logger = logging.getLogger(__name__)


def of_dataset(dataset: Any, wording: Wording, mode: str) -> list[Observation]:
    """What the training images of a loaded dataset show; validation and test images are not looked at.

    Args:
        dataset: a `MedicalDataset`.
        wording: what its values mean.
        mode: how values are counted; see `Wording.values`.

    Raises:
        ValueError: the dataset has no concept labels, or none for its training images.
    """
    name, folder = type(dataset).__name__, Path(dataset.dataset_dir)
    labels = dataset.concept_labels(folder)
    if labels is None:
        raise ValueError(f"{name} has no concept labels; `--csv` mines a table of them")
    found = [(datum.classname, labels.get(_relative(datum.impath, folder))) for datum in dataset.train_x]
    known = [Observation(classname, wording.values(values, mode)) for classname, values in found if values is not None]
    if lost := len(found) - len(known):
        logger.warning("%s: %d of %d training images have no concept labels, and are left out", name, lost, len(found))
    if not known:
        raise ValueError(f"{name} has no concept labels for any of its training images")
    return known


def of_csv(
    path: Path,
    label: str,
    concepts: Sequence[str],
    wording: Wording,
    mode: str,
    split: str = "",
    train_values: Iterable[str] = ("train",),
) -> list[Observation]:
    """What the training rows of a table show.

    Args:
        path: a CSV file, one image a row.
        label: the column of the class; rows where it is empty are left out.
        concepts: the columns of the concepts.
        wording: what their values mean.
        mode: how values are counted; see `Wording.values`.
        split: the column that tells training rows; without one, every row is taken for training.
        train_values: what stands there in training rows.

    Raises:
        ValueError: a column is missing, or no row is left.
    """
    columns = [label, *concepts, *filter(None, [split])]
    rows = read_csv(path, ())
    for column in columns:
        if rows and column not in rows[0]:
            raise ValueError(f"{path}: {names.unknown('column', column, rows[0])}")
    wanted = {value.strip().lower() for value in train_values}
    kept = [row for row in rows if not split or row[split].strip().lower() in wanted]
    kept = [row for row in kept if row[label].strip().lower() not in UNKNOWN]
    if not kept:
        there = sorted({row[split] for row in rows}) if split else []
        raise ValueError(f"{path} has no training rows" + (f"; its column {split!r} has {there}" if there else ""))
    return [
        Observation(row[label].strip(), wording.values({name: row[name] for name in concepts}, mode)) for row in kept
    ]


def _relative(impath: str, folder: Path) -> str:
    return Path(impath).relative_to(folder).as_posix()
