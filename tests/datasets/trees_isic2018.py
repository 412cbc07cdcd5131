"""The parts of ISIC 2018 task 3 as the challenge publishes them, and HAM10000 alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from tree_tools import Damages, Layout, edit, picture, write_csv

DIAGNOSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
CLASSES = (
    "melanoma",
    "melanocytic nevus",
    "basal cell carcinoma",
    "actinic keratosis",
    "benign keratosis",
    "dermatofibroma",
    "vascular lesion",
)
PARTS = {"Training": 3, "Validation": 1, "Test": 2}  # images of each diagnosis
TRAIN = "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
LESIONS = "ISIC2018_Task3_Training_LesionGroupings.csv"


def isic2018(root: Path) -> Path:
    """Three training images a diagnosis, two of them of one lesion; 1 in validation, 2 in test. Gives ISIC2018."""
    folder = root / "ISIC2018"
    number, lesions = 0, []
    for part, count in PARTS.items():
        name, rows = f"ISIC2018_Task3_{part}", []
        for kind in range(7):
            for image in range(count):
                number += 1
                picture(folder / f"{name}_Input" / f"ISIC_{number:07d}.jpg", number)
                rows.append([f"ISIC_{number:07d}", *(f"{float(kind == other)}" for other in range(7))])
                if part == "Training":
                    lesions.append([f"ISIC_{number:07d}", f"HAM_{kind}{image // 2}", "histopathology"])
        write_csv(folder / f"{name}_GroundTruth" / f"{name}_GroundTruth.csv", ["image", *DIAGNOSES], rows)
        (folder / f"{name}_Input" / "LICENSE.txt").write_text("CC BY-NC")
    write_csv(folder / LESIONS, ["image", "lesion_id", "diagnosis_confirm_type"], lesions)
    return folder


def ham10000(root: Path, table: str = "HAM10000_metadata.csv", delimiter: str = ",") -> Path:
    """Five lesions of two images each a diagnosis, one image in either part. Gives HAM10000."""
    folder = root / "HAM10000"
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for number in range(70):
        kind, lesion = number % 7, number // 14
        name = f"ISIC_{number:07d}"
        picture(folder / f"HAM10000_images_part_{1 + number // 7 % 2}" / f"{name}.jpg", number)
        lines.append(f"HAM_{kind}{lesion},{name},{DIAGNOSES[kind].lower()},histo,50.0,male,back")
    (folder / table).write_text("\n".join(lines).replace(",", delimiter) + "\n")
    return folder


LAYOUTS = {
    "isic2018": Layout(isic2018, (dict.fromkeys(CLASSES, 3), dict.fromkeys(CLASSES, 1), dict.fromkeys(CLASSES, 2))),
}

DAMAGES: dict[str, Damages] = {
    "isic2018": [
        (shutil.rmtree, "was not found"),
        (lambda f: shutil.rmtree(f / "ISIC2018_Task3_Test_GroundTruth"), r"Test_GroundTruth\.csv is missing"),
        (lambda f: shutil.rmtree(f / "ISIC2018_Task3_Test_Input"), "Test_Input is missing: it holds the images"),
        (lambda f: (f / "ISIC2018_Task3_Training_Input/ISIC_0000002.jpg").unlink(), "lacks 1 of 21.*ISIC_0000002"),
        (lambda f: edit(f / TRAIN, "ISIC_0000001,1.0,0.0", "ISIC_0000001,1.0,1.0"), "line 2: one diagnosis must be"),
        (lambda f: edit(f / TRAIN, "ISIC_0000001,1.0", "ISIC_0000001,0.7"), "line 2: one diagnosis must be 1"),
        (lambda f: edit(f / TRAIN, "AKIEC", "AK"), r"lacks the columns \['AKIEC'\]"),
        (lambda f: edit(f / TRAIN, "ISIC_0000001", ""), "line 2: the column 'image' must not be empty"),
        (lambda f: edit(f / LESIONS, "ISIC_0000004", "ISIC_9"), "no lesion for 1 of 21.*ISIC_0000004"),
    ],
}
