"""A dataset as its reader gives it: before anything is compared, carved or left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xcoop.data import hygiene
from xcoop.data.dataset import MedicalDataset
from xcoop.data.items import Remark, Splits

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(frozen=True)
class Raw:
    """What a reader found.

    Attributes:
        name: of the dataset.
        about_name: of its facts; empty if nothing is published.
        folder: of the images.
        task: that was read.
        class_names: of the task, in label order.
        is_phantom: whether the pictures are drawn.
        splits: as they are handed out; an empty val is carved from train later.
        remarks: on how it was read.
        drops: whether a run leaves out what clashes (DATASET.HYGIENE).
    """

    name: str
    about_name: str
    folder: Path
    task: str
    class_names: tuple[str, ...]
    is_phantom: bool
    splits: Splits
    remarks: tuple[Remark, ...] = ()
    drops: bool = True


def read_raw(cfg: CfgNode) -> Raw:
    """The dataset that a configuration names, found and read by its own reader.

    Raises:
        MissingDatasetError: it is not there; the message says how to get it.
        DatasetError: its files contradict its layout.
        ValueError: the configuration names no task of it; or it is none of this package's kind.
    """
    from dassl.data.datasets import DATASET_REGISTRY

    cls: Any = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if not issubclass(cls, MedicalDataset):
        raise ValueError(f"{cls.__name__} is no MedicalDataset, and cannot be read without being cleaned")
    # The reader's own set-up runs up to where the cleaning begins, which hands over what was read.
    reader = type(cls.__name__, (cls,), {"_clean": _hand_over})
    try:
        reader(cfg)
    except _Read as read:
        return replace(read.raw, drops=hygiene.drops(cfg.DATASET.HYGIENE))
    raise AssertionError(f"{cls.__name__} never cleans what it reads")


class _Read(BaseException):  # nobody's `except Exception` is meant to see it
    def __init__(self, raw: Raw) -> None:
        self.raw = raw


def _hand_over(self: MedicalDataset, *arguments: object) -> NoReturn:
    """Stands in for the cleaning; of its arguments, the folder and the splits matter here."""
    (folder,) = (argument for argument in arguments if isinstance(argument, Path))
    (splits,) = (argument for argument in arguments if isinstance(argument, Splits))
    name = getattr(self, "name", "") or type(self).__name__
    facts = (name, self.about_name, folder, self.task, tuple(self.class_names), self.is_phantom)
    raise _Read(Raw(*facts, splits, tuple(self.remarks(folder, splits))))
