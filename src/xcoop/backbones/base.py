"""What every backbone offers (text from embeddings, images to features, norms, a fingerprint), and all by their names.

Symbols: N texts, L tokens, W text width, B images, T patches, D joint width.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import logging
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from xcoop.utils import process_cache
from xcoop.utils.console import unknown

if TYPE_CHECKING:
    from typing_extensions import Self
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFeatures:
    """What an image tower sees.

    Attributes:
        pooled: global features, (B, D), not normalised.
        patches: local features in the same space, (B, T, D), not normalised; T = 0 if they were not asked for.
    """

    pooled: Tensor
    patches: Tensor


class LabelledFeatures(NamedTuple):
    """Features of N images, and their labels, (N,) int64, on one device."""

    features: ImageFeatures
    labels: Tensor


class Backbone(nn.Module, ABC):
    """A frozen pair of towers whose texts and images meet in one space.

    Which device and precision it runs in is the caller's business (`.to`, `.half`); it is handed out in fp32, frozen,
    and stays in evaluation mode: a frozen tower must not update batch statistics because its owner trains.

    Attributes:
        name: the name it was loaded by, e.g. "ViT-B/16".
        input_size: side of the square images it takes, in pixels.
        pixel_mean: what is subtracted from each colour channel, RGB in [0, 1].
        pixel_std: what each channel is then divided by.
        context_length: tokens that a text may have, start and end included.
        text_width: W, the width of a token embedding.
        embed_dim: D, the width of the joint space.
        grid: rows and columns of patches; T is their product, patches are in row-major order.
        family: whose model it is, in words.
        source: what was loaded: a file, a folder, a name.
        recompute: whether the blocks of the image tower keep no more than their inputs for a backward pass, and compute
            the rest once more there. A tower without such blocks does not.
        placeholder: a word that is one token: in a prompt it holds the place of a learned one.
    """

    name: str
    input_size: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    context_length: int
    text_width: int
    embed_dim: int
    grid: tuple[int, int]
    family: str = ""
    source: str = ""
    recompute: bool = False
    placeholder: str = "X"

    def __init__(self) -> None:
        super().__init__()
        self._fingerprint: tuple[object, str] | None = None

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """A scalar parameter; logits are cosines times its exponential."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision that the towers compute in."""

    @abstractmethod
    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Token ids, (N, context_length) int64, zero-padded.

        Raises:
            ValueError: a text has more tokens than fit; the message names it. Nothing is cut.
        """

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """How many tokens a text takes, start and end included; may exceed `context_length`."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | Tensor) -> list[str]:
        """The text of each single token id."""

    def vocabulary(self) -> tuple[list[str], Tensor]:
        """The whole words that are one token each and whose embeddings were trained.

        Returns:
            N different words, and their ids (N,) int64 on the backbone's device. None, unless a backbone says more.
        """
        return [], torch.zeros(0, dtype=torch.int64, device=self.logit_scale.device)

    @abstractmethod
    def end_positions(self, tokens: Tensor) -> Tensor:
        """Where each text ends: (N, L) ids to (N,) int64 indices of the token whose output is the text's feature."""

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings without positions: (N, L) ids to (N, L, W)."""

    def encode_embeddings(self, embeddings: Tensor, end: Tensor) -> Tensor:
        """Text features from token embeddings, through which gradients flow.

        Args:
            embeddings: (N, L, W), without positions; what follows the last end token may be missing.
            end: (N,) int64, the index of each end token.

        Returns:
            (N, D), not normalised.
        """
        return self.project_text(self.end_states(embeddings, end))

    @abstractmethod
    def end_states(self, embeddings: Tensor, end: Tensor) -> Tensor:
        """What the text tower makes of each end token, normalised as the projection takes it: (N, V) for its width V.

        See `encode_embeddings`. A row depends on its own text alone.
        """

    @abstractmethod
    def project_text(self, states: Tensor) -> Tensor:
        """`end_states` in the joint space: (N, V) to (N, D)."""

    @abstractmethod
    def encode_image(self, images: Tensor, patches: bool = False) -> ImageFeatures:
        """Features of (B, 3, input_size, input_size) images, normalised by `pixel_mean` and `pixel_std`.

        Args:
            images: the batch.
            patches: whether the local features are wanted too; without them nothing is spent on them.
        """

    @abstractmethod
    def image_norms(self) -> list[nn.Parameter]:
        """Weights and biases of the normalisation layers inside the image tower's blocks, for norm-layer tuning.

        Raises:
            ValueError: this image tower has none that can be tuned.
        """

    def held_in(self, dtype: torch.dtype) -> Backbone:
        """A view of it for forward passes under autocast to `dtype`: the same numbers, fewer casts. Here: itself."""
        return self

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Features of whole texts, (N, D), not normalised."""
        tokens = self.tokenize(texts).to(self.logit_scale.device)  # (N, L)
        return self.encode_embeddings(self.embed(tokens), self.end_positions(tokens))

    def fingerprint(self) -> str:
        """The SHA-256 of all weights, in hexadecimal digits; the same for equal weights on every machine.

        Of a backbone that computes with its weights in its own way (`untold`), of that as well.

        It is computed again only when a weight has been replaced or changed in place. (A change through `tensor.data`
        goes unseen, as it does in autograd.)
        """
        state = self._state()
        if self._fingerprint is None or self._fingerprint[0] != state:
            digest = tensors_sha256(self.state_dict())
            if untold := self.untold():
                digest = hashlib.sha256(f"{digest} {untold}".encode()).hexdigest()
            self._fingerprint = (state, digest)
        return self._fingerprint[1]

    def untold(self) -> str:
        """What of its computation its weights do not tell, in words; "" if nothing. Part of the fingerprint."""
        return ""

    def _state(self) -> object:
        """What changes whenever a weight is replaced or changed in place."""
        tensors = self.state_dict(keep_vars=True).values()
        return tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever the mode of the model it is a part of.

        Its hundreds of modules are gone through only if the first ones are not in that mode.
        """
        if self.training or any(child.training for child in self.children()):
            super().train(False)
        return self


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of named tensors (hex): of names, types, shapes and numbers, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# Backbones by name. Each module of this package may register some; importing it is enough.


@dataclass(frozen=True)
class TextLimits:
    """How long a backbone's texts may be; known without its weights.

    Attributes:
        context_length: tokens that a text may have, start and end included.
        count_tokens: how many a text has, start and end included.
    """

    context_length: int
    count_tokens: Callable[[str], int]

    def fit(self, text: str) -> bool:
        """Whether the text tower takes a text whole."""
        return self.count_tokens(text) <= self.context_length


@dataclass(frozen=True)
class Wanted:
    """What a config says of a backbone's weights (MODEL.BACKBONE), beside its name.

    Attributes:
        path: a local file or folder; "" if there is none.
        source: a name on a hub, or of an architecture, where the backbone's name leaves that open.
        activation: of the blocks; "" as the family has it.
        head_width: of the attention; 0 as the family has it.
    """

    path: str = ""
    source: str = ""
    activation: str = ""
    head_width: int = 0

    @classmethod
    def of(cls, cfg: CfgNode) -> Wanted:
        """Of a config, which may lack all of these keys."""
        node = cfg.MODEL.BACKBONE
        return cls(node.get("PATH", ""), node.get("SOURCE", ""), node.get("ACTIVATION", ""), node.get("HEAD_WIDTH", 0))

    def files(self) -> tuple[tuple[str, int, int], ...]:
        """Names, sizes and times of what lies at the path: a file, or those in a folder."""
        place = Path(self.path).expanduser()
        if not self.path or not place.exists():
            return ()
        found = sorted(place.iterdir()) if place.is_dir() else [place]
        stats = [(file.name, file.stat()) for file in found if file.is_file()]
        return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


Loader = Callable[[str, Wanted], Backbone]
AnyLoader = TypeVar("AnyLoader", bound=Loader)
Fetcher = Callable[[str, Wanted], object]
_registered: dict[str, tuple[Loader, TextLimits | None]] = {}
_fetchers: dict[str, Fetcher] = {}


def register_backbone(
    *offered: str, text: TextLimits | None = None, fetch: Fetcher | None = None
) -> Callable[[AnyLoader], AnyLoader]:
    """Offers the decorated function as the loader of these backbones.

    The function takes the name and what the config wants (`Wanted`), and returns the backbone.

    Args:
        offered: the names.
        text: how long their texts may be; None if that is known from the weights alone.
        fetch: takes what the loader takes, and sees to it that the files of the weights are here, or raises what the
            loader would; None where nothing has to be fetched.

    Raises:
        KeyError: one of the names is taken by another function.
    """

    def register(loader: AnyLoader) -> AnyLoader:
        for name in offered:
            if name in _registered:
                raise KeyError(f"backbone {name!r} is registered twice: by {_registered[name][0]} and by {loader}")
        _registered.update(dict.fromkeys(offered, (loader, text)))
        if fetch:
            _fetchers.update(dict.fromkeys(offered, fetch))
        return loader

    return register


def backbone_names() -> list[str]:
    """Every registered backbone, sorted."""
    package = importlib.import_module("xcoop.backbones")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"xcoop.backbones.{module.name}")
    return sorted(_registered)


def require_backbone(name: str) -> None:
    """ValueError for a backbone that nobody registered; the message gives the nearest name."""
    if name not in backbone_names():
        raise ValueError(unknown("backbone", name, _registered))


def loader_of(name: str) -> Loader:
    """The loader of a registered backbone, for one that is another name of it; ValueError for an unknown name."""
    require_backbone(name)
    return _registered[name][0]


def text_limits(name: str) -> TextLimits | None:
    """How long the texts of a backbone may be, without loading it; None if it does not say.

    Raises:
        ValueError: unknown name.
    """
    require_backbone(name)
    return _registered[name][1]


def fetcher_of(name: str) -> Fetcher | None:
    """What fetches the weights of a registered backbone; ValueError for an unknown name."""
    require_backbone(name)
    return _fetchers.get(name)


def fetch_weights(cfg: CfgNode) -> None:
    """Sees to it that the files of the weights that a config names are here; they are not read.

    Raises:
        FileNotFoundError: no such local file.
        ConnectionError: they are not here and cannot be downloaded.
        ValueError: unknown name, or what came is not what was published.
    """
    wanted = Wanted.of(cfg)
    if fetch := fetcher_of(cfg.MODEL.BACKBONE.NAME):
        fetch(cfg.MODEL.BACKBONE.NAME, wanted)


def load_backbone(cfg: CfgNode) -> Backbone:
    """The backbone that a config names, frozen, in fp32 on the CPU. No random numbers are drawn.

    Args:
        cfg: its `MODEL.BACKBONE.NAME`, and the rest of that node as far as it is there (`Wanted`).

    Raises:
        ValueError: unknown name, or a weights file that does not fit.
        FileNotFoundError: no such weights file.
        ConnectionError: the weights are not here and cannot be downloaded.
    """
    name = cfg.MODEL.BACKBONE.NAME
    require_backbone(name)
    backbone = _registered[name][0](name, Wanted.of(cfg))
    return backbone.float().eval().requires_grad_(False)


def backbone_of(cfg: CfgNode, device: torch.device) -> Backbone:
    """The backbone that a config names, on a device; in a scope that shares, a copy of the one loaded there.

    It belongs to the caller alone. Raises what `load_backbone` does.
    """
    shared = process_cache.current()
    if shared is None:
        return load_backbone(cfg).to(device)
    wanted = Wanted.of(cfg)
    key = (cfg.MODEL.BACKBONE.NAME, wanted, wanted.files(), device)
    if key not in shared.backbones:
        shared.backbones[key] = load_backbone(cfg).to(device)
    original: Backbone = shared.backbones[key]
    fingerprint = original.fingerprint()
    own = copy.deepcopy(original)
    own._fingerprint = (own._state(), fingerprint)  # it is not computed again
    return own


def check_input(cfg: CfgNode, backbone: Backbone) -> None:
    """Images must come as the backbone expects them: a wrong size is an error, another normalisation a warning.

    Raises:
        ValueError: the size.
    """
    if tuple(cfg.INPUT.SIZE) != (backbone.input_size, backbone.input_size):
        size = backbone.input_size
        raise ValueError(f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)}; {backbone.name} needs ({size}, {size})")
    for key, own in (("PIXEL_MEAN", backbone.pixel_mean), ("PIXEL_STD", backbone.pixel_std)):
        if max(abs(a - b) for a, b in zip(cfg.INPUT[key], own, strict=True)) > 1e-3:
            logger.warning(
                "INPUT.%s is %s; %s was trained with %s", key, list(cfg.INPUT[key]), backbone.name, list(own)
            )
