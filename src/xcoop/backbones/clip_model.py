"""From a name or a file to a model of OpenAI's `clip` package. Nothing that a file holds is executed.

The one place that imports `clip`: the installed package, under a name of ours. A CoOp checkout carries a folder `clip`,
which hides the installed package there, and which some forks have changed (prompts inside the towers, other arguments
of `build_model`). What `import clip` gives is left to its owner; here the files of the installed distribution are
loaded as `xcoop._clip`, so that both live in one process.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xcoop.backbones.making import OPENAI, WIDTH, Making, Tower, activation_module
from xcoop.backbones.weight_files import read_state_dict, require_stored
from xcoop.utils.console import cut, to_paste
from xcoop.utils.download import Job, download
from xcoop.utils.files import sha256_file

logger = logging.getLogger(__name__)

NAME = "xcoop._clip"
DISTRIBUTIONS = ("clip-anytorch", "clip")  # the second is the name of OpenAI's own, and of another project on PyPI
FOLDER = "~/.cache/clip"  # of OpenAI's loader too, so that what it has downloaded before is used
COUNTS = "num_batches_tracked"  # the one integer among the weights
PATCH_BIAS = "visual.conv1.bias"
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
    raise ImportError(f"OpenAI's CLIP is not installed: {to_paste('pip', 'install', 'clip-anytorch')}")


# OpenAI's own weights by name.


def fetch_openai(name: str) -> Path:
    """The local file with OpenAI's weights of that name, downloaded if it is not there whole.

    The last folder of its address is the file's SHA-256.

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
    *_, expected, filename = urls[name].split("/")
    target = Path(FOLDER).expanduser() / filename
    if target.is_file():
        if sha256_file(target) == expected:
            return target
        logger.warning("%s is damaged (its SHA-256 is not %s); downloading it again", target, expected)
    logger.info("downloading %s to %s", urls[name], target)
    advice = (
        f"Download {urls[name]} elsewhere and put it at {target}, or set MODEL.BACKBONE.PATH to a local weights file. "
        "The backbone `phantom` needs no download."
    )
    download(Job(urls[name], target, checksum=f"sha256:{expected}", advice=advice))
    return target


# The model that holds them.


def read_clip(path: str | Path, making: Making = OPENAI) -> Any:
    """The model of a weights file: `build_clip` of `read_state_dict`, which raise what is wrong with it.

    A tensor of the file is let go as soon as its copy is made, so that never all of both is in memory.
    """
    return _build(given_away(read_state_dict(path)), str(path), making)


def build_clip(state: Mapping[str, Tensor], source: str, making: Making = OPENAI) -> Any:
    """A `clip.model.CLIP` in fp32 that holds a copy of these weights; their shapes decide its sizes.

    It is put together on the meta device: nothing is drawn at random only to be overwritten (most of the time that
    `clip.model.build_model` takes, and it would shift the caller's random numbers), and fp32 weights do not pass
    through the fp16 that it converts models to.

    Args:
        state: OpenAI's names to tensors; a bias of the patch convolution, which OpenAI's has not, is added to the
            positions of the patches, where it gives the same.
        source: what the weights come from, for messages.
        making: what the weights do not tell; with `OPENAI` the model is as `build_model` has it.

    Raises:
        ValueError: the names or shapes are not those of a CLIP, its towers do not consist of that many heads, or a
            tensor holds anything but finite numbers.
    """
    return _build(state.items(), source, making)


def given_away(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict by their names; each leaves it when it is asked for."""
    return ((name, state.pop(name)) for name in list(state))


def _build(state: Iterable[tuple[str, Tensor]], source: str, making: Making) -> Any:
    weights = own_weights(state, source)
    model = assembled(weights, lambda: _empty_clip(weights, making, source), source)
    if model.context_length > MOST_POSITIONS:
        raise ValueError(f"{source}: texts of {model.context_length} tokens; at most {MOST_POSITIONS}")
    mask = model.build_attention_mask()  # a plain attribute of the blocks, no weight: it is still on the meta device
    for block in model.transformer.resblocks:
        block.attn_mask = mask
    return model.eval()


def own_weights(state: Iterable[tuple[str, Tensor]], source: str) -> dict[str, Tensor]:
    """Copies of all tensors in fp32, ready for the modules of `clip.model`; see `build_clip`."""
    weights = {name: _own(tensor, name, source) for name, tensor in state if name not in NOT_WEIGHTS}
    bias, positions = weights.pop(PATCH_BIAS, None), weights.get("visual.positional_embedding")
    if bias is not None:
        if positions is None or positions.dim() != 2 or bias.shape != positions.shape[1:]:
            raise ValueError(f"{source}: {PATCH_BIAS} of shape {tuple(bias.shape)} does not fit the positions")
        positions[1:] += bias
    return weights


def assembled(weights: Mapping[str, Tensor], empty: Callable[[], Any], source: str) -> Any:
    """A model with these weights, none more and none less.

    Args:
        weights: by the model's names; they are taken as they are, not copied.
        empty: makes the model; it is called with the meta device as default.
        source: what the weights come from, for messages.

    Raises:
        ValueError: names or shapes do not fit.
    """
    try:
        with torch.device("meta"):
            model = empty()
        model.load_state_dict(weights, assign=True)
    except (KeyError, RuntimeError, IndexError, TypeError, AssertionError, AttributeError, ZeroDivisionError) as error:
        some = ", ".join(list(weights)[:3])
        said = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        reason = cut(said, LONGEST_REASON) or type(error).__name__
        raise ValueError(
            f"{source} is no CLIP in OpenAI's layout: {reason} (its weights are named {some}, ...)"
        ) from error
    return model


def _empty_clip(weights: Mapping[str, Tensor], making: Making, source: str) -> Any:
    """A `clip.model.CLIP` of the sizes of these weights."""
    clip, visual = import_clip().model, empty_visual(weights, making, source)
    joint = weights["text_projection"].shape[1]
    length, width = len(weights["positional_embedding"]), len(weights["ln_final.weight"])
    vocabulary, layers = len(weights["token_embedding.weight"]), count_blocks(weights, "transformer.resblocks.")
    heads = making.text.heads_of(width, f"{source}: its text tower")
    model = clip.CLIP(joint, 1, 1, WIDTH, 1, length, vocabulary, width, heads, layers)
    model.visual = visual  # in the place of a small one, whose heads were told by its width
    set_up(model.transformer, making.text, weights, "transformer.")
    model.ln_final.eps = making.text.eps
    return model


def empty_visual(weights: Mapping[str, Tensor], making: Making, source: str) -> Any:
    """An image tower of `clip.model` of the sizes of the weights that are named `visual.`.

    Raises:
        KeyError: one of the weights that tell the sizes is not there.
        ValueError: it does not consist of the heads that `making` states.
    """
    clip = import_clip().model
    if "visual.proj" not in weights:  # a ResNet
        stages = tuple(count_blocks(weights, f"visual.layer{index}.", needed=False) for index in (1, 2, 3, 4))
        width = len(weights["visual.layer1.0.conv1.weight"])
        positions = len(weights["visual.attnpool.positional_embedding"])
        joint = len(weights["visual.attnpool.c_proj.weight"])
        heads = making.image.heads_of(32 * width, f"{source}: the pool of its image tower")
        return clip.ModifiedResNet(stages, joint, heads, 32 * _side(positions), width)
    patches, joint = weights["visual.conv1.weight"], weights["visual.proj"].shape[-1]
    width, patch = len(patches), patches.shape[-1]
    layers = count_blocks(weights, "visual.transformer.resblocks.")
    heads = making.image.heads_of(width, f"{source}: its image tower")
    side = _side(len(weights["visual.positional_embedding"]))
    visual = clip.VisionTransformer(patch * side, patch, width, layers, heads, joint)
    set_up(visual.transformer, making.image, weights, "visual.transformer.")
    visual.ln_post.eps = visual.ln_pre.eps = making.image.eps
    if not making.has_ln_pre:
        visual.ln_pre = nn.Identity()
    return visual


def count_blocks(weights: Mapping[str, Tensor], prefix: str, needed: bool = True) -> int:
    """How many blocks there are below a prefix; KeyError for none where some are needed."""
    found = len({name[len(prefix) :].partition(".")[0] for name in weights if name.startswith(prefix)})
    if needed and not found:
        raise KeyError(f"{prefix}0")
    return found


def _side(positions: int) -> int:
    """Patches in a row, of the positions of a square image and its class token."""
    side = math.isqrt(max(positions - 1, 0))
    if side < 1 or side * side + 1 != positions:
        raise RuntimeError(f"{positions} positions of the image tower are not those of a square of patches")
    return side


def set_up(transformer: Any, tower: Tower, weights: Mapping[str, Tensor], prefix: str) -> None:
    """Gives the blocks of a `clip.model.Transformer` the activation, the eps and the hidden width of a tower."""
    width, hidden = transformer.width, len(weights[f"{prefix}resblocks.0.mlp.c_fc.weight"])
    for block in transformer.resblocks:
        block.ln_1.eps = block.ln_2.eps = tower.eps
        if hidden != block.mlp.c_fc.out_features:
            block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)
        if (activation := activation_module(tower.activation)) is not None:
            block.mlp.gelu = activation


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor of a file holds plain floating-point numbers, and neither NaN nor infinity."""
    if tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point():
        return False
    if not tensor.numel():
        return True
    if tensor.dtype.itemsize == 1:  # floats of 8 bits cannot be compared
        tensor = tensor.float()
    # NaN passes through both. Asking each number with `torch.isfinite` takes ten times as long.
    return all(math.isfinite(end) for end in torch.aminmax(tensor.detach()))


def _own(tensor: Tensor, name: str, source: str) -> Tensor:
    """A copy, in fp32 unless it counts something."""
    require_stored(tensor, name, source)
    own = tensor.detach().to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
    if not (is_finite(own) or name.endswith(COUNTS)):  # as they are used: of 64 bits, they may be too large for 32
        raise ValueError(f"{source}: {name!r} does not hold finite numbers")
    return own
