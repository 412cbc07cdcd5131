"""Checkpoints in Dassl's layout: `<folder>/model.pth.tar-<E>`, and beside it `checkpoint` with the newest's name.

A checkpoint holds the model's state, the number of finished epochs, the states of optimiser and scheduler, the
validation result, and the states of the random generators, so that a resumed training goes on as if it had never
stopped. Files are whole or absent, whenever the process dies: the pointer is written after the file it names.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xcoop.engine import safeload
from xcoop.engine.rng import restore_rng, rng_state
from xcoop.utils import files
from xcoop.utils.console import LONGEST_PATH, shown, unknown
from xcoop.utils.reading import read_bytes

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
        state: at least `state_dict` and `epoch` (finished epochs).
        save_dir: the folder, made if missing.
        is_best: copy it to `model-best.pth.tar` too.
        remove_module_from_keys: strip the "module." that DataParallel adds.
        model_name: the file's name; "" is `model.pth.tar-<epoch>`.
    """
    state = {"rng": rng_state(), **state}
    if remove_module_from_keys:
        state["state_dict"] = _without_module(state["state_dict"])
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
    fdir: str, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None
) -> int:
    """Puts everything back to where the newest checkpoint of a folder left it; see `restore`.

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


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Loads those weights of a file that fit the model in name and shape; warns if none does.

    Args:
        model: changed in place.
        weight_path: a checkpoint (its `state_dict` is used) or a bare state dict.
    """
    content = load_checkpoint(weight_path)
    given = _without_module(content.get("state_dict", content))
    own = model.state_dict()
    fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        warnings.warn(f"{weight_path}: not one of its {len(given)} weights fits the model", stacklevel=2)
        return
    model.load_state_dict({**own, **fitting})
    print(f"Successfully loaded pretrained weights from {weight_path}")
    left = sorted(set(given) - set(fitting))
    if left:
        print(f"Weights left out, since the name or the shape does not fit: {left}")


def count_num_param(model: nn.Module | None = None, params: Any = None) -> int:
    """The number of parameters of a model, of one tensor, or of several (of groups, too).

    Raises:
        ValueError: nothing is given.
    """
    if model is not None:
        return sum(parameter.numel() for parameter in model.parameters())
    if params is None:
        raise ValueError("neither a model nor parameters to count")
    if isinstance(params, Tensor):
        return params.numel()
    return sum(count_num_param(params=p["params"] if isinstance(p, dict) else p) for p in params)


def open_all_layers(model: nn.Module) -> None:
    """All layers in train mode, all parameters with gradients."""
    model.train().requires_grad_(True)


def open_specified_layers(model: nn.Module, open_layers: str | Iterable[str]) -> None:
    """Train mode and gradients for the named top-level layers; eval mode and none for the others.

    Raises:
        ValueError: the model has no such layer.
    """
    inner = model.module if isinstance(model, nn.DataParallel) else model
    names = [open_layers] if isinstance(open_layers, str) else list(open_layers)
    layers = dict(inner.named_children())
    for name in names:
        if name not in layers:
            raise ValueError(unknown("layer", name, layers))
    for name, layer in layers.items():
        layer.train(name in names).requires_grad_(name in names)


def _without_module(state_dict: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The state without the leading "module." that DataParallel adds to its keys."""
    return OrderedDict((key.removeprefix("module."), value) for key, value in state_dict.items())
