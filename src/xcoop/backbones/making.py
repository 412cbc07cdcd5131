"""What the weights of a CLIP do not tell of how it computes: a family's adapter states it, nothing is guessed.

The same weights give other features with another activation, or with heads of another width, and no shape tells which
it was trained with.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # clip.clip._transform
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
QUICK_GELU = "quick_gelu"
ACTIVATIONS = (QUICK_GELU, "gelu", "gelu_tanh")
WIDTH, EPS = 64, 1e-5  # OpenAI's: of a head, and of the layer norms


@dataclass(frozen=True)
class Tower:
    """How the blocks of one tower compute.

    Attributes:
        activation: one of `ACTIVATIONS`.
        heads: of the attention; 0: as many as there are heads of `head_width` in the tower's width.
        head_width: of each head, where `heads` is 0.
        eps: of the layer norms.
    """

    activation: str = QUICK_GELU
    heads: int = 0
    head_width: int = WIDTH
    eps: float = EPS

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"the activation {self.activation!r} is not known; known are {', '.join(ACTIVATIONS)}")

    def heads_of(self, width: int, whose: str) -> int:
        """How many heads a tower of that width has.

        Args:
            width: V or W.
            whose: the tower in words, for the message.

        Raises:
            ValueError: the width does not consist of that many heads, or of heads that wide.
        """
        heads = self.heads or (width // self.head_width)
        if not 1 <= heads <= width or width % heads or not (self.heads or heads * self.head_width == width):
            found = f"{self.heads} heads" if self.heads else f"heads of width {self.head_width}"
            raise ValueError(
                f"{whose} has width {width}, which does not consist of {found}: "
                "set MODEL.BACKBONE.HEAD_WIDTH to the width of its heads"
            )
        return heads


@dataclass(frozen=True)
class Making:
    """How a CLIP in OpenAI's layout computes, and where it comes from; the defaults are OpenAI's own.

    Attributes:
        image: the image tower; of a ResNet, the heads of its pool.
        text: the text tower.
        has_ln_pre: whether a ViT normalises its tokens before the first block.
        context_length: tokens that a text may have; 0: as many as there are positions.
        pixel_mean: of the images that it was trained on, RGB in [0, 1].
        pixel_std: their deviation.
        family: whose model it is, in words.
        source: what was loaded, for messages and the record: a file, a folder, a name on a hub.
    """

    image: Tower = field(default_factory=Tower)
    text: Tower = field(default_factory=Tower)
    has_ln_pre: bool = True
    context_length: int = 0
    pixel_mean: tuple[float, float, float] = CLIP_MEAN
    pixel_std: tuple[float, float, float] = CLIP_STD
    family: str = "OpenAI's CLIP"
    source: str = ""

    def stated(self, activation: str, head_width: int) -> Making:
        """This one, but for what a config states (MODEL.BACKBONE.ACTIVATION, HEAD_WIDTH; "" and 0: nothing)."""
        said: dict[str, Any] = {"activation": activation} if activation else {}
        said |= {"heads": 0, "head_width": head_width} if head_width else {}
        return replace(self, image=replace(self.image, **said), text=replace(self.text, **said))


OPENAI = Making()


def activation_module(name: str) -> nn.Module | None:
    """The module of an activation; None for OpenAI's, which its blocks have already."""
    if name == QUICK_GELU:
        return None
    return nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")


def tower_words(transformer: Any) -> str:
    """In what the blocks of a `clip.model.Transformer` compute otherwise than OpenAI's; "" if in nothing."""
    block = transformer.resblocks[0]
    found = []
    gelu, width, heads = block.mlp.gelu, transformer.width, block.attn.num_heads
    if isinstance(gelu, nn.GELU):
        found.append("gelu" if gelu.approximate == "none" else "gelu_tanh")
    if heads * WIDTH != width:
        found.append(f"{heads} heads of width {width // heads}")
    if block.ln_1.eps != EPS:
        found.append(f"layer norms of eps {block.ln_1.eps:g}")
    if (hidden := block.mlp.c_fc.out_features) != 4 * width:
        found.append(f"MLPs of width {hidden}")
    return ", ".join(found)
