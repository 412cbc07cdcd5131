"""PH2: 200 dermoscopic images of nevi and melanomas with their dermoscopic criteria (Mendonça et al. 2013)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from xcoop.config.plugins import register_dataset
from xcoop.data.dataset import MedicalDataset
from xcoop.data.folders import StemIndex
from xcoop.data.splits import Item, Splits
from xcoop.utils.console import DatasetError
from xcoop.utils.reading import read_sheets

TABLE, SHEET = "PH2_dataset.txt", "PH2_dataset.xlsx"
IMAGES = "PH2 Dataset images"

# Label of each clinical diagnosis: 0 common nevus, 1 atypical nevus, 2 melanoma.
LABELS = {
    "nevus-vs-melanoma": {"0": 0, "1": 0, "2": 1},
    "three-classes": {"0": 0, "1": 1, "2": 2},
}

SYMMETRY = {"0": "fully symmetric", "1": "symmetric in one axis", "2": "fully asymmetric"}
FINDING = {"A": "absent", "P": "present", "T": "typical", "AT": "atypical"}
FINDINGS = ("pigment_network", "dots_and_globules", "streaks", "regression_areas", "blue_whitish_veil")
CRITERIA = {"asymmetry": SYMMETRY, **dict.fromkeys(FINDINGS, FINDING)}  # in the order of the table
DIAGNOSES = {
    "common nevus": "0",
    "atypical nevus": "1",
    "melanoma": "2",
}  # columns of the spreadsheet, one of them marked
MARK = "x"


@dataclass(frozen=True)
class Lesion:
    """What is read of one row of the table: the image, the clinical diagnosis, and the value of each criterion."""

    image: str
    diagnosis: str
    criteria: dict[str, str]


@register_dataset()
class PH2(MedicalDataset):
    """All lesions of the table. There are no official splits, and patients are not told.

    `DATASET.TASK`: `nevus-vs-melanoma` (default); `three-classes`, the common and the atypical nevi apart.
    """

    dataset_dir = "PH2"
    about_name = "ph2"
    whole_folders = False
    concept_bank = "ph2"
    positive_class = "melanoma"
    tasks = {  # noqa: RUF012 - the engine's base class is untyped
        "nevus-vs-melanoma": ("nevus", "melanoma"),
        "three-classes": ("common nevus", "atypical nevus", "melanoma"),
    }

    def find(self, cfg: CfgNode) -> Path:
        """The folder that holds the table and the images: `PH2Dataset`, or the folder above it."""
        places = self.places(cfg, "PH2", "ph2", "")
        candidates = [place / below for place in places for below in ("PH2Dataset", "")]
        return self.first_holding(candidates, TABLE, SHEET)

    def read(self, folder: Path) -> Splits:
        """The lesions with the labels of the task, to be divided."""
        lesions = read_lesions(folder)
        labels = [LABELS[self.task][lesion.diagnosis] for lesion in lesions]
        paths = find_images(folder, lesions)
        return Splits.undivided(
            Item(path, label, self.class_names[label]) for path, label in zip(paths, labels, strict=True)
        )

    def concept_labels(self, folder: Path) -> dict[str, dict[str, str]]:
        """The six criteria of every lesion, with the values of the table's legend."""
        lesions = read_lesions(folder)
        return {path: own.criteria for path, own in zip(find_images(folder, lesions), lesions, strict=True)}


def table_of(folder: Path) -> Path:
    """The text file of the archive; where there is none, the spreadsheet, which says the same."""
    return folder / (SHEET if (folder / SHEET).is_file() and not (folder / TABLE).is_file() else TABLE)


def find_images(folder: Path, lesions: list[Lesion]) -> list[str]:
    """The path of each lesion's image (not of its mask) relative to `folder`; raises `DatasetError` if any lacks."""
    index = StemIndex(folder / IMAGES)
    return [f"{IMAGES}/{path}" for path in index.find_all([lesion.image for lesion in lesions], table_of(folder))]


def read_lesions(folder: Path) -> list[Lesion]:
    """All lesions, from whichever table there is; see `read_table` and `read_spreadsheet`."""
    path = table_of(folder)
    return read_spreadsheet(path) if path.name == SHEET else read_table(path)


def read_table(path: Path) -> list[Lesion]:
    """The rows of the table: lines that start with `||`; the legend below them is left out.

    Raises:
        DatasetError: the file is no such table, or a row holds other values.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is no text ({error})") from error
    rows = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.startswith("||")]
    lesions = [_lesion(line, f"{path}, line {number}") for number, line in rows[1:]]
    if not lesions:
        raise DatasetError(f"{path} has no rows: a header and one line a lesion must start with '||'")
    return lesions


def read_spreadsheet(path: Path) -> list[Lesion]:
    """The rows below the header, which is the first row that names all columns; legends above it are left out.

    The diagnosis is the one of three columns that has an X. A name of a column may go on in brackets, "Streaks (A/P)".

    Raises:
        ImportError: openpyxl is not installed; the message names the extra.
        DatasetError: no row names the columns, or a row holds other values.
    """
    wanted = {"image name", *DIAGNOSES, *CRITERIA}
    columns: dict[str, int] = {}
    lesions = []
    for where, cells in read_sheets(path):
        if not columns:
            named = {_column(cell): place for place, cell in enumerate(cells) if cell}
            columns = named if wanted <= named.keys() else {}
        elif any(cells[columns[name]] for name in wanted):
            values = {name: cells[columns[name]] for name in wanted}
            marked = [DIAGNOSES[name] for name in DIAGNOSES if values[name].lower() == MARK]
            if len(marked) != 1 or not values["image name"]:
                shown = {name: values[name] for name in ("image name", *DIAGNOSES)}
                raise DatasetError(f"{where}: a name and one X among the three diagnoses must stand here, not {shown}")
            criteria = {name: values[name].upper() for name in CRITERIA}
            lesions.append(Lesion(values["image name"], marked[0], _criteria(criteria, where)))
    if not lesions:
        raise DatasetError(f"{path} has no rows below one that names the columns {', '.join(sorted(wanted))}")
    return lesions


def _column(name: str) -> str:
    """`Dots/Globules (A/AT/T)` is `dots_and_globules`, `Common Nevus` is `common nevus`."""
    words = " ".join(name.partition("(")[0].lower().replace("-", " ").replace("/", " and ").split())
    return words.replace(" ", "_") if words.replace(" ", "_") in CRITERIA else words


def _lesion(line: str, where: str) -> Lesion:
    """One row: name, histological and clinical diagnosis, the criteria (parted by single bars), and the colors."""
    cells = [cell.strip() for cell in line.split("||")[1:-1]]
    values = [value.strip() for value in cells[3].split("|")] if len(cells) == 5 else []
    if len(values) != len(CRITERIA):
        raise DatasetError(f"{where}: a row has 5 cells between '||', the fourth of {len(CRITERIA)} values")
    if not cells[0] or cells[2] not in LABELS["three-classes"]:
        raise DatasetError(f"{where}: a name and the clinical diagnosis 0, 1 or 2 must stand here, not {cells[:3]}")
    return Lesion(cells[0], cells[2], _criteria(dict(zip(CRITERIA, values, strict=True)), where))


def _criteria(named: Mapping[str, str], where: str) -> dict[str, str]:
    """The values of the criteria in words."""
    if wrong := {name: value for name, value in named.items() if value not in CRITERIA[name]}:
        raise DatasetError(f"{where}: {wrong}; asymmetry is one of {list(SYMMETRY)}, the others of {list(FINDING)}")
    return {name: CRITERIA[name][value] for name, value in named.items()}
