"""IU X-Ray: chest radiographs with indexed reports of Indiana University (Demner-Fushman et al. 2016)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import StemIndex
from xcoop.data.splits import Item, Splits
from xcoop.utils.console import DatasetError
from xcoop.utils.reading import read_csv

REPORTS, VIEWS = "indiana_reports.csv", "indiana_projections.csv"  # of the version on Kaggle
XML_FOLDERS = ("NLMCXR_reports", "ecgen-radiology")  # of Open-i
NORMAL, UNINDEXED = "normal", "no indexing"
FRONTAL = "frontal"
FRONTAL_MARK = "-4004"  # in the name of an image that likely is frontal
KEY = re.compile(r"(?:CXR)?(\d+)(?:_\d+)?_(IM-[\d-]+)")  # CXR1_1_IM-0001-4001, 1_IM-0001-4001.dcm.png


@dataclass(frozen=True)
class Report:
    """One report: its number, its major headings in lower case, and the names of the images that are taken of it."""

    uid: str
    headings: frozenset[str]
    images: tuple[str, ...]

    @property
    def label(self) -> int | None:
        """0 if `normal` is all that was indexed, else 1; None for a report that was not indexed."""
        if not self.headings or UNINDEXED in self.headings:
            return None
        return int(self.headings != {NORMAL})


@register_dataset()
class IUXRay(MedicalDataset):
    """The frontal images, with the label of their report; patients are the reports. There are no official splits.

    The tables of the Kaggle version tell the view. Open-i's reports do not: unless `indiana_projections.csv` lies
    beside them, one image a report is taken, which is frontal for nine of ten.
    """

    dataset_dir = "IU_XRay"
    about_name = "iu_xray"
    whole_folders = False
    concept_bank = "iu_xray"
    positive_class = "abnormal"
    tasks = {"normal-vs-abnormal": ("normal", "abnormal")}  # noqa: RUF012 - the engine's base class is untyped

    def find(self, cfg: CfgNode) -> Path:
        """The folder that holds the reports: a table, or a folder of XML files."""
        return self.first_holding(self.places(cfg, "IU_XRay", "iu_xray"), REPORTS, *XML_FOLDERS)

    def read(self, folder: Path) -> Splits:
        """The images of the reports that were indexed, to be divided."""
        table = folder / REPORTS
        reports = read_tables(folder) if table.is_file() else read_xml_folder(folder)
        rows = [(image, own.label, own.uid) for own in reports if own.label is not None for image in own.images]
        source = table if table.is_file() else folder
        paths = StemIndex(folder).find_all([image for image, _, _ in rows], source)
        return Splits.undivided(
            Item(path, label, self.class_names[label], uid) for path, (_, label, uid) in zip(paths, rows, strict=True)
        )


def read_tables(folder: Path) -> list[Report]:
    """The reports of the Kaggle version, with their frontal images.

    Raises:
        DatasetError: a column is missing, or an image belongs to no report.
    """
    rows = read_csv(folder / REPORTS, ("uid", "MeSH"))
    images: dict[str, list[str]] = {row["uid"]: [] for row in rows}
    for line, row in enumerate(read_views(folder / VIEWS), start=2):
        if row["uid"] not in images:
            raise DatasetError(f"{folder / VIEWS}, line {line}: {REPORTS} has no report {row['uid']!r}")
        if _is_frontal(row):
            images[row["uid"]].append(row["filename"])
    return [Report(row["uid"], _headings(row["MeSH"].split(";")), tuple(images[row["uid"]])) for row in rows]


def read_views(path: Path) -> list[dict[str, str]]:
    """The rows of the table that tells the view of each image; raises `DatasetError` for views that are unknown."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing: it tells the report and the view of each image")
    rows = read_csv(path, ("uid", "filename", "projection"))
    if unknown := sorted({row["projection"] for row in rows} - {"Frontal", "Lateral"}):
        raise DatasetError(f"{path}: unknown projections {unknown}; known: Frontal, Lateral")
    return rows


def read_xml_folder(folder: Path) -> list[Report]:
    """The reports of Open-i, each with its frontal images, or with the one that likely is where no table tells.

    Raises:
        DatasetError: a file cannot be read as a report, or there is none.
    """
    below = next((folder / name for name in XML_FOLDERS if (folder / name).is_dir()), folder / XML_FOLDERS[0])
    files = sorted(path for path in below.rglob("*.xml") if not path.name.startswith("."))
    if not files:
        raise DatasetError(f"{below} holds no reports (*.xml)")
    views = read_views(folder / VIEWS) if (folder / VIEWS).is_file() else None
    frontal = {key_of(row["filename"]) for row in views or () if _is_frontal(row)}
    reports = []
    for report in map(read_report, files):
        if views is None:
            # The name that holds 4004, else the first; frontal for 91 % of reports with a choice, by Kaggle's table.
            images = tuple([image for image in report.images if FRONTAL_MARK in image] or report.images)[:1]
        else:
            images = tuple(image for image in report.images if key_of(image) in frontal)
        reports.append(Report(report.uid, report.headings, images))
    return reports


def read_report(path: Path) -> Report:
    """One report of Open-i with all its images.

    Raises:
        DatasetError: the file is no XML in UTF-8, or declares a document type or entities (they could make it grow
            without bounds or read other files), or is no report.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
            raise DatasetError(f"{path} declares a document type or entities, which no report of Open-i does")
        tree = ET.fromstring(text)  # noqa: S314 - see above
    except (UnicodeDecodeError, ET.ParseError) as error:
        raise DatasetError(f"{path} is no XML report ({error})") from error
    mesh, uid = tree.find(".//MeSH"), tree.find(".//uId")
    if mesh is None or uid is None:
        raise DatasetError(f"{path} is no report of Open-i: it must have the elements 'uId' and 'MeSH'")
    images = tuple(sorted(image.get("id", "") for image in tree.iter("parentImage")))
    return Report(uid.get("id", path.stem), _headings([major.text or "" for major in mesh.iter("major")]), images)


def key_of(image: str) -> tuple[str, str]:
    """What the two versions' names of an image share: the number of the report, and the name from `IM-` on."""
    match = KEY.match(image)
    return (match[1], match[2]) if match else ("", image)


def _is_frontal(row: dict[str, str]) -> bool:
    return row["projection"].lower() == FRONTAL


def _headings(words: list[str]) -> frozenset[str]:
    return frozenset(word.strip().lower() for word in words if word.strip())
