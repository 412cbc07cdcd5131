"""SkinCon: 48 concepts on clinical photographs of Fitzpatrick17k and of DDI (Daneshjou et al. 2022)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import StemIndex, name_some
from xcoop.data.splits import Item, Splits
from xcoop.utils.console import DatasetError
from xcoop.utils.reading import read_csv

logger = logging.getLogger(__name__)

FLAG = "Do not consider this image"
IMAGE = "ImageID"  # with the suffix of the file
MARKS = {"0": "absent", "1": "present"}


@dataclass(frozen=True)
class Part:
    """One of the two sets that SkinCon annotates.

    Attributes:
        annotations: the table of concepts.
        tables: where the table of diagnoses may lie; the images are at or below its folder.
        name: the column of the image in that table; a suffix does not matter.
        group: the column of its group.
        labels: label of each group, in lower case.
    """

    annotations: str
    tables: tuple[str, ...]
    name: str
    group: str
    labels: Mapping[str, int]


PARTS = {
    "three-groups": Part(
        "annotations_fitzpatrick17k.csv",
        ("fitzpatrick17k.csv",),
        "md5hash",
        "three_partition_label",
        {"non-neoplastic": 0, "benign": 1, "malignant": 2},
    ),
    "malignant-vs-benign": Part(
        "annotations_ddi.csv",
        ("ddi/ddi_metadata.csv", "DDI/ddi_metadata.csv", "ddidiversedermatologyimages/ddi_metadata.csv"),
        "DDI_file",
        "malignant",
        {"false": 0, "true": 1},
    ),
}


@register_dataset()
class SkinCon(MedicalDataset):
    """The annotated images that are not flagged. There are no official splits, and patients are not told.

    Fitzpatrick17k is a list of links, some of them dead: images that are not on disk are left out, with a warning.

    `DATASET.TASK`: `three-groups` (default), of Fitzpatrick17k; `malignant-vs-benign`, of DDI.
    """

    dataset_dir = "SkinCon"
    about_name = "skincon"
    whole_folders = False
    concept_bank = "skincon"
    positive_class = "malignant skin lesion"
    tasks = {  # noqa: RUF012 - the engine's base class is untyped
        "three-groups": ("non-neoplastic skin lesion", "benign skin lesion", "malignant skin lesion"),
        "malignant-vs-benign": ("benign skin lesion", "malignant skin lesion"),
    }

    @property
    def part(self) -> Part:
        """The set that the task is about."""
        return PARTS[self.task]

    def find(self, cfg: CfgNode) -> Path:
        """The folder that holds the annotations of the task."""
        return self.first_holding(self.places(cfg, "SkinCon", "skincon"), self.part.annotations)

    def read(self, folder: Path) -> Splits:
        """The images of the task's part that are on disk, to be divided."""
        part, source = self.part, folder / self.part.annotations
        rows, table = read_annotations(source), find_table(folder, self.part)
        groups = {
            Path(row[part.name]).stem: row[part.group].lower() for row in read_csv(table, (part.name, part.group))
        }
        if unknown := sorted(set(groups.values()) - set(part.labels)):
            raise DatasetError(f"{table}: unknown values {unknown} of {part.group!r}; known: {', '.join(part.labels)}")
        if lost := [name for name in rows if Path(name).stem not in groups]:
            raise DatasetError(f"{table} lacks {len(lost)} of {len(rows)} images of {source.name}: {name_some(lost)}")
        paths = find_images(folder, table, rows)
        absent = [name for name in rows if name not in paths]
        if not paths:
            raise DatasetError(f"{folder} holds none of the {len(rows)} images of {source.name}")
        if absent:
            logger.warning(
                "SkinCon: %d of the %d images of %s are not below %s (dead links?), left out: %s",
                len(absent), len(rows), source.name, folder, name_some(absent),
            )  # fmt: skip
        labels = {name: part.labels[groups[Path(name).stem]] for name in paths}
        return Splits.undivided(
            Item(path, labels[name], self.class_names[labels[name]]) for name, path in paths.items()
        )

    def concept_labels(self, folder: Path) -> dict[str, dict[str, str]]:
        """The 48 concepts of every image on disk that is not flagged, under the names of the columns."""
        rows = read_annotations(folder / self.part.annotations)
        paths = find_images(folder, find_table(folder, self.part), rows)
        return {path: rows[name] for name, path in paths.items()}


def read_annotations(path: Path) -> dict[str, dict[str, str]]:
    """The concepts, `present` or `absent`, of every image that is not flagged, by the name of its file.

    Raises:
        DatasetError: a column is missing, a row has no image, or a mark is neither 0 nor 1.
    """
    rows = {}
    for line, row in enumerate(read_csv(path, (IMAGE, FLAG)), start=2):
        marks = {name: value for name, value in row.items() if name and name != IMAGE}
        if wrong := {name: value for name, value in marks.items() if value not in MARKS}:
            raise DatasetError(f"{path}, line {line}: marks are 0 or 1, not {wrong}")
        if not row[IMAGE]:
            raise DatasetError(f"{path}, line {line}: the column {IMAGE!r} must not be empty")
        if marks.pop(FLAG) == "0":
            rows[row[IMAGE]] = {name: MARKS[value] for name, value in marks.items()}
    return rows


def find_table(folder: Path, part: Part) -> Path:
    """The table of diagnoses: in one of its folders, or beside the annotations."""
    names = [*part.tables, Path(part.tables[0]).name]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DatasetError(f"{folder / names[0]} is missing: it holds the groups of the images, in {part.group!r}")


def find_images(folder: Path, table: Path, rows: Mapping[str, object]) -> dict[str, str]:
    """The paths, relative to `folder`, of the images that are on disk: at or below the folder of the table."""
    index = StemIndex(table.parent)
    below = table.parent.relative_to(folder)
    return {name: (below / path).as_posix() for name in rows if (path := index.find(name))}
