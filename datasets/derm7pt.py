"""Derm7pt: dermoscopic images of 1,011 skin lesions with the seven-point checklist (Kawahara et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import NameIndex
from xcoop.data.splits import Item, Splits
from xcoop.utils.console import DatasetError
from xcoop.utils.reading import read_csv

META = "meta/meta.csv"
INDEXES = {"train": "meta/train_indexes.csv", "val": "meta/valid_indexes.csv", "test": "meta/test_indexes.csv"}

# The five groups of the dataset's authors, by the diagnosis strings of meta.csv. Every string with "melanoma" is
# one ("melanosis" is not).
MEL, NEV, BCC, SK, MISC = "MEL", "NEV", "BCC", "SK", "MISC"
GROUPS = {
    NEV: [f"{kind} nevus" for kind in ("blue", "clark", "combined", "congenital", "dermal", "recurrent")]
    + ["reed or spitz nevus"],
    BCC: ["basal cell carcinoma"],
    SK: ["seborrheic keratosis"],
    MISC: ["dermatofibroma", "lentigo", "melanosis", "miscellaneous", "vascular lesion"],
}
GROUP_OF = {diagnosis: group for group, diagnoses in GROUPS.items() for diagnosis in diagnoses}

# Label of each group in each task; a group without one is left out. Melanoma is the positive class, 1, of the binary
# tasks; the order of the five is that of the authors' own code.
LABELS = {
    "mel-vs-nev": {NEV: 0, MEL: 1},
    "mel-vs-rest": {NEV: 0, BCC: 0, SK: 0, MISC: 0, MEL: 1},
    "five-groups": {BCC: 0, NEV: 1, MEL: 2, MISC: 3, SK: 4},
}

CONCEPTS = (
    *("pigment_network", "streaks", "pigmentation", "regression_structures", "dots_and_globules"),
    *("blue_whitish_veil", "vascular_structures"),
)


@dataclass(frozen=True)
class Case:
    """What is read of one row of meta.csv."""

    group: str
    image: str
    case_id: str


@register_dataset()
class Derm7pt(MedicalDataset):
    """The dermoscopic images in the official splits; patients are the cases.

    `DATASET.TASK`: `mel-vs-nev` (default), `mel-vs-rest`, `five-groups`.
    """

    dataset_dir = "derm7pt"
    about_name = "derm7pt"
    whole_folders = False
    concept_bank = "derm7pt"
    positive_class = "melanoma"
    tasks = {  # noqa: RUF012 - the engine's base class is untyped
        "mel-vs-nev": ("nevus", "melanoma"),
        "mel-vs-rest": ("non-melanoma lesion", "melanoma"),
        "five-groups": ("basal cell carcinoma", "nevus", "melanoma", "miscellaneous lesion", "seborrheic keratosis"),
    }

    def find(self, cfg: CfgNode) -> Path:
        """The folder that holds `meta/` and `images/`: `release_v0`, or the folder above it."""
        places = self.places(cfg, "derm7pt", "")
        return self.first_holding([place / below for place in places for below in ("release_v0", "")], META)

    def read(self, folder: Path) -> Splits:
        """The cases of the task's groups, in the splits of the index files."""
        cases = read_cases(folder / META)
        rows = {split: read_indexes(folder / name, len(cases)) for split, name in INDEXES.items()}
        paths, labels = find_images(folder, cases), LABELS[self.task]
        items = {
            row: Item(path, labels[case.group], self.class_names[labels[case.group]], case.case_id)
            for row, (case, path) in enumerate(zip(cases, paths, strict=True))
            if case.group in labels
        }
        return Splits.of(*([items[row] for row in rows[split] if row in items] for split in INDEXES))

    def concept_labels(self, folder: Path) -> dict[str, dict[str, str]]:
        """The seven criteria of the checklist for every case, with the values of meta.csv."""
        rows = read_csv(folder / META, CONCEPTS)
        paths = find_images(folder, read_cases(folder / META))
        return {
            path: {name: row[name].lower() for name in CONCEPTS if row[name]}
            for path, row in zip(paths, rows, strict=True)
        }


def group_of(diagnosis: str) -> str | None:
    """The group of a diagnosis string; None if it is unknown."""
    diagnosis = " ".join(diagnosis.lower().split())
    return MEL if "melanoma" in diagnosis else GROUP_OF.get(diagnosis)


def read_cases(path: Path) -> list[Case]:
    """The rows of meta.csv, in order (the index files count them).

    Raises:
        DatasetError: a column is missing, or a diagnosis is unknown; all unknown ones are named.
    """
    rows = read_csv(path, ("diagnosis", "derm", "case_id"))
    if unknown := sorted({row["diagnosis"] for row in rows if not group_of(row["diagnosis"])}):
        raise DatasetError(
            f"{path}: unknown diagnoses {unknown}; known: every one with 'melanoma', {', '.join(sorted(GROUP_OF))}"
        )
    for line, row in enumerate(rows, start=2):
        if not row["derm"] or not row["case_id"]:
            raise DatasetError(f"{path}, line {line}: the columns 'derm' and 'case_id' must not be empty")
    return [Case(group_of(row["diagnosis"]) or "", row["derm"], row["case_id"]) for row in rows]


def read_indexes(path: Path, count: int) -> list[int]:
    """Row positions of one split: 0-based positions in meta.csv (they are not its `case_num`).

    Raises:
        DatasetError: the file or its column is missing, or a value is no position below `count`.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing: it holds the rows of one split, in one column 'indexes'")
    values = [row["indexes"] for row in read_csv(path, ("indexes",))]
    if bad := [value for value in values if not (value.isascii() and value.isdigit() and int(value) < count)]:
        raise DatasetError(f"{path}: {bad} are no row positions of meta.csv (0 to {count - 1})")
    return [int(value) for value in values]


def find_images(folder: Path, cases: list[Case]) -> list[str]:
    """The path of each case's dermoscopic image, as it is spelt on disk, relative to `folder`.

    Raises:
        DatasetError: images are missing; every one is named.
    """
    images = folder / "images"
    if not images.is_dir():
        raise DatasetError(f"{images} is missing: it holds the images that meta.csv names")
    index = NameIndex(images)
    found = [index.find(case.image) for case in cases]
    if lost := [case.image for case, path in zip(cases, found, strict=True) if path is None]:
        raise DatasetError(f"{images} lacks {len(lost)} of {len(cases)} images of meta.csv: {', '.join(lost)}")
    return [f"images/{path}" for path in found]
