"""Derm7pt's layout, and the phantom's."""

from __future__ import annotations

import shutil
from pathlib import Path

from tree_tools import Damages, Layout, edit, picture, write_csv

# One diagnosis string for every group, twice for the two of the default task.
DIAGNOSES = [
    "clark nevus",
    "blue nevus",
    "melanoma (in situ)",
    "melanoma metastasis",
    "basal cell carcinoma",
    "seborrheic keratosis",
    "melanosis",
]
HEADER = ["case_num", "diagnosis", "seven_point_score", "derm", "clinic", "case_id", "notes"]


def derm7pt(root: Path) -> Path:
    """42 cases, 3 of each diagnosis in train, 1 in valid, 2 in test; `case_num` starts at 100. Gives release_v0."""
    folder = root / "derm7pt" / "release_v0"
    rows, splits = [], {"train": [], "valid": [], "test": []}
    for n in range(42):
        split = ("train", "train", "train", "valid", "test", "test")[n // 7]
        splits[split].append(n)
        on_disk = f"NEL/nel{n:03d}.JPG" if n % 5 == 0 else f"NEL/Nel{n:03d}.jpg"
        picture(folder / "images" / on_disk, n)
        rows.append([100 + n, DIAGNOSES[n % 7], 3, f"NEL/Nel{n:03d}.jpg", f"NEL/Nec{n:03d}.jpg", f"{n}", "a, note"])
    write_csv(folder / "meta" / "meta.csv", HEADER, rows)
    for split, own in splits.items():
        write_csv(folder / "meta" / f"{split}_indexes.csv", ["indexes"], [[n] for n in own])
    return folder


def phantom(root: Path) -> Path:
    """A tree in Derm7pt's layout under the phantom's own folder names: found there, it is not drawn."""
    from xcoop.data.dataset import CASES, SEED
    from xcoop.phantom.layouts import VERSION

    folder = root / f"phantom-derm7pt-{CASES}-{SEED}-v{VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    derm7pt(root).parent.rename(folder)
    shutil.copytree(folder, f"{folder}-real")
    return folder / "release_v0"


DERM_COUNTS = ({"nevus": 6, "melanoma": 6}, {"nevus": 2, "melanoma": 2}, {"nevus": 4, "melanoma": 4})

LAYOUTS = {"derm7pt": Layout(derm7pt, DERM_COUNTS), "phantom": Layout(phantom, DERM_COUNTS)}

DAMAGES: dict[str, Damages] = {
    "derm7pt": [
        (lambda f: (f / "images/NEL/Nel001.jpg").unlink(), r"lacks 1 of 42 images.*NEL/Nel001\.jpg"),
        (lambda f: (f / "images").rename(f / "pictures"), "images is missing"),
        (lambda f: (f / "meta/valid_indexes.csv").unlink(), r"valid_indexes\.csv is missing"),
        (lambda f: (f / "meta/meta.csv").unlink(), r"meta\.csv"),
        (lambda f: edit(f / "meta/test_indexes.csv", "41", "42"), r"test_indexes\.csv: \['42'\].*0 to 41"),
        (lambda f: edit(f / "meta/train_indexes.csv", "indexes", "index"), r"lacks the columns \['indexes'\]"),
        (lambda f: edit(f / "meta/train_indexes.csv", "3", "three"), "three"),
        (lambda f: edit(f / "meta/meta.csv", "case_id", "id"), r"lacks the columns \['case_id'\]"),
        (lambda f: edit(f / "meta/meta.csv", "melanosis", "melanossis"), r"unknown diagnoses \['melanossis'\]"),
        (lambda f: (f / "meta/meta.csv").write_bytes(b"\xff\xfe\x00"), r"meta\.csv is no CSV"),
        (lambda f: (f / "images/NEL/Nel002.jpg").write_bytes(b""), r"Nel002\.jpg: the file is empty"),
        (lambda f: edit(f / "meta/meta.csv", "NEL/Nel003.jpg", ""), "line 5: the columns 'derm'"),
    ],
}
DAMAGES["phantom"] = [DAMAGES["derm7pt"][0], DAMAGES["derm7pt"][4]]
