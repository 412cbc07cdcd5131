"""The layout of the chest X-ray archive."""

from __future__ import annotations

from pathlib import Path

from tree_tools import Damages, Layout, empty, picture


def pneumonia(root: Path) -> Path:
    """12 patients a series in train (2 images each), 3 in test, with the archive's stray files. Gives chest_xray."""
    folder = root / "Pneumonia" / "chest_xray"
    seed = 0
    for split, patients in (("train", range(1, 13)), ("test", range(20, 23))):
        for n in patients:
            for image in range(2):
                names = [f"person{n}_{cause}_{2 * n + image}.jpeg" for cause in ("bacteria", "virus")]
                normal = [f"IM-{n:04d}-000{image}.jpeg", f"NORMAL2-IM-{n:04d}-0001-000{image}.jpeg"]
                for kind, own in (("PNEUMONIA", names), ("NORMAL", normal)):
                    for name in own:
                        picture(folder / split / kind / name, seed)
                        seed += 1
    for stray in ("train/.DS_Store", "train/NORMAL/._IM-0001-0000.jpeg", "train/NORMAL/Thumbs.db", "notes.txt"):
        (folder / stray).write_bytes(b"stray")
    for copy in ("__MACOSX/chest_xray/train/NORMAL/._x.jpeg", "val/NORMAL/NORMAL2-IM-1427-0001.jpeg"):
        picture(folder / copy, 0)
    return folder


def phantom_chest(root: Path) -> Path:
    """The same tree under the chest phantom's own folder name: found there, it is not drawn."""
    from xcoop.data.dataset import CASES, SEED
    from xcoop.phantom.layouts import VERSION

    folder = root / f"phantom-chest-{CASES}-{SEED}-v{VERSION}"
    pneumonia(root).parent.rename(folder)
    return folder / "chest_xray"


# Of 48 training images a class at least 4.8 are carved, in whole patients of 2.
COUNTS = ({"normal": 42, "pneumonia": 42}, {"normal": 6, "pneumonia": 6}, {"normal": 12, "pneumonia": 12})

LAYOUTS = {"pneumonia": Layout(pneumonia, COUNTS), "phantom_chest": Layout(phantom_chest, COUNTS)}

DAMAGES: dict[str, Damages] = {
    "pneumonia": [
        (lambda f: (f / "test").rename(f / "tset"), "was not found"),
        (lambda f: (f / "train/NORMAL").rename(f / "train/HEALTHY"), r"train/NORMAL is missing"),
        (lambda f: empty(f / "test/PNEUMONIA"), r"test/PNEUMONIA holds no images"),
        (lambda f: (f / "test/NORMAL/IM-0020-0000.jpeg").write_bytes(b"<html>"), r"IM-0020-0000\.jpeg: no known"),
    ],
}
DAMAGES["phantom_chest"] = DAMAGES["pneumonia"]
