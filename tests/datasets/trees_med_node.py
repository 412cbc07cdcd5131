"""The archive of MED-NODE."""

from __future__ import annotations

import shutil
from pathlib import Path

from tree_tools import Damages, Layout, empty, picture


def med_node(root: Path) -> Path:
    """10 naevi and 7 melanomas with the archive's stray files. Gives complete_mednode_dataset."""
    folder = root / "MED-NODE" / "complete_mednode_dataset"
    for name, count in (("naevus", 10), ("melanoma", 7)):
        for n in range(count):
            picture(folder / name / f"{100 * count + n}.jpg", 100 * count + n)
    (folder / "readme.txt").write_text("non-dermoscopic images")
    (folder / "naevus" / "Thumbs.db").write_bytes(b"stray")
    return folder


LAYOUTS = {
    # Of 10: 3 to test, 1 to val. Of 7: the first 3 reach 2.1, and one of the other 4 reaches 0.7.
    "med_node": Layout(
        med_node, ({"nevus": 6, "melanoma": 3}, {"nevus": 1, "melanoma": 1}, {"nevus": 3, "melanoma": 3})
    ),
}

DAMAGES: dict[str, Damages] = {
    "med_node": [
        (shutil.rmtree, "was not found"),
        (lambda f: (f / "naevus").rename(f / "nevi"), "naevus is missing: the set has the folders naevus, melanoma"),
        (lambda f: empty(f / "melanoma"), "melanoma holds no images"),
        (lambda f: (f / "melanoma/701.jpg").write_bytes(b""), r"701\.jpg: the file is empty"),
        (lambda f: (f / "naevus/1001.jpg").write_text("<html>"), r"1 of 17 images.*1001\.jpg: no known"),
    ],
}
