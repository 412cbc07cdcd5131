"""Tiny datasets in their official layouts, and ways to damage them. Each picture is noise of its own."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dassl.data.datasets import DATASET_REGISTRY
from PIL import Image
from yacs.config import CfgNode

from xcoop.config import get_cfg

SIZE = 12


def picture(path: Path, seed: int) -> None:
    """A noise picture; equal seeds and formats give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG")


def config(name: str, root: Path | str, **dataset: object) -> CfgNode:
    """The configuration of one dataset; `SEED` is set beside the DATASET keys."""
    cfg = get_cfg()
    cfg.SEED = dataset.pop("SEED", 1)
    cfg.DATASET.NAME, cfg.DATASET.ROOT = name, str(root)
    for key, value in dataset.items():
        cfg.DATASET[key] = value
    return cfg


def load(name: str, root: Path | str, **dataset: object) -> Any:
    """The dataset as a run would load it."""
    cfg = config(name, root, **dataset)  # registers the datasets too
    return DATASET_REGISTRY.get(name)(cfg)


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


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


def phantom(root: Path) -> Path:
    """A tree in Derm7pt's layout under the phantom's own folder names: found there, it is not drawn."""
    from xcoop.datasets.phantom import CASES, SEED, VERSION

    folder = root / f"phantom-derm7pt-{CASES}-{SEED}-v{VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    derm7pt(root).parent.rename(folder)
    shutil.copytree(folder, f"{folder}-real")
    return folder / "release_v0"


@dataclass(frozen=True)
class Layout:
    """How a dataset's tree is made, and what is known of it.

    Attributes:
        make: writes the tree below a root; gives the folder or file that `damages` work on.
        counts: train, val and test images of each class of the default task, by hand.
    """

    make: Callable[[Path], Path]
    counts: tuple[dict[str, int], dict[str, int], dict[str, int]]


DERM_COUNTS = ({"nevus": 6, "melanoma": 6}, {"nevus": 2, "melanoma": 2}, {"nevus": 4, "melanoma": 4})

LAYOUTS: dict[str, Layout] = {
    "Derm7pt": Layout(derm7pt, DERM_COUNTS),
    "Phantom": Layout(phantom, DERM_COUNTS),
    # Of 48 training images a class at least 4.8 are carved, in whole patients of 2.
    "Pneumonia": Layout(
        pneumonia,
        ({"normal": 42, "pneumonia": 42}, {"normal": 6, "pneumonia": 6}, {"normal": 12, "pneumonia": 12}),
    ),
    "PneumoniaMNIST": Layout(
        pneumoniamnist,
        ({"normal": 10, "pneumonia": 10}, {"normal": 3, "pneumonia": 3}, {"normal": 4, "pneumonia": 4}),
    ),
}


def edit(path: Path, old: str, new: str) -> None:
    """Replaces text in a file that holds it."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def npz(path: Path, **changed: np.ndarray | None) -> None:
    """Changes arrays of an npz file; None removes one."""
    with np.load(path) as file:
        arrays = dict(file) | changed
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def remove_images(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


# Per dataset: what is done to the tree, and what the error must say.
DAMAGES: dict[str, list[tuple[Callable[[Path], object], str]]] = {
    "Derm7pt": [
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
    "Pneumonia": [
        (lambda f: (f / "test").rename(f / "tset"), "was not found"),
        (lambda f: (f / "train/NORMAL").rename(f / "train/HEALTHY"), r"train/NORMAL is missing"),
        (lambda f: remove_images(f / "test/PNEUMONIA"), r"test/PNEUMONIA holds no images"),
        (lambda f: (f / "test/NORMAL/IM-0020-0000.jpeg").write_bytes(b"<html>"), r"IM-0020-0000\.jpeg: no known"),
    ],
    "PneumoniaMNIST": [
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
DAMAGES["Phantom"] = [DAMAGES["Derm7pt"][0], DAMAGES["Derm7pt"][4]]
