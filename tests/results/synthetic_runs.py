"""Records of runs that never ran: a stand-in for a trainer, and probabilities of a wanted accuracy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from xcoop.config.defaults import get_cfg
from xcoop.results.record import Origin, write_run

NAMES = ("nevus", "melanoma")


def config(folder: Path, *pairs: Any, trainer: str = "CoOp", shots: int = 4, seed: int = 1) -> CfgNode:
    """A merged config."""
    cfg = get_cfg()
    cfg.merge_from_list(["OUTPUT_DIR", str(folder), "DATASET.NAME", "Phantom", "TRAINER.NAME", trainer, "SEED", seed])
    cfg.merge_from_list(["DATASET.NUM_SHOTS", shots, "DATASET.ROOT", "/somewhere", *pairs])
    return cfg


def trainer(cfg: CfgNode, **changes: Any) -> SimpleNamespace:
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
        origin=Origin("phantom", "train.py"),
        seconds={"train": 1.5},
        **changes,
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
    return write_run(trainer(cfg), *outcome(correct, images))


def write_seeds(folder: Path, corrects: dict[int, int], *pairs: Any, **settings: Any) -> None:
    """Records a run for each seed, with so many correct images of 20."""
    for seed, correct in corrects.items():
        write(config(folder / f"seed{seed}", *pairs, seed=seed, **settings), correct)
