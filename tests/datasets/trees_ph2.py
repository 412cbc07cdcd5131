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


LAYOUTS = {
    # 30 % of 20 and of 10 are tested, 10 % validated.
    "ph2": Layout(ph2, ({"nevus": 12, "melanoma": 6}, {"nevus": 2, "melanoma": 1}, {"nevus": 6, "melanoma": 3})),
}


def only_spreadsheet(folder: Path) -> None:
    (folder / "PH2_dataset.txt").rename(folder / "PH2_dataset.xlsx")


DAMAGES: dict[str, Damages] = {
    "ph2": [
        (shutil.rmtree, "was not found"),
        (only_spreadsheet, r"PH2_dataset\.txt is missing: the table is read from the text file.*not from PH2_data"),
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
