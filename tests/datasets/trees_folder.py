"""A user's own folder: a directory a class, or a table."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tree_tools import Damages, Layout, edit, empty, picture, write_csv

CLASSES = ("leaf", "root", "stem")
NAME = "my_images"


def directories(root: Path, each: int = 10, top: str = "", seed: int = 0) -> Path:
    """`each` images a class, in a directory a class."""
    for number, name in enumerate(CLASSES):
        for i in range(each):
            picture(root / NAME / top / name / f"{name}{seed + i:02d}.png", 1000 * number + seed + i)
    return root / NAME


def split_directories(root: Path) -> Path:
    """5, 2 and 3 images a class below train, Validation and test."""
    for top, each, seed in (("train", 5, 0), ("Validation", 2, 5), ("test", 3, 7)):
        directories(root, each, top, seed)
    return root / NAME


def table(root: Path, split: bool = True) -> Path:
    """The table of 5, 2 and 3 images a class, each from a patient of its own."""
    rows = []
    for number, name in enumerate(CLASSES):
        for i in range(10):
            picture(root / NAME / "images" / f"{name}{i}.png", 1000 * number + i)
            word = ("Train" if i < 5 else "valid" if i < 7 else "TEST") if split else ""
            rows.append((f"images/{name}{i}.png", name, word, f"p{number}{i}"))
    write_csv(root / NAME / "list.csv", ["Image", "Diagnosis", "Split", "Patient_ID"], rows)
    return root / NAME


def on_table(*changes: tuple[str, str]) -> Callable[[Path], None]:
    """Writes a table of all images into the folder of directories, and edits it."""

    def damage(folder: Path) -> None:
        table(folder.parent)
        for old, new in changes:
            edit(folder / "list.csv", old, new)

    return damage


def one_class(folder: Path) -> None:
    for name in CLASSES[1:]:
        shutil.rmtree(folder / name)


LAYOUTS = {
    "folder": Layout(
        directories,
        # of 10 images: test takes 3 (30 %), val 1 (10 %), each an image of its own "patient"
        (dict.fromkeys(CLASSES, 6), dict.fromkeys(CLASSES, 1), dict.fromkeys(CLASSES, 3)),
        NAME,
    )
}

DAMAGES: dict[str, Damages] = {
    "folder": [
        (lambda f: empty(f / "leaf"), r"my_images/leaf holds no image: fill it or remove it"),
        (one_class, r"has one class only, 'leaf'"),
        (lambda f: (f / "train" / "x").mkdir(parents=True), r"directories of splits \(train\) beside others: \['leaf'"),
        (lambda f: (f / "leaf").rename(f / "ROOT"), "the classes 'ROOT' and 'root' are one"),
        (lambda f: (f / "leaf" / "leaf00.png").write_bytes(b"x"), r"leaf00\.png: no known picture format"),
        (
            lambda f: [(f / name).write_text("path,label\nleaf/leaf00.png,leaf") for name in ("a.csv", "b.csv")],
            r"several tables \(a\.csv, b\.csv\)",
        ),
        (lambda f: (f / "a.csv").write_bytes(b"path,label\n\xff,x\n"), r"a\.csv is no CSV text"),
        (on_table(("Diagnosis", "Colour")), r"no column 'label' or .*it has \['Image', 'Colour'"),
        (on_table(("Patient_ID", "class")), "'Diagnosis' and 'class' both tell the label"),
        (on_table(("images/leaf3.png", "../leaf3.png")), r"line 5: '\.\./leaf3\.png' is no path below the folder"),
        (on_table(("images/leaf3.png", "/etc/leaf3.png")), r"line 5: '/etc/leaf3\.png' is no path below"),
        (on_table(("images/leaf3.png", "images\\..\\..\\x.png")), "line 5: .* is no path below"),
        (on_table(("images/leaf3.png", "C:/x.png")), "line 5: 'C:/x.png' is no path below"),
        (on_table(("images/leaf3.png", "")), "line 5: '' is no path below"),
        (on_table(("leaf3.png,leaf", "leaf3.png, ")), r"line 5: images/leaf3\.png has no label"),
        (
            on_table(("leaf3.png,leaf,Train", "leaf3.png,leaf,trian")),
            "line 5: Unknown split 'trian'.*Did you mean 'train'",
        ),
        (on_table(("leaf3.png,leaf,Train", "leaf3.png,leaf,")), "1 of 30 rows have no split, the first in line 5"),
        (on_table((",p03", ",")), "1 of 30 rows have no patient, the first in line 5"),
        (on_table(("images/leaf3.png", "images/lost.png")), r"1 of the 30 images .*line 5: images/lost\.png"),
        (on_table(("images/leaf3.png", "images/./leaf2.png")), r"leaf2\.png twice, in the lines 4 and 5$"),
        (on_table(("leaf3.png,leaf", "leaf2.png,root")), r"in the lines 4 and 5, as 'leaf' and as 'root'"),
        (on_table(("leaf9.png,leaf", "leaf9.png,moss")), "'moss' stands in test, but not in train"),
        (on_table(("TEST", "train")), r"has no test images; it has \['train', 'val'\]"),
    ]
}
