"""What the generated dataset trees share: noise pictures, tables, ways to damage a file, and loading as a run would."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from dassl.data.datasets import DATASET_REGISTRY
from PIL import Image
from yacs.config import CfgNode

from xcoop.config.plugins import get_cfg, plugin_path

SIZE = 12


def picture(path: Path, seed: int) -> None:
    """A noise picture; equal seeds and formats give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG")


def config(name: str, root: Path | str, **dataset: object) -> CfgNode:
    """The configuration of one dataset, from its file; `SEED` is set beside the DATASET keys."""
    cfg = get_cfg()
    cfg.merge_from_file(str(plugin_path("configs", "datasets", f"{name}.yaml")))
    cfg.SEED = dataset.pop("SEED", 1)
    cfg.DATASET.ROOT = str(root)
    for key, value in dataset.items():
        cfg.DATASET[key] = value
    return cfg


def load(name: str, root: Path | str, **dataset: object) -> Any:
    """The dataset as a run would load it."""
    cfg = config(name, root, **dataset)  # registers the datasets too
    return DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)


def images_of(dataset: Any) -> dict[str, Any]:
    """All items of a dataset, by the names of their files without suffix."""
    return {Path(item.impath).stem: item for part in (dataset.train_x, dataset.val, dataset.test) for item in part}


def labels_of(dataset: Any) -> dict[str, int]:
    return {name: item.label for name, item in images_of(dataset).items()}


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@dataclass(frozen=True)
class Layout:
    """How a dataset's tree is made, and what is known of it.

    Attributes:
        make: writes the tree below a root; gives the folder or file that `damages` work on.
        counts: train, val and test images of each class of the default task, by hand.
        path: DATASET.PATH below the root, for a dataset that is not found there by itself.
    """

    make: Callable[[Path], Path]
    counts: tuple[dict[str, int], dict[str, int], dict[str, int]]
    path: str = ""


def edit(path: Path, old: str, new: str) -> None:
    """Replaces text in a file that holds it."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def empty(folder: Path, pattern: str = "*") -> None:
    """Removes the files of a folder, or some of them."""
    for path in folder.glob(pattern):
        path.unlink()


def npz(path: Path, **changed: np.ndarray | None) -> None:
    """Changes arrays of an npz file; None removes one."""
    with np.load(path) as file:
        arrays = dict(file) | changed
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


Damages = list[tuple[Callable[[Path], object], str]]
"""What is done to the place that `Layout.make` gave, and what the error must say."""
