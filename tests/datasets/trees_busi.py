"""The archive of BUSI, masks and all."""

from __future__ import annotations

import shutil
from pathlib import Path

from tree_tools import Damages, Layout, empty, picture

COUNTS = {"benign": 10, "malignant": 10, "normal": 7}


def busi(root: Path) -> Path:
    """10 benign, 10 malignant and 7 normal scans; the fourth benign one has two masks. Gives Dataset_BUSI_with_GT."""
    folder = root / "BUSI" / "Dataset_BUSI_with_GT"
    for kind, (name, count) in enumerate(COUNTS.items()):
        for n in range(1, count + 1):
            picture(folder / name / f"{name} ({n}).png", 100 * kind + n)
            picture(folder / name / f"{name} ({n})_mask.png", 999)
    picture(folder / "benign" / "benign (4)_mask_1.png", 998)
    return folder


LAYOUTS = {
    "busi": Layout(
        busi,
        (
            {"benign tumor": 6, "malignant tumor": 6, "normal scan": 3},
            {"benign tumor": 1, "malignant tumor": 1, "normal scan": 1},
            {"benign tumor": 3, "malignant tumor": 3, "normal scan": 3},
        ),
    ),
}


DAMAGES: dict[str, Damages] = {
    "busi": [
        (shutil.rmtree, "was not found"),
        (lambda f: (f / "benign").rename(f / "begnin"), "benign is missing: the set has the folders benign, mal"),
        (lambda f: empty(f / "normal", "*).png"), "normal holds no images"),
        (lambda f: (f / "malignant/malignant (3).png").write_bytes(b""), r"malignant \(3\)\.png: the file is empty"),
        (lambda f: (f / "benign/benign (2).png").write_text("<html>"), r"1 of 27 images.*benign \(2\)\.png: no known"),
    ],
}
