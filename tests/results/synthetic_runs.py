"""Records of runs that never ran: a stand-in for a trainer, and predictions of which the wanted ones are right."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from xcoop.config.plugins import get_cfg
from xcoop.results.record import Origin, write_run
from xcoop.utils.process_cache import Shared, sharing

NAMES = ("nevus", "melanoma")
IMAGES = 40
_FACTS = Shared()  # versions and commit are asked for once


def config(folder: Path, *pairs: Any, trainer: str = "CoOp", shots: int = 4, seed: int = 1) -> CfgNode:
    """A merged config."""
    cfg = get_cfg()
    cfg.merge_from_list(["OUTPUT_DIR", str(folder), "DATASET.NAME", "Phantom", "TRAINER.NAME", trainer, "SEED", seed])
    cfg.merge_from_list(["DATASET.NUM_SHOTS", shots, "DATASET.ROOT", "/somewhere", *pairs])
    return cfg


def trainer(cfg: CfgNode, trained: int = 24) -> Any:
    """What `write_run` reads of a trainer."""
    dataset = SimpleNamespace(
        classnames=list(NAMES),
        train_x=[None] * 8,
        val=[None] * 4,
        is_phantom=True,
        split_hash="a-split",
        dataset_dir="/somewhere/drawn",
        patients={f"/somewhere/drawn/{i}.png": f"case-{i // 2}" for i in range(100)},
    )
    return SimpleNamespace(
        cfg=cfg,
        dm=SimpleNamespace(dataset=dataset),
        output_dir=cfg.OUTPUT_DIR,
        device=torch.device("cpu"),
        dtype=torch.float16,
        origin=Origin("phantom", "train.py"),
        seconds={"train": 1.5},
        runs_at_once=1,
        backbone=SimpleNamespace(fingerprint=lambda: "0" * 64),
        bank=None,
        model=SimpleNamespace(count_trained=lambda: trained),
        transforms=cfg.INPUT.TRANSFORMS,
        left_out={},
    )


def outcome(correct: int, images: int = 20) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities and paths of an evaluation in which the first `correct` images are right."""
    labels = np.arange(images) % 2
    guessed = np.where(np.arange(images) < correct, labels, 1 - labels)
    probabilities = np.where(np.eye(2)[guessed] > 0, 0.75, 0.25)
    return labels, probabilities, [f"/somewhere/drawn/{i}.png" for i in range(images)]


def write(cfg: CfgNode, correct: int, images: int = 20) -> Path:
    """Records a run in the config's folder, with its config.yaml."""
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump())
    with sharing(_FACTS):
        return write_run(trainer(cfg), *outcome(correct, images))


def write_seeds(folder: Path, corrects: dict[int, int], *pairs: Any, **settings: Any) -> None:
    """Records a run for each seed, with so many correct images of 20."""
    for seed, correct in corrects.items():
        write(config(folder / f"seed{seed}", *pairs, seed=seed, **settings), correct)


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
    """Records the seeds of one cell below an output root; `right` are the images that each seed gets right.

    `shots` is None for a method that uses none; `tag` is of its folder, `facts` are those of `write_one`.
    """
    name = f"{cfg}{f'__{tag}' if tag else ''}" if shots is None else "_".join(filter(None, [cfg, f"{shots}shots", tag]))
    for seed, good in right.items():
        write_one(out / dataset / method / name / f"seed{seed}", dataset, method, shots, seed, good, **facts)
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
) -> Path:
    """Records one run of two classes in turn; `good` are the images that it gets right.

    `phantom`: whether the images are drawn; `several`: whether two images are of one patient.
    """
    folder.mkdir(parents=True)
    cfg = config(folder, "DATASET.SUBSAMPLE_CLASSES", subsample, trainer=method, shots=shots or -1, seed=seed)
    made = trainer(cfg)
    about = made.dm.dataset
    about.is_phantom, about.name = phantom, dataset
    about.split_hash = hashlib.sha256(dataset.encode()).hexdigest()
    paths = [f"/somewhere/drawn/{dataset}-{i:03}.png" for i in range(images)]
    about.patients = {path: f"case-{i // 2 if several else i}" for i, path in enumerate(paths)}
    labels = np.arange(images) % 2
    right = np.isin(np.arange(images), np.asarray(good))
    guessed = np.where(right, labels, 1 - labels)
    sure = np.where(right, 0.9, 0.6)[:, None]
    with sharing(_FACTS):
        return write_run(made, labels, np.where(np.eye(2)[guessed] > 0, sure, 1 - sure), paths)
