"""SkinCon's tables beside the images of Fitzpatrick17k and DDI."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tree_tools import Damages, Layout, edit, picture, write_csv

CONCEPTS = ["Papule", "Exophytic/Fungating", "Brown(Hyperpigmentation)"]
FLAG = "Do not consider this image"
GROUPS = ("non-neoplastic", "benign", "malignant")
HEADER = ["", "ImageID", *CONCEPTS, FLAG]
ANNOTATIONS = "annotations_fitzpatrick17k.csv"


def md5(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def skincon(root: Path) -> Path:
    """10 images of each group (number % 3), two more that are flagged, and 20 of DDI, half malignant. Gives SkinCon."""
    folder = root / "SkinCon"
    rows = [[n, f"{md5(n)}.jpg", n % 2, 0, int(n % 3 == 2), int(n >= 30)] for n in range(32)]
    write_csv(folder / ANNOTATIONS, HEADER, rows)
    groups = [[md5(n), 3, "a, disease", GROUPS[n % 3]] for n in range(40)]
    write_csv(folder / "fitzpatrick17k.csv", ["md5hash", "fitzpatrick_scale", "label", "three_partition_label"], groups)
    for n in range(40):
        picture(folder / "fitzpatrick17k" / f"{md5(n)}.jpg", n)
    write_csv(folder / "annotations_ddi.csv", HEADER, [[n, f"{n:06d}.png", 1, 0, 0, 0] for n in range(20)])
    metadata = [[n, n, f"{n:06d}.png", 56, "TRUE" if n % 2 else "FALSE", "disease"] for n in range(20)]
    names = ["", "DDI_ID", "DDI_file", "skin_tone", "malignant", "disease"]
    write_csv(folder / "ddi" / "ddi_metadata.csv", names, metadata)
    for n in range(20):
        picture(folder / "ddi" / f"{n:06d}.png", 100 + n)
    return folder


NAMES = tuple(f"{group} skin lesion" for group in GROUPS)

LAYOUTS = {
    "skincon": Layout(skincon, (dict.fromkeys(NAMES, 6), dict.fromkeys(NAMES, 1), dict.fromkeys(NAMES, 3))),
}


DAMAGES: dict[str, Damages] = {
    "skincon": [
        (lambda f: (f / ANNOTATIONS).unlink(), "was not found"),
        (lambda f: (f / "fitzpatrick17k.csv").unlink(), r"fitzpatrick17k\.csv is missing: it holds the groups"),
        (
            lambda f: shutil.rmtree(f / "fitzpatrick17k"),
            r"holds none of the 30 images of annotations_fitzpatrick17k\.csv",
        ),
        (lambda f: edit(f / ANNOTATIONS, FLAG, "Skip"), rf"lacks the columns \['{FLAG}'\]"),
        (lambda f: edit(f / ANNOTATIONS, f"{md5(0)}.jpg,0,", f"{md5(0)}.jpg,x,"), r"line 2: .*\{'Papule': 'x'\}"),
        (lambda f: edit(f / ANNOTATIONS, f"{md5(1)}.jpg", ""), "line 3: the column 'ImageID' must not be empty"),
        (lambda f: edit(f / "fitzpatrick17k.csv", md5(2), "0"), f"lacks 1 of 30 images of annotations.*{md5(2)}"),
        (lambda f: edit(f / "fitzpatrick17k.csv", "benign", "begnin"), r"unknown values \['begnin'\].*known: non-neo"),
        (lambda f: (f / f"fitzpatrick17k/{md5(4)}.jpg").write_text("<html>"), rf"1 of 30 images.*{md5(4)}\.jpg"),
    ],
}
