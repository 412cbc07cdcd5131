"""The npz files of MedMNIST: one for each of its sets that are read."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from tree_tools import Damages, Layout, config, npz

RGB = ("bloodmnist", "dermamnist", "pathmnist", "retinamnist")
GREY = (
    *("breastmnist", "octmnist", "organamnist", "organcmnist", "organsmnist"),
    *("pneumoniamnist", "tissuemnist"),
)
EACH = {"train": 7, "val": 3, "test": 4}  # images a class


def medmnist(name: str, root: Path) -> Path:
    """The file with 7, 3 and 4 images of 28 x 28 a class, the labels one after the other in turn."""
    root.mkdir(parents=True, exist_ok=True)
    rng, classes = np.random.default_rng(0), len(config(name, root).DATASET.CLASSES)
    arrays = {}
    for split, each in EACH.items():
        labels = np.tile(np.arange(classes, dtype=np.uint8), each)
        shape = (len(labels), 28, 28, *((3,) if name in RGB else ()))
        arrays |= {f"{split}_images": rng.integers(0, 256, shape, dtype=np.uint8), f"{split}_labels": labels[:, None]}
    np.savez_compressed(root / f"{name}.npz", **arrays)
    return root / f"{name}.npz"


def layout(name: str) -> Layout:
    classes = config(name, "").DATASET.CLASSES
    train, val, test = (dict.fromkeys(classes, each) for each in EACH.values())
    return Layout(partial(medmnist, name), (train, val, test))


def flip(path: Path) -> None:
    """Changes one byte in the middle of the largest array, as a bad disk does."""
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)


LAYOUTS = {name: layout(name) for name in (*RGB, *GREY)}

WRONG_LABEL: Damages = [(lambda f: npz(f, train_labels=np.full((7, 1), 11)), "train_labels holds .*, not 0 to")]
DAMAGES: dict[str, Damages] = dict.fromkeys((*RGB, *GREY), WRONG_LABEL)
DAMAGES["pneumoniamnist"] = [
    (lambda f: f.write_bytes(f.read_bytes()[:4000]), r"cannot be read as npz"),
    (lambda f: f.write_bytes(b"not a zip"), r"cannot be read as npz"),
    (flip, r"cannot be read as npz"),
    (lambda f: npz(f, val_labels=None), r"lacks the arrays \['val_labels'\]"),
    (lambda f: npz(f, test_labels=np.zeros((7, 1), np.uint8)), "test has 8 images, but 7 labels"),
    (lambda f: npz(f, test_labels=np.full((8, 1), 2)), r"test_labels holds \[2\], not 0 to 1"),
    (lambda f: npz(f, test_labels=np.zeros((8, 14), np.uint8)), r"\(8, 14\): sets of several labels"),
    (lambda f: npz(f, test_labels=np.zeros((8, 1))), r"test_labels holds \[0\.\]"),
    (lambda f: npz(f, test_images=np.zeros((8, 28, 28, 4), np.uint8)), r"test_images is uint8\(8, 28, 28, 4\), not"),
    (lambda f: npz(f, test_images=np.zeros((8, 28, 64), np.uint8)), r"test_images is uint8\(8, 28, 64\), not"),
    (lambda f: npz(f, test_images=np.zeros((8, 256, 256), np.uint8)), r"of 28 to 224 pixels"),
    (lambda f: npz(f, test_images=np.zeros((8, 28, 28))), r"test_images is float64"),
    (lambda f: npz(f, test_images=np.zeros((), np.uint8)), r"test_images is uint8\(\), not"),
    (lambda f: npz(f, train_labels=np.zeros((14, 1), np.uint8)), "no training image of 'pneumonia'"),
    (lambda f: npz(f, train_images=np.array([{}] * 14, dtype=object)), "train_images is object"),
    (lambda f: npz(f, train_labels=np.array([{}] * 14, dtype=object)), "cannot be read as npz"),
]
