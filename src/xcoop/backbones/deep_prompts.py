"""Learned tokens inside both towers of an unmodified CLIP, layer by layer. No hook is set and no module replaced.

Symbols: N texts, L tokens, W text width, n context tokens; m vision prompts, V width of the image tower; J layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xcoop.backbones import image_towers, text_tower
from xcoop.backbones.base import Backbone, ImageFeatures
from xcoop.backbones.openai import NAMES, ClipBackbone

RESNETS = tuple(name for name in NAMES if name.startswith("RN"))


def require_vit(backbone: Backbone, method: str) -> ClipBackbone:
    """The backbone, if tokens can be put into its image tower.

    Raises:
        ValueError: its image tower is a ResNet, which has no tokens, or its blocks are not OpenAI's.
    """
    if not isinstance(backbone, ClipBackbone):
        raise ValueError(f"{method} puts prompts into the blocks of OpenAI's CLIP; {backbone.name} is built otherwise")
    if not backbone.is_vit:
        raise ValueError(no_tokens(backbone.name, method))
    return backbone


def no_tokens(name: str, method: str) -> str:
    """The message for a ResNet."""
    return (
        f"{method} puts prompts among the tokens of a vision transformer; {name} has a ResNet for its image tower: "
        "choose a ViT, e.g. ViT-B/16"
    )


def encode_prompted(backbone: ClipBackbone, embeddings: Tensor, end: Tensor, prompts: Tensor | None) -> Tensor:
    """Text features of prompts whose context tokens are made anew in some blocks.

    Args:
        backbone: gives the text tower.
        embeddings: (N, L, W), without positions; the context stands right behind the start token.
        end: (N,) int64, the index of each end token.
        prompts: (J, n, W), the context tokens of the second block to block 1 + J; None: they are never replaced.

    Returns:
        (N, D), not normalised.
    """
    return text_tower.encode(backbone.model, embeddings, end, prompts)


@dataclass(frozen=True)
class _Held:
    """Prompts that a view uses and does not own: as a module's attribute they would be among its parameters."""

    prompts: Tensor


class PromptedClip(ClipBackbone):
    """A CLIP whose image tower has prompts in its first J blocks; a view that shares all modules with the plain one.

    Its texts are those of the plain one.

    Args:
        backbone: with a ViT.
        prompts: (J, m, V), part of the graph; see `image_towers.vit_prompted`.

    Raises:
        ValueError: more layers than the tower has, or another width.
    """

    def __init__(self, backbone: ClipBackbone, prompts: Tensor) -> None:
        super().__init__(
            backbone.name, backbone.model, None if backbone.trained_ids is None else list(backbone.trained_ids)
        )
        blocks, width = len(self.image_blocks), backbone.model.visual.conv1.weight.shape[0]
        if prompts.dim() != 3 or len(prompts) > blocks or prompts.shape[2] != width:
            raise ValueError(
                f"vision prompts of shape {tuple(prompts.shape)} for {blocks} blocks of width {width} in {self.name}"
            )
        self._held = _Held(prompts)

    @property
    def prompts(self) -> Tensor:
        """The vision prompts, (J, m, V)."""
        return self._held.prompts

    def encode_image(self, images: Tensor, patches: bool = False) -> ImageFeatures:
        """Global and local features of the prompted tower, of the plain one's shapes; see the base class."""
        return image_towers.vit_features(self.model.visual, self.fitting(images), patches, self.prompts)


def vision_prompts(backbone: Backbone) -> Tensor | None:
    """The prompts in a backbone's image tower, (J, m, V); None for a plain one."""
    return backbone.prompts if isinstance(backbone, PromptedClip) else None
