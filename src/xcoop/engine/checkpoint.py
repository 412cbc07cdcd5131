"""Checkpoints in Dassl's layout: `<folder>/model.pth.tar-<E>`, and beside it `checkpoint` with the newest's name.

A checkpoint holds the model's state, the number of finished epochs, the states of optimiser and scheduler, the
validation result, and the states of the random generators, so that a resumed training goes on as if it had never
stopped. Files are whole or absent, whenever the process dies: the pointer is written after the file it names.
"""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xcoop.engine import safeload
from xcoop.engine.rng import restore_rng, rng_state
from xcoop.utils import files
from xcoop.utils.console import LONGEST_PATH
from xcoop.utils.reading import read_bytes
from xcoop.utils.suggest import shown

BEST = "model-best.pth.tar"
POINTER = "checkpoint"


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Writes a checkpoint, then the pointer to it.

    Args:
        state: at least `state_dict` and `epoch` (finished epochs); the random states are added if it has none.
        save_dir: the folder, made if missing.
        is_best: copy it to `model-best.pth.tar` too.
        remove_module_from_keys: strip the "module." that DataParallel adds.
        model_name: the file's name; "" is `model.pth.tar-<epoch>`.
    """
    state = {"rng": rng_state(), **state}
    if remove_module_from_keys:
        weights = state["state_dict"]
        state["state_dict"] = OrderedDict((key.removeprefix("module."), weights[key]) for key in weights)
    name = model_name or epoch_file(state["epoch"])
    path = os.path.join(save_dir, name)
    safeload.write(state, path)
    files.atomic_write_text(os.path.join(save_dir, POINTER), f"{name}\n")
    print(f"Checkpoint saved to {path}")
    if is_best:
        with files.atomic_path(os.path.join(save_dir, BEST)) as temporary:
            shutil.copy(path, temporary)
        print(f"Best checkpoint saved to {os.path.join(save_dir, BEST)}")


def load_checkpoint(fpath: str) -> Any:
    """The content of a checkpoint, read safely, with all tensors on the CPU.

    Raises:
        ValueError: no path is given.
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, or holds something that is not data.
    """
    if fpath is None:
        raise ValueError("no path of a checkpoint is given (None)")
    if not os.path.exists(fpath):
        raise FileNotFoundError(f"no checkpoint at {fpath!r}")
    return safeload.read(fpath)


def epoch_file(epoch: int) -> str:
    """The file name of the checkpoint after so many epochs."""
    return f"model.pth.tar-{epoch}"


def newest(fdir: str) -> str:
    """The path of the checkpoint that was written last into a folder; "" if there is none.

    Raises:
        FileNotFoundError: the pointer names a file that is gone.
    """
    pointer = Path(fdir, POINTER)
    if not pointer.is_file():
        return ""
    name = read_bytes(pointer, LONGEST_PATH).decode("utf-8", "replace").strip()
    path = os.path.join(fdir, name)
    if os.path.basename(name) != name or not os.path.isfile(path):
        raise FileNotFoundError(f"{pointer} names {shown(name)}, which is not in that folder")
    return path


def restore(
    checkpoint: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None
) -> None:
    """Puts everything back to where a checkpoint left it.

    Args:
        checkpoint: of `load_checkpoint`.
        model: changed in place; names and shapes must fit exactly.
        optimizer: changed in place.
        scheduler: changed in place.
    """
    inner = model.module if isinstance(model, nn.DataParallel) else model
    inner.load_state_dict(checkpoint["state_dict"])
    print("Loaded model weights")
    if optimizer is not None and checkpoint.get("optimizer") is not None:
        optimizer.load_state_dict(checkpoint["optimizer"])
        print("Loaded optimizer")
    if scheduler is not None and checkpoint.get("scheduler") is not None:
        scheduler.load_state_dict(checkpoint["scheduler"])
        print("Loaded scheduler")
    if "rng" in checkpoint:
        restore_rng(checkpoint["rng"])
    print(f"Previous epoch: {checkpoint['epoch']}")


def resume_from_checkpoint(
    fdir: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
) -> int:
    """Puts a training back to where the newest checkpoint of a folder left it; see `restore`.

    Returns:
        How many epochs were finished.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    path = newest(fdir)
    if not path:
        raise FileNotFoundError(f"no file {POINTER!r} in {fdir}: nothing to resume from")
    print(f'Loading checkpoint from "{path}"')
    checkpoint = load_checkpoint(path)
    restore(checkpoint, model, optimizer, scheduler)
    return int(checkpoint["epoch"])
