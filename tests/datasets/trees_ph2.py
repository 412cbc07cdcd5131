"""PH2's archive: the table with its legend, and a folder of image and mask for each lesion."""

from __future__ import annotations

import shutil
from pathlib import Path

from tree_tools import Damages, Layout, edit, picture

HEADER = (
    "||   Name || Histological Diagnosis || Clinical Diagnosis || Asymmetry | Pigment Network | Dots/Globules | "
    "Streaks | Regression Areas | Blue-Whitish Veil ||           Colors ||"
)
LEGEND = ["", "Legends for Clinical Diagnosis: ", "   0 - Common Nevus;", "   2 - Melanoma.", "   A  - Absent;"]
CRITERIA = {"0": "0 | T | A | A | A | A", "1": "1 | AT | T | A | A | A", "2": "2 | AT | AT | P | P | P"}
DIAGNOSES = "0" * 10 + "1" * 10 + "2" * 10
IMAGES = "PH2 Dataset images"
MELANOMA = f"{IMAGES}/IMD320/IMD320_Dermoscopic_Image/IMD320.bmp"


def ph2(root: Path) -> Path:
    """10 common nevi (IMD300 ...), 10 atypical ones (IMD310 ...) and 10 melanomas (IMD320 ...). Gives PH2Dataset."""
    folder = root / "PH2" / "PH2Dataset"
    lines = [HEADER]
    for number, diagnosis in enumerate(DIAGNOSES):
        name = f"IMD{300 + number}"
        picture(folder / IMAGES / name / f"{name}_Dermoscopic_Image" / f"{name}.bmp", number)
        picture(folder / IMAGES / name / f"{name}_lesion" / f"{name}_lesion.bmp", 999)
        histology = "Melanoma" if diagnosis == "2" else ""
        lines.append(f"|| {name} || {histology:>22} || {diagnosis:>18} || {CRITERIA[diagnosis]} ||  3  4 ||")
    (folder / "PH2_dataset.txt").write_bytes("\r\n".join(lines + LEGEND).encode())
    return folder


TITLES = (
    "Image Name", "Histological\nDiagnosis", "Common Nevus", "Atypical Nevus", "Melanoma", "Asymmetry\n(0/1/2)",
    "Pigment Network\n(AT/T)", "Dots/Globules\n(A/AT/T)", "Streaks\n(A/P)", "Regression Areas\n(A/P)",
    "Blue-Whitish Veil\n(A/P)", "White", "Red", "Light-Brown", "Dark-Brown", "Blue-Gray", "Black",
)  # fmt: skip


def as_spreadsheet(folder: Path, first: int = 13) -> Path:
    """The table as the archive's PH2_dataset.xlsx has it, its header in row `first`; the text file is removed."""
    from openpyxl import Workbook

    table = folder / "PH2_dataset.txt"
    book = Workbook()
    sheet = book.active
    for row, legend in enumerate(LEGEND[1:], start=2):
        sheet.cell(row, 2, legend.strip())
    for column, title in enumerate(TITLES, start=1):
        sheet.cell(first, column, title)
    lines = [line for line in table.read_text(encoding="utf-8").splitlines()[1:] if line.startswith("||")]
    for row, line in enumerate(lines, start=first + 1):
        name, histology, diagnosis, criteria, colors = (cell.strip() for cell in line.split("||")[1:-1])
        asymmetry, *others = (value.strip() for value in criteria.split("|"))
        marks = ["X" if str(number) == diagnosis else None for number in range(3)]
        shown = ["X" if str(number) in colors.split() else None for number in range(1, 7)]
        for column, value in enumerate([name, histology or None, *marks, int(asymmetry), *others, *shown], start=1):
            sheet.cell(row, column, value)
    book.save(folder / "PH2_dataset.xlsx")
    table.unlink()
    return folder / "PH2_dataset.xlsx"


LAYOUTS = {
    # 30 % of 20 and of 10 are tested, 10 % validated.
    "ph2": Layout(ph2, ({"nevus": 12, "melanoma": 6}, {"nevus": 2, "melanoma": 1}, {"nevus": 6, "melanoma": 3})),
}


DAMAGES: dict[str, Damages] = {
    "ph2": [
        (shutil.rmtree, "was not found"),
        (lambda f: (f / IMAGES).rename(f / "images"), "PH2 Dataset images is missing: it holds the images"),
        (lambda f: (f / MELANOMA).unlink(), r"lacks 1 of 30 images of PH2_dataset\.txt: IMD320"),
        (lambda f: (f / MELANOMA).write_bytes(b""), r"IMD320\.bmp: the file is empty"),
        (lambda f: edit(f / "PH2_dataset.txt", "|| 2 | AT", "|| 2 | X"), r"line 22: \{'pigment_network': 'X'\}"),
        (lambda f: edit(f / "PH2_dataset.txt", "|| 1 | AT |", "|| 1 | AT ||"), "line 12: a row has 5 cells"),
        (lambda f: edit(f / "PH2_dataset.txt", "  1 ||", "  3 ||"), "line 12: a name and the clinical diagnosis 0, 1"),
        (lambda f: (f / "PH2_dataset.txt").write_text("IMD300,0"), "has no rows"),
        (lambda f: (f / "PH2_dataset.txt").write_bytes(b"\xff\xfe"), "is no text"),
    ],
}
