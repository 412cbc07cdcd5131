"""Records below an output root: two datasets or more, several methods and shots, with planted predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_runs import config, trainer

from xcoop.results.record import write_run

IMAGES = 40


def write_cell(
    out: Path,
    dataset: str,
    method: str,
    shots: int | None,
    right: dict[int, Sequence[int]],
    *,
    cfg: str = "phantom",
    tag: str = "",
    **facts: Any,
) -> Path:
    """Records the seeds of one cell; `right` holds the numbers of the images that each seed gets right.

    Args:
        out: the output root.
        dataset: the folder's name.
        method: the trainer.
        shots: None for a method that uses none.
        right: by seed.
        cfg: of the method.
        tag: of its folder.
        facts: of each run, see `write_one`.
    """
    name = f"{cfg}{f'__{tag}' if tag else ''}" if shots is None else "_".join(filter(None, [cfg, f"{shots}shots", tag]))
    for seed, good in right.items():
        folder = out / dataset / method / name / f"seed{seed}"
        write_one(folder, dataset, method, shots, seed, good, **facts)
    return out / dataset / method / name


def write_one(
    folder: Path,
    dataset: str,
    method: str,
    shots: int | None,
    seed: int,
    good: Sequence[int],
    phantom: bool = True,
    images: int = IMAGES,
    subsample: str = "all",
    several: bool = False,
    names: Sequence[str] = ("nevus", "melanoma"),
) -> Path:
    """Records one run.

    Args:
        folder: of the run.
        dataset: its name.
        method: the trainer.
        shots: None for a method that uses none.
        seed: of the run.
        good: the numbers of the images that it gets right.
        phantom: whether the images are drawn.
        images: how many there are, classes in turn.
        subsample: which classes.
        several: whether two images are of one patient.
        names: of the classes.
    """
    folder.mkdir(parents=True)
    cfg = config(folder, "DATASET.SUBSAMPLE_CLASSES", subsample, trainer=method, shots=shots or -1, seed=seed)
    made: Any = trainer(cfg)
    about = made.dm.dataset
    about.is_phantom, about.name, about.classnames = phantom, dataset, list(names)
    about.split_hash = hashlib.sha256(dataset.encode()).hexdigest()
    paths = [f"/somewhere/drawn/{dataset}-{i:03}.png" for i in range(images)]
    about.patients = {path: f"case-{i // 2 if several else i}" for i, path in enumerate(paths)}
    labels = np.arange(images) % len(names)
    right = np.isin(np.arange(images), np.asarray(good))
    guessed = np.where(right, labels, (labels + 1) % len(names))
    sure = np.where(right, 0.9, 0.6)[:, None]
    rest = (1 - sure) / (len(names) - 1)
    return write_run(made, labels, np.where(np.eye(len(names))[guessed] > 0, sure, rest), paths)
