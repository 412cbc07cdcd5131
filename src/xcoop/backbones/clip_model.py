"""From a name or a file to an unmodified model of OpenAI's `clip` package. Nothing that a file holds is executed.

The one place that imports `clip`: the installed package, under a name of ours. A CoOp checkout carries a folder `clip`,
which hides the installed package there, and which some forks have changed (prompts inside the towers, other arguments
of `build_model`). What `import clip` gives is left to its owner; here the files of the installed distribution are
loaded as `xcoop._clip`, so that both live in one process.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import tarfile
import threading
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from xcoop.backbones.torchscript import read_torchscript
from xcoop.utils.download import Job, download
from xcoop.utils.files import check_archive, sha256_file
from xcoop.utils.suggest import cut

logger = logging.getLogger(__name__)

NAME = "xcoop._clip"
DISTRIBUTIONS = ("clip-anytorch", "clip")  # the second is the name of OpenAI's own, and of another project on PyPI
FOLDER = "~/.cache/clip"  # of OpenAI's loader too, so that what it has downloaded before is used
SPARSE_ROWS = "token_embedding.rows"  # the mark of the phantom's weights: only the used rows are stored
COUNTS = "num_batches_tracked"  # the one integer among the weights
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # OpenAI's archives carry these along
MOST_POSITIONS = 4096  # CLIP has 77; the mask is square
LONGEST_REASON = 600  # characters

_lock = threading.Lock()


def import_clip() -> Any:
    """OpenAI's `clip`, with `tokenize`, `model.build_model` and the table of released weights.

    Raises:
        ImportError: it is not installed.
    """
    with _lock:
        if NAME not in sys.modules:
            folder = _installed()
            spec: Any = importlib.util.spec_from_file_location(
                NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )
            module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[NAME]
                raise
        return sys.modules[NAME]


def _installed() -> Path:
    """The folder of the installed package."""
    for name in DISTRIBUTIONS:
        try:
            folder = Path(str(distribution(name).locate_file("clip")))
        except PackageNotFoundError:
            continue
        if all((folder / file).is_file() for file in ("__init__.py", "clip.py", "model.py")):
            return folder
    raise ImportError("OpenAI's CLIP is not installed: pip install clip-anytorch")


# Weights: OpenAI's own by name, or those of a local file.


def fetch_openai(name: str) -> Path:
    """The local file with OpenAI's weights of that name, downloaded if it is not there whole.

    Raises:
        ValueError: the `clip` package in use does not know the name, or what came is not what OpenAI published.
        ConnectionError: the download failed; the message says where the file can be put by hand.
    """
    urls: dict[str, str] = import_clip().clip._MODELS
    if name not in urls:
        raise ValueError(
            f"the `clip` package in use ({import_clip().__file__}) has no address for the weights of {name}; "
            f"it knows {', '.join(urls)}. Set MODEL.BACKBONE.PATH to a local file."
        )
    return fetch(urls[name], Path(FOLDER).expanduser())


def fetch(url: str, folder: Path) -> Path:
    """The file behind an address whose last folder is the file's SHA-256, as in OpenAI's table.

    Args:
        url: the address.
        folder: where the file is kept.
    """
    *_, expected, filename = url.split("/")
    target = folder / filename
    if target.is_file():
        if sha256_file(target) == expected:
            return target
        logger.warning("%s is damaged (its SHA-256 is not %s); downloading it again", target, expected)
    logger.info("downloading %s to %s", url, target)
    advice = (
        f"Download {url} elsewhere and put it at {target}, or set MODEL.BACKBONE.PATH to a local weights file. "
        "The backbone `phantom` needs no download."
    )
    download(Job(url, target, checksum=f"sha256:{expected}", advice=advice))
    return target


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
    content = _read_pickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no state dict, but {type(content).__name__}")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ValueError(f"{path} holds no state dict: its entry {name!r} is no tensor")
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            sparse = SPARSE_ROWS in file.keys()  # noqa: SIM118 - the file object is no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if not sparse:
        return load_file(path)
    from xcoop.backbones.phantom import load_state_dict  # the writer of this form also reads it

    return load_state_dict(path)


def _read_pickle(path: Path) -> Any:
    if tarfile.is_tarfile(path):
        # No CLIP was ever saved in the tar form of the oldest releases, and torch before 2.6 reads it unsafely.
        raise ValueError(f"{path} is a tar file; save the weights again, as .safetensors or with torch.save")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler stumbles over: the file is damaged, or not meant for this
        text = str(error).strip()
        if isinstance(error, UnpicklingError):  # what torch says beside it is advice to load the file unsafely
            text = text.partition("WeightsUnpickler error: ")[2].strip() or "it is no pickle of plain weights"
        reason = (text or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")[:300]
        raise ValueError(
            f"{path} cannot be read as weights (nothing in it was executed): {reason}. "
            "It should be a state dict saved with torch.save or as .safetensors, or OpenAI's own .pt file."
        ) from error


# The model that holds them.


def build_clip(state: dict[str, Tensor], source: str) -> Any:
    """An unmodified `clip.model.CLIP` in fp32 that holds a copy of these weights; their shapes decide its sizes.

    `clip.model.build_model` is asked for the model's shape alone, on the meta device: nothing is drawn at random only
    to be overwritten (most of its time, and it would shift the caller's random numbers), and fp32 weights do not pass
    through the fp16 that it converts models to.

    Args:
        state: OpenAI's names to tensors.
        source: what the weights come from, for messages.

    Raises:
        ValueError: the names or shapes are not those of a CLIP, or a tensor holds anything but finite numbers.
    """
    weights = {name: _own(tensor, name, source) for name, tensor in state.items() if name not in NOT_WEIGHTS}
    build_model = import_clip().model.build_model
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one warning a tensor: copying into a meta tensor does nothing
            model = build_model(dict(weights))
        model.load_state_dict(weights, assign=True)
    except (KeyError, RuntimeError, IndexError, AssertionError, AttributeError, ZeroDivisionError) as error:
        some = ", ".join(list(weights)[:3])
        said = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        reason = cut(said, LONGEST_REASON) or type(error).__name__
        raise ValueError(
            f"{source} is no CLIP in OpenAI's layout: {reason} (its weights are named {some}, ...)"
        ) from error
    if model.context_length > MOST_POSITIONS:
        raise ValueError(f"{source}: texts of {model.context_length} tokens; at most {MOST_POSITIONS}")
    mask = model.build_attention_mask()  # a plain attribute of the blocks, no weight: it is still on the meta device
    for block in model.transformer.resblocks:
        block.attn_mask = mask
    return model.eval()


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor of a file holds plain floating-point numbers, and neither NaN nor infinity."""
    plain = tensor.layout is torch.strided and not tensor.is_meta and tensor.is_floating_point()
    return plain and bool(torch.isfinite(tensor).all())


def _own(tensor: Tensor, name: str, source: str) -> Tensor:
    """A copy, in fp32 unless it counts something."""
    if tensor.layout is torch.strided and tensor.numel() > tensor.untyped_storage().nbytes():
        # A view that repeats a few numbers: it could claim any size.
        raise ValueError(f"{source}: {name!r} of shape {tuple(tensor.shape)} is larger than what is stored of it")
    if not (is_finite(tensor) or name.endswith(COUNTS)):
        raise ValueError(f"{source}: {name!r} does not hold finite numbers")
    return tensor.detach().to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
