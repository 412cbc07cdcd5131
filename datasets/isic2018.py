"""ISIC 2018 task 3: dermoscopic images of seven diagnoses, trained on HAM10000 (Tschandl et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import StemIndex
from xcoop.data.splits import Item, Splits
from xcoop.utils.console import DatasetError
from xcoop.utils.reading import read_csv

DIAGNOSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")  # the columns of the ground truth, and `dx` in capitals
LESIONS = "ISIC2018_Task3_Training_LesionGroupings.csv"
METADATA = ("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")  # the last from Dataverse


@dataclass(frozen=True)
class Case:
    """One image of a table: its name, its diagnosis as in `DIAGNOSES`, and its lesion if the table tells."""

    image: str
    diagnosis: str
    lesion: str = ""


@register_dataset()
class ISIC2018(MedicalDataset):
    """The official splits; of HAM10000 alone, which is the training set, a division by lesion.

    Without the official validation, which has 193 images, one is carved from train by lesion.
    """

    dataset_dir = "ISIC2018"
    about_name = "isic2018"
    whole_folders = False
    concept_bank = "isic2018"
    tasks = {  # noqa: RUF012 - the engine's base class is untyped
        "seven-classes": (
            *("melanoma", "melanocytic nevus", "basal cell carcinoma", "actinic keratosis", "benign keratosis"),
            *("dermatofibroma", "vascular lesion"),
        )
    }

    def find(self, cfg: CfgNode) -> Path:
        """The folder that holds the parts of the challenge, or HAM10000's metadata."""
        places = self.places(cfg, "ISIC2018", "isic2018", "HAM10000", "ham10000", "")
        return self.first_holding(places, *truths("Training"), *METADATA)

    def read(self, folder: Path) -> Splits:
        """The parts of the challenge if its ground truth is there, else the whole of HAM10000."""
        if first_file(folder, truths("Training")):
            return self._official(folder)
        metadata = first_file(folder, METADATA) or folder / METADATA[0]
        return Splits.undivided(self._items(folder, "", metadata, read_metadata(metadata)))

    def _official(self, folder: Path) -> Splits:
        parts: dict[str, list[Item]] = {"Training": [], "Validation": [], "Test": []}
        for part in parts:
            if truth := first_file(folder, truths(part)):
                cases = read_truth(truth)
                cases = with_lesions(cases, folder) if part == "Training" else cases
                parts[part] = self._items(folder, f"ISIC2018_Task3_{part}_Input/", truth, cases)
        if not parts["Test"]:
            raise DatasetError(
                f"{folder / truths('Test')[0]} is missing: the official test images and their ground truth are "
                f"published too (HAM10000 alone is read from {METADATA[0]})"
            )
        if not parts["Validation"] and not any(item.patient for item in parts["Training"]):
            raise DatasetError(
                f"{folder} has no Validation part, and without {LESIONS} none can be carved from train by lesion: "
                "fetch either"
            )
        return Splits.of(*parts.values())

    def _items(self, folder: Path, below: str, table: Path, cases: list[Case]) -> list[Item]:
        paths = StemIndex(folder / below).find_all([case.image for case in cases], table)
        labels = [DIAGNOSES.index(case.diagnosis) for case in cases]
        return [
            Item(below + path, label, self.class_names[label], case.lesion)
            for case, path, label in zip(cases, paths, labels, strict=True)
        ]


def truths(part: str) -> tuple[str, str]:
    """Where the ground truth of a part may lie: in its archive's folder, or taken out of it."""
    name = f"ISIC2018_Task3_{part}_GroundTruth"
    return f"{name}/{name}.csv", f"{name}.csv"


def first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of these files that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_truth(path: Path) -> list[Case]:
    """The ground truth of a part: one column a diagnosis, with 1 for the one that holds.

    Raises:
        DatasetError: a column is missing, or a row has no image or not exactly one diagnosis.
    """
    cases = []
    for line, row in enumerate(read_csv(path, ("image", *DIAGNOSES)), start=2):
        values = {name: row[name] for name in DIAGNOSES}
        held = [name for name, value in values.items() if value in ("1", "1.0")]
        if len(held) != 1 or any(value not in ("0", "0.0") for name, value in values.items() if name not in held):
            raise DatasetError(f"{path}, line {line}: one diagnosis must be 1 and the others 0, not {values}")
        cases.append(Case(_filled(row, "image", path, line), held[0]))
    return cases


def read_metadata(path: Path) -> list[Case]:
    """The rows of HAM10000's metadata, parted by commas or (as Dataverse converts it) by tabs.

    Raises:
        DatasetError: a column is missing, a diagnosis is unknown, or a row has no image or lesion.
    """
    with path.open("rb") as file:
        delimiter = "\t" if b"\t" in file.readline() else ","
    rows = read_csv(path, ("lesion_id", "image_id", "dx"), delimiter)
    if unknown := sorted({row["dx"] for row in rows if row["dx"].upper() not in DIAGNOSES}):
        raise DatasetError(f"{path}: unknown diagnoses {unknown}; known: {', '.join(DIAGNOSES).lower()}")
    return [
        Case(_filled(row, "image_id", path, line), row["dx"].upper(), _filled(row, "lesion_id", path, line))
        for line, row in enumerate(rows, start=2)
    ]


def with_lesions(cases: list[Case], folder: Path) -> list[Case]:
    """The training cases with the lesions of the supplement; as they are if it is not there.

    Raises:
        DatasetError: the supplement tells no lesion for some of the images.
    """
    path = folder / LESIONS
    if not path.is_file():
        return cases
    lesions = {row["image"]: row["lesion_id"] for row in read_csv(path, ("image", "lesion_id"))}
    if lost := [case.image for case in cases if not lesions.get(case.image)]:
        raise DatasetError(f"{path}: no lesion for {len(lost)} of {len(cases)} training images, {lost[0]} the first")
    return [Case(case.image, case.diagnosis, lesions[case.image]) for case in cases]


def _filled(row: Mapping[str, str], column: str, path: Path, line: int) -> str:
    if not row[column]:
        raise DatasetError(f"{path}, line {line}: the column {column!r} must not be empty")
    return row[column]
