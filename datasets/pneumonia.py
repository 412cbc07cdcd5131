"""Chest X-rays of children, normal or with pneumonia (Kermany et al. 2018), in the layout of the official archive."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import list_images
from xcoop.data.splits import Item, Splits
from xcoop.utils.console import DatasetError

logger = logging.getLogger(__name__)

FOLDERS = ("NORMAL", "PNEUMONIA")
PNEUMONIA_NAME = re.compile(r"person(\d+)_(bacteria|virus)_\d+", re.IGNORECASE)
NORMAL_NAME = re.compile(r"(NORMAL2-)?IM-(\d+)", re.IGNORECASE)
CAUSES = {"bacteria": 1, "virus": 2}  # labels of the three-class task


@register_dataset()
class Pneumonia(MedicalDataset):
    """The archive's train and test; validation is carved from train by patient.

    The archive's own 16 validation images are too few to select on, and are left alone.
    `DATASET.TASK`: `normal-vs-pneumonia` (default); `three-class`, with the cause read from the file names.
    """

    dataset_dir = "Pneumonia/chest_xray"
    about_name = "pneumonia"
    concept_bank = "pneumonia"
    positive_class = "pneumonia"
    tasks = {  # noqa: RUF012 - the engine's base class is untyped
        "normal-vs-pneumonia": ("normal", "pneumonia"),
        "three-class": ("normal", "bacterial pneumonia", "viral pneumonia"),
    }

    def find(self, cfg: CfgNode) -> Path:
        """The folder that holds `train/` and `test/`; the archive nests it up to twice."""
        places = self.places(cfg, "Pneumonia", "pneumonia", "")
        candidates = [place / below for place in places for below in ("chest_xray", "", "chest_xray/chest_xray")]
        for folder in candidates:
            if (folder / "train").is_dir() and (folder / "test").is_dir():
                return folder
        raise self.missing([folder / "train" for folder in candidates])

    def read(self, folder: Path) -> Splits:
        """The images of train and test; val stays empty, to be carved."""
        if (folder / "val").is_dir():
            logger.info("%s is not used: its 16 images are too few to select on", folder / "val")
        train, test = ([item for name in FOLDERS for item in self._class(folder, s, name)] for s in ("train", "test"))
        return Splits.of(train, [], test)

    def _class(self, folder: Path, split: str, name: str) -> list[Item]:
        place = folder / split / name
        if not place.is_dir():
            raise DatasetError(f"{place} is missing: the archive has {split}/NORMAL and {split}/PNEUMONIA")
        files = list_images(place)
        if not files:
            raise DatasetError(f"{place} holds no images")
        labels = dict.fromkeys(files, FOLDERS.index(name))
        if name == "PNEUMONIA" and self.task == "three-class":
            if unknown := [file for file in files if not cause_of(file)]:
                told = ", ".join(unknown)
                raise DatasetError(f"{place}: no cause ('person1_bacteria_2.jpeg') in the names {told}")
            labels = {file: CAUSES[cause_of(file)] for file in files}
        return [
            Item(f"{split}/{name}/{file}", label, self.class_names[label], patient_of(file))
            for file, label in labels.items()
        ]


def cause_of(file: str) -> str:
    """`bacteria` or `virus`, from the file name; empty if it says neither."""
    match = PNEUMONIA_NAME.match(file)
    return match[2].lower() if match else ""


def patient_of(file: str) -> str:
    """Who is shown, from the file name; a name of another kind stands for a patient of its own.

    The archive numbers its patients within four series: `person<ID>_bacteria`, `person<ID>_virus`, `IM-<ID>` and
    `NORMAL2-IM-<ID>`. A series runs through train and test, and no number of it is in both (counted: 0 of 4,082
    patients). Equal numbers of two series are different children: 979 numbers stand in both pneumonia series, their
    running image numbers overlap too, and pictures with equal numbers are no more alike than pictures with
    different ones. So the id is the series with the number, without the split.
    """
    if match := PNEUMONIA_NAME.match(file):
        return f"{match[2].lower()}-{int(match[1])}"
    if match := NORMAL_NAME.match(file):
        return f"normal{'2' if match[1] else ''}-{int(match[2])}"
    return f"file-{file}"
