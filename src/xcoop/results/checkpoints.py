"""Checkpoints: small, whole or absent, read without executing anything, and enough to go on bit for bit.

Names and layout are Dassl's: `<output>/prompt_learner/model.pth.tar-<epoch>`, `model-best.pth.tar`, and a text file
`checkpoint` with the name of the one to resume from. That is always a regular one, never the best.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from xcoop.concepts.bank import same_name
from xcoop.engine.checkpoint import write
from xcoop.utils.console import LONGEST_PATH, cut, shown
from xcoop.utils.files import atomic_write_text
from xcoop.utils.reading import read_bytes

BEST = "model-best.pth.tar"
POINTER = "checkpoint"


def epoch_name(epoch: int) -> str:
    """The file name after `epoch` finished epochs."""
    return f"model.pth.tar-{epoch}"


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint atomically; a regular one becomes the one to resume from.

    Raises:
        OSError: it cannot be written; an older one is still there.
    """
    write(content, path)
    if path.name != BEST:
        atomic_write_text(path.parent / POINTER, path.name + "\n")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of ours or of CoOp's.

    Raises:
        FileNotFoundError: no such file; the message lists the checkpoints that are there.
        ValueError: the file is damaged, is no checkpoint, or holds something that could execute.
    """
    from dassl.utils import load_checkpoint

    if not path.is_file():
        present = sorted(file.name for file in path.parent.glob("model*"))
        raise FileNotFoundError(f"no checkpoint {path}; in that folder: {', '.join(present) or 'none'}")
    try:
        content = load_checkpoint(str(path))
    except Exception as error:  # truncated and malicious files fail in many ways, all of them final
        raise ValueError(f"{path} is not a checkpoint that can be read safely: {error}") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} is no checkpoint: it has no 'state_dict' of tensors")
    if not isinstance(content.get("epoch"), int):
        raise ValueError(f"{path} is no checkpoint: it doesn't say after which epoch it was written")
    return dict(content)


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume from, or None if nothing was finished there.

    Raises:
        ValueError: the pointer names no file of that folder.
    """
    pointer = folder / POINTER
    if not pointer.is_file():
        return None
    name = read_bytes(pointer, LONGEST_PATH).decode("utf-8", "replace").strip()
    if not name or Path(name).name != name or not os.path.isfile(folder / name):
        raise ValueError(f"{pointer} names {shown(name)}, which is not in {folder}; delete {folder} to start anew")
    return folder / name


def to_test(folder: Path, epoch: int | None, final_model: str) -> Path:
    """The checkpoint that a test is of: the given epoch; else the best one; else the last, unless the best is wanted.

    Args:
        folder: of the checkpoints.
        epoch: None for the one that the run chose.
        final_model: TEST.FINAL_MODEL.
    """
    path = folder / (BEST if epoch is None else epoch_name(epoch))
    if epoch is None and not path.is_file() and final_model != "best_val":
        return latest_checkpoint(folder) or path
    return path


def require_resumable(folder: str) -> None:
    """ValueError if the folder that RESUME names holds no checkpoint: who names one does not want to start anew."""
    if not any(Path(folder).glob(f"*/{POINTER}")):
        what = "holds no checkpoint" if Path(folder).is_dir() else "is no folder"
        raise ValueError(
            f"RESUME {shown(folder)} {what} (looked for {cut(folder)}/prompt_learner/{POINTER}); it takes the output "
            "folder of an interrupted run; without RESUME a run goes on in its own output folder, or starts anew"
        )


def require_same_length(path: Path, content: dict[str, Any], epochs: int) -> None:
    """ValueError unless a checkpoint belongs to a training of as many epochs; `path` is for the message."""
    if not 0 <= content["epoch"] <= epochs:
        raise ValueError(f"{path} was written after epoch {content['epoch']}; this run has OPTIM.MAX_EPOCH {epochs}")
    if (total := content.get("max_epoch", epochs)) != epochs:  # old checkpoints do not tell
        raise ValueError(
            f"{path} belongs to a training with OPTIM.MAX_EPOCH {total}, and this one has {epochs}. "
            "Learning rates and means over epochs follow the whole length, so the result would be that of neither: "
            "train from the start in another folder, or begin a new training at these weights with "
            f"MODEL.INIT_WEIGHTS {path}"
        )


def require_same_classes(path: Path, content: dict[str, Any], wanted: Sequence[str]) -> None:
    """ValueError unless what was learned for each class belongs to that class here; `path` is for the message."""
    trained = content.get("classnames")  # CoOp's checkpoints do not tell
    if trained and list(map(same_name, trained)) != list(map(same_name, wanted)):
        raise ValueError(
            f"{path} holds contexts of the classes {trained}, and this dataset has {wanted}: class-specific "
            "contexts, caches and classifiers do not transfer; only what all classes share does (e.g. CoOp with "
            "TRAINER.COOP.CSC False, CoCoOp, CLIPAdapter)"
        )


def optimiser_state(optimiser: Any, epoch: int) -> dict[str, Any]:
    """What a checkpoint after `epoch` finished epochs tells of an optimiser and its schedule."""
    rates = [group["lr"] for group in optimiser.param_groups]
    return {"optimizer": optimiser.state_dict(), "scheduler": {"last_epoch": epoch, "_last_lr": rates}}


def restore_optimiser(optimiser: Any, scheduler: Any, content: dict[str, Any]) -> None:
    """Puts optimiser and schedule to where they were after the checkpoint's epochs.

    A schedule is a function of the epoch: it is stepped there from its start, so no schedule's inner objects have to
    be stored, whichever engine made it. (Dassl stores its warm-up's successor as an object; after a resume that
    drives a copy of the optimiser, and the learning rate never changes again.)

    Raises:
        ValueError: the rates were others when the checkpoint was written, so that its epochs are not those of this run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects optimiser steps between those of a schedule
        for _ in range(content["epoch"]):
            scheduler.step()
    rates = [group["lr"] for group in optimiser.param_groups]
    schedule = content.get("scheduler") or {}
    # of Dassl's own schedules, whose rates are those of an inner object, nothing is asked
    before = [] if "successor" in schedule else schedule.get("_last_lr", [])
    for one, two in zip(before, rates, strict=False):
        if not math.isclose(one, two, rel_tol=1e-6, abs_tol=1e-12):
            raise ValueError(
                f"its learning rate after {content['epoch']} epochs is {one:g}, and this run's would be {two:g}: "
                "resume with the same OPTIM.LR, MAX_EPOCH, schedule and warm-up, or train anew in another folder"
            )
    optimiser.load_state_dict(content["optimizer"])
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
