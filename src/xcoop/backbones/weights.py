"""Weights from local files, of which nothing is executed that a file could choose."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from xcoop.backbones.torchscript import read_torchscript
from xcoop.utils.files import check_archive

SPARSE_ROWS = "token_embedding.rows"  # the mark of the phantom's weights: only the used rows are stored


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file: `.safetensors`, a `torch.save` file, or one of OpenAI's TorchScript archives.

    Args:
        path: the file; `{"state_dict": ...}` and names that all begin with "module." are unwrapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or holds no state dict; the message names it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}; MODEL.BACKBONE.PATH takes a .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        is_torchscript = check_archive(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as weights (nothing in it was executed): {error}") from error
    if is_torchscript:
        return read_torchscript(path)
    return _unwrap(_read_pickle(path), path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            sparse = SPARSE_ROWS in file.keys()  # noqa: SIM118 - the file object is no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if not sparse:
        return load_file(path)
    from xcoop.backbones.phantom_weights import load_state_dict  # the writer of this form also reads it

    return dict(load_state_dict(path))


def _read_pickle(path: Path) -> Any:
    if tarfile.is_tarfile(path):
        # No CLIP was ever saved in the tar form of the oldest releases, and torch before 2.6 reads it unsafely.
        raise ValueError(f"{path} is a tar file; save the weights again, as .safetensors or with torch.save")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler stumbles over: the file is damaged, or not meant for this
        raise ValueError(
            f"{path} cannot be read as weights (nothing in it was executed): {_reason(error)}. "
            "It should be a state dict saved with torch.save or as .safetensors, or OpenAI's own .pt file."
        ) from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no state dict, but {type(content).__name__}")
    wrong = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if wrong:
        raise ValueError(f"{path} holds no state dict: its entry {wrong[0]!r} is no tensor")
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def _reason(error: Exception) -> str:
    """What torch says, without its advice (to load the file unsafely) and its paragraphs."""
    text = str(error).strip()
    if isinstance(error, UnpicklingError):
        _, found, cause = text.partition("WeightsUnpickler error: ")
        text = cause.strip() if found and cause.strip() else "it is no pickle of plain weights"
    return (text or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")[:300]
