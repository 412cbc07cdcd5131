"""The npz file of PneumoniaMNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tree_tools import Damages, Layout, npz


def pneumoniamnist(root: Path) -> Path:
    """The npz file with 20, 6 and 8 images of 28 x 28."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("val", 6), ("test", 8)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).reshape(-1, 1).astype(np.uint8)
    np.savez(root / "pneumoniamnist.npz", **arrays)
    return root / "pneumoniamnist.npz"


LAYOUTS = {
    "pneumoniamnist": Layout(
        pneumoniamnist,
        ({"normal": 10, "pneumonia": 10}, {"normal": 3, "pneumonia": 3}, {"normal": 4, "pneumonia": 4}),
    ),
}

DAMAGES: dict[str, Damages] = {
    "pneumoniamnist": [
        (lambda f: f.write_bytes(f.read_bytes()[:4000]), r"cannot be read as npz"),
        (lambda f: f.write_bytes(b"not a zip"), r"cannot be read as npz"),
        (lambda f: npz(f, val_labels=None), r"lacks the arrays \['val_labels'\]"),
        (lambda f: npz(f, test_labels=np.zeros((7, 1), np.uint8)), "test has 8 images, but 7 labels"),
        (lambda f: npz(f, test_labels=np.full((8, 1), 2)), "test_labels holds"),
        (lambda f: npz(f, test_images=np.zeros((8, 28, 28, 3), np.uint8)), r"test_images is uint8\(8, 28, 28, 3\)"),
        (lambda f: npz(f, train_labels=np.zeros((20, 1), np.uint8)), "no training image of 'pneumonia'"),
        (lambda f: npz(f, train_images=np.array([{}] * 20, dtype=object)), "cannot be read as npz"),
    ],
}
