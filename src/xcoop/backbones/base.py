"""What every backbone offers: text from embeddings, images to global and local features, norms, a fingerprint.

Symbols: N texts, L tokens, W text width, B images, T patches, D joint width.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self


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
    """

    name: str
    input_size: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    context_length: int
    text_width: int
    embed_dim: int
    grid: tuple[int, int]

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

    @abstractmethod
    def encode_embeddings(self, embeddings: Tensor, end: Tensor) -> Tensor:
        """Text features from token embeddings, through which gradients flow.

        Args:
            embeddings: (N, L, W), without positions; what follows the last end token may be missing.
            end: (N,) int64, the index of each end token.

        Returns:
            (N, D), not normalised.
        """

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

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Features of whole texts, (N, D), not normalised."""
        tokens = self.tokenize(texts).to(self.logit_scale.device)  # (N, L)
        return self.encode_embeddings(self.embed(tokens), self.end_positions(tokens))

    def fingerprint(self) -> str:
        """The SHA-256 of all weights, in hexadecimal digits; the same for equal weights on every machine.

        It is computed again only when a weight has been replaced or changed in place. (A change through `tensor.data`
        goes unseen, as it does in autograd.)
        """
        tensors = self.state_dict(keep_vars=True)
        key = _key(tensors)
        if self._fingerprint is None or self._fingerprint[0] != key:
            self._fingerprint = (key, tensors_sha256(tensors))
        return self._fingerprint[1]

    def take_fingerprint(self, known: str) -> None:
        """Takes over the fingerprint of the backbone that this one is a copy of; it is not computed again.

        Args:
            known: of equal weights.
        """
        self._fingerprint = (_key(self.state_dict(keep_vars=True)), known)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever the mode of the model it is a part of."""
        return super().train(False)


def _key(tensors: dict[str, Tensor]) -> object:
    """What changes whenever a weight is replaced or changed in place."""
    return tuple((tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors.values())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of named tensors (hex): of names, types, shapes and numbers, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
