"""The small CLIP that ships with this package, trained on drawn images, and its file; `xcoop.phantom` makes both.

The file holds half-precision numbers, and only the token embeddings that were trained. A CLIP with the full vocabulary
has 49,408; the captions use some hundreds of them. The file holds those rows; the rest are drawn again from a stored
seed, as they were before training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xcoop.backbones.base import Backbone, Wanted, register_backbone
from xcoop.backbones.clip_model import build_clip, read_clip
from xcoop.backbones.making import OPENAI
from xcoop.backbones.openai import TEXT, ClipBackbone
from xcoop.backbones.weight_files import ROWS, weights_file
from xcoop.utils.console import shown, to_paste
from xcoop.utils.files import atomic_path, sha256_file

IDS, FULL = "token_embedding.ids", "token_embedding.weight"
SHIPPED = "fb8d9b3da724dc23e398656bfaaab6ddbf0af91b2da34663f6b7f564ac40c6fb"  # SHA-256 of the file that comes along
TOKEN_STD = 0.02  # CLIP draws its token embeddings from N(0, 0.02)
# The largest table of OpenAI's models has 49,408 x 1,280 numbers. A file states its size in a few characters.
MOST_NUMBERS = 1 << 26


def _local_file(name: str, wanted: Wanted) -> Path:
    """The local file that is named, which must be there, or the shipped one."""
    return weights_file(wanted.path) if wanted.path else pretrained_path()


@register_backbone("phantom", text=TEXT, fetch=_local_file)
def load_phantom(name: str, wanted: Wanted) -> Backbone:
    """The shipped weights, or those of a local file."""
    if wanted.path:
        making = OPENAI.stated(wanted.activation, wanted.head_width)
        return ClipBackbone(name, read_clip(wanted.path, making), making=making)
    shipped = pretrained_path()
    state = load_state_dict(shipped)
    if (found := sha256_file(shipped)) != SHIPPED:
        raise ValueError(
            f"{shipped} is not the file that comes with xcoop (its SHA-256 is {found[:12]}..., not {SHIPPED[:12]}...): "
            "install it anew; or name weights of your own with MODEL.BACKBONE.PATH"
        )
    # Rows that were never trained are drawn anew, so neither zero nor constant: the file tells which were.
    return ClipBackbone(name, build_clip(state, str(shipped)), _read(shipped)[0][IDS].tolist())


def pretrained_path() -> Path:
    """Where the weights that come with the package lie."""
    return Path(__file__).parent / "pretrained" / "phantom.safetensors"


def untrained_rows(vocab: int, width: int, seed: int) -> Tensor:
    """The token embeddings before training: (vocab, width) float32 of N(0, 0.02), the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(vocab, width, generator=generator) * TOKEN_STD


def save_state_dict(state: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Writes a CLIP's state dict in half precision, without the untrained token embeddings.

    Args:
        state: OpenAI's names; instead of `token_embedding.weight` it may hold `token_embedding.rows` (N, W) and
            `token_embedding.ids` (N,). A full embedding is thinned to the rows that differ from `untrained_rows`.
        path: the file; it appears whole or not at all.
        metadata: must hold "seed" and "vocab" (numbers as text); more entries are kept.

    Raises:
        ValueError: the metadata lack the seed or the vocabulary, or a value cannot be held in half precision.
    """
    vocab, seed = _numbers(metadata, path)
    tensors = {name: tensor.detach().cpu() for name, tensor in state.items()}
    if FULL in tensors:
        full = tensors.pop(FULL)
        ids = (full.half() != untrained_rows(vocab, full.shape[1], seed).half()).any(dim=1).nonzero().flatten()
        tensors |= {ROWS: full[ids], IDS: ids}
    halves = {name: _half(name, tensor) for name, tensor in tensors.items() if name != IDS}
    halves[IDS] = tensors[IDS].to(torch.int32).contiguous()
    with atomic_path(path) as temporary:
        save_file(halves, temporary, metadata=dict(metadata))


def load_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads a file of `save_state_dict` back into the full state dict that `clip.model.build_model` takes.

    Returns:
        float32 tensors under OpenAI's names, `token_embedding.weight` (vocab, W) among them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no safetensors file, is truncated, or lacks what this format has.
    """
    if not Path(path).is_file():
        makes_them = to_paste("xcoop", "phantom", "pretrain", "--out", str(path))
        raise FileNotFoundError(f"no phantom weights at {path}; what makes them: {makes_them}")
    tensors, metadata = _read(path)
    vocab, seed = _numbers(metadata, path)
    rows, ids = (tensors.pop(name, None) for name in (ROWS, IDS))
    if rows is None or ids is None or rows.ndim != 2 or ids.shape != rows.shape[:1]:
        raise ValueError(f"{path}: {ROWS} (N, W) and {IDS} (N,) are needed; was it written by save_state_dict?")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab:
        raise ValueError(f"{path}: {IDS} go from {int(ids.min())} to {int(ids.max())}; the vocabulary has {vocab}")
    if vocab * rows.shape[1] > MOST_NUMBERS:
        raise ValueError(
            f"{path}: a table of {vocab} x {rows.shape[1]} token embeddings; at most {MOST_NUMBERS:,} numbers"
        )
    full = untrained_rows(vocab, rows.shape[1], seed)
    full[ids.long()] = rows.float()
    return {name: tensor.float() for name, tensor in tensors.items()} | {FULL: full}


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What the file says of itself."""
    return _read(path)[1]


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); fetch or make it anew") from error


def _numbers(metadata: Mapping[str, str], path: str | os.PathLike[str]) -> tuple[int, int]:
    found = [metadata.get(key, "") for key in ("vocab", "seed")]
    if not all(re.fullmatch(r"\d{1,18}", text) for text in found):
        raise ValueError(f"{path}: the metadata need whole numbers 'vocab' and 'seed', got {shown(found)}")
    vocab, seed = map(int, found)
    return vocab, seed


def _half(name: str, tensor: Tensor) -> Tensor:
    half = tensor.to(torch.float16).contiguous()
    if not torch.isfinite(half).all():
        raise ValueError(f"{name} holds values that are not finite in half precision")
    return half
