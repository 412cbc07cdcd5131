"""OpenAI's CLIP models, from the unmodified `clip` package, with a ViT or a ResNet as image tower.

The towers are evaluated from the model's own modules: no hook is set and none replaced. A view of a model has learned
tokens in its image tower, and its text tower takes some layer by layer, for methods with deep prompts; another view has
something added to the queries, keys and values of both. Models of other families become such models (`Making`).
Symbols: N texts, L tokens, W text width, n context tokens; B images, T patches, V width of the image tower, m vision
prompts; D joint width; J layers with prompts; h heads, d width of a head.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xcoop.backbones.base import Backbone, ImageFeatures, TextLimits, Wanted, register_backbone
from xcoop.backbones.clip_model import fetch_openai, import_clip, read_clip
from xcoop.backbones.held import held
from xcoop.backbones.making import CLIP_MEAN, CLIP_STD, OPENAI, WIDTH, Making, tower_words
from xcoop.backbones.resnet import resnet_map, resnet_pooled
from xcoop.backbones.saving import recomputed
from xcoop.backbones.vit import AdaptedAttention, run_block, text_prompted, vit_projected, vit_prompted, vit_tokens
from xcoop.backbones.weight_files import weights_file
from xcoop.utils.console import SHOWN

if TYPE_CHECKING:
    from typing_extensions import Self

# What OpenAI published under each name: layers, width, patch (0: a ResNet) and pixels of the image tower, the widths of
# joint space and text tower (Radford et al., ICML 2021, arXiv 2103.00020, tables 19 and 20).
PUBLISHED = {
    "RN50": ((3, 4, 6, 3), 64, 0, 224, 1024, 512),
    "RN101": ((3, 4, 23, 3), 64, 0, 224, 512, 512),
    "RN50x4": ((4, 6, 10, 6), 80, 0, 288, 640, 640),
    "RN50x16": ((6, 8, 18, 8), 96, 0, 384, 768, 768),
    "RN50x64": ((3, 15, 36, 10), 128, 0, 448, 1024, 1024),
    "ViT-B/32": (12, 768, 32, 224, 512, 512),
    "ViT-B/16": (12, 768, 16, 224, 512, 512),
    "ViT-L/14": (24, 1024, 14, 224, 768, 768),
    "ViT-L/14@336px": (24, 1024, 14, 336, 768, 768),
}
NAMES = tuple(PUBLISHED)
RESNETS = tuple(name for name in NAMES if name.startswith("RN"))

logger = logging.getLogger(__name__)


def described(
    layers: object, width: int, patch: int, pixels: int, joint: int, text: int, depth: int = 12, length: int = 77
) -> str:
    """The architecture of a CLIP in words; `depth` and `length` are the text tower's layers and tokens."""
    tower = f"ViT of {layers} layers, width {width}, patch {patch}"
    tower = tower if patch else f"ResNet of {layers} blocks, width {width}"
    return f"{tower}, {pixels} pixels; text of {depth} layers, width {text}, {length} tokens; joint width {joint}"


def count_tokens(text: str) -> int:
    """How many tokens CLIP's own tokenizer makes of a text, start and end included."""
    return len(import_clip().clip._tokenizer.encode(text)) + 2


TEXT = TextLimits(context_length=77, count_tokens=count_tokens)


def openai_file(name: str, wanted: Wanted) -> Path:
    """The file of weights: the local one that is named (FileNotFoundError if it is not there), else `fetch_openai`."""
    return weights_file(wanted.path) if wanted.path else fetch_openai(name)


@register_backbone(*NAMES, text=TEXT, fetch=openai_file)
def load_openai(name: str, wanted: Wanted) -> Backbone:
    """OpenAI's weights of that name, or those of a local file; a file's shapes decide the model, not the name.

    A file of another architecture is taken, since only these names are to be had; it is said, here and in the record.
    A state dict in OpenAI's layout does not say with which activation and heads it was trained: it is taken to be as
    OpenAI's models are, unless the config says otherwise, and that is said, too.
    """
    file = openai_file(name, wanted)
    making = OPENAI.stated(wanted.activation, wanted.head_width)
    taken = f"{making.image.activation}, heads of width {making.image.head_width}"
    making = replace(making, source=f"{file.name} (as OpenAI's models: {taken})" if wanted.path else name)
    backbone = ClipBackbone(name, read_clip(file, making), making=making)
    if not backbone.fits_name:
        logger.warning(
            "MODEL.BACKBONE.NAME is %s (%s), but %s holds another architecture (%s): it is used, and recorded as such",
            name, described(*PUBLISHED[name]), file, backbone.architecture,
        )  # fmt: skip
    elif wanted.path:
        logger.info("%s holds %s, as %s has it", file, backbone.architecture, name)
    if wanted.path:
        logger.info(
            "%s is read with %s, which its weights do not tell: MODEL.BACKBONE.ACTIVATION and HEAD_WIDTH say otherwise",
            file, taken,
        )  # fmt: skip
    return backbone


class ClipBackbone(Backbone):
    """Any model of OpenAI's `clip` package, with a ViT or a ResNet as its image tower."""

    pixel_mean = CLIP_MEAN
    pixel_std = CLIP_STD
    prompts: Tensor | None = None  # learned tokens in the image tower, (J, m, V)

    def __init__(
        self, name: str, model: Any, trained_ids: Sequence[int] | None = None, making: Making = OPENAI
    ) -> None:
        """Wraps a model without changing it.

        Args:
            name: what it is called.
            model: a `clip.model.CLIP`; of `build_clip` with the same making.
            trained_ids: the tokens whose embeddings were trained; None: all.
            making: images, lengths and origin, which the model does not have itself.
        """
        super().__init__()
        self.name = name
        self.model = model
        self.pixel_mean, self.pixel_std = making.pixel_mean, making.pixel_std
        self.family, self.source = making.family, making.source
        self.trained_ids = None if trained_ids is None else frozenset(trained_ids)
        self.is_vit = hasattr(model.visual, "transformer")
        self.input_size = int(model.visual.input_resolution)
        self.context_length = making.context_length or int(model.context_length)
        self.text_width, self.embed_dim = model.text_projection.shape
        side = self.input_size // (model.visual.conv1.kernel_size[0] if self.is_vit else 32)
        self.grid = (side, side)
        self.training = model.training  # of a view of a model that is in evaluation mode nothing is gone through
        self.eval()

    @property
    def architecture(self) -> str:
        """What the weights are of; see `described`."""
        visual, text = self.model.visual, self.model.transformer
        layers: object = len(self.image_blocks)
        width, patch = visual.conv1.out_channels, visual.conv1.kernel_size[0]
        if not self.is_vit:
            layers, width, patch = tuple(map(len, self.image_blocks)), visual.layer1[0].conv1.out_channels, 0
        joint, length = int(self.embed_dim), int(self.model.context_length)
        words = described(layers, width, patch, self.input_size, joint, self.text_width, text.layers, length)
        return f"{words}; {self.untold()}" if self.untold() else words

    def untold(self) -> str:
        """In what its towers compute otherwise than OpenAI's, as far as no name of a weight tells; see the base."""
        visual = self.model.visual
        if self.is_vit:
            image = tower_words(visual.transformer)
        else:
            heads, width = visual.attnpool.num_heads, visual.attnpool.c_proj.in_features
            image = "" if heads * WIDTH == width else f"{heads} heads of width {width // heads}"
        towers = {"image": image, "text": self.text_words()}
        return "; ".join(f"{whose} tower with {words}" for whose, words in towers.items() if words)

    def text_words(self) -> str:
        """The text tower's part of `untold`."""
        return tower_words(self.model.transformer)

    @property
    def fits_name(self) -> bool:
        """Whether the weights are of the architecture that is published under their name, if any is."""
        return self.name not in PUBLISHED or self.architecture == described(*PUBLISHED[self.name])

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def image_blocks(self) -> list[Any]:
        """The image tower's blocks, first to last: attention blocks of a ViT, the four stages of a ResNet."""
        visual = self.model.visual
        if self.is_vit:
            return list(visual.transformer.resblocks)
        return [visual.layer1, visual.layer2, visual.layer3, visual.layer4]

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        return import_clip().tokenize(self.fitting(texts), context_length=self.context_length).long()

    def fitting(self, texts: str | Sequence[str]) -> list[str]:
        """The texts; ValueError if one of them has more tokens than fit."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        for text in texts:
            if (count := self.count_tokens(text)) > self.context_length:
                # A prompt ends with what tells it from others, the class: both ends are shown.
                ends = repr(text) if len(text) <= SHOWN else f"{text[: SHOWN // 2]!r} ... {text[-SHOWN // 2 :]!r}"
                raise ValueError(f"{count} tokens, but {self.name} takes {self.context_length}: {ends}")
        return texts

    def count_tokens(self, text: str) -> int:
        return count_tokens(text)

    def decode(self, ids: Sequence[int] | Tensor) -> list[str]:
        """The text of each single token id, without the mark of a word's end."""
        ids = ids.tolist() if isinstance(ids, Tensor) else ids
        tokenizer = import_clip().clip._tokenizer
        return [tokenizer.decode([int(index)]).strip() for index in ids]

    def vocabulary(self) -> tuple[list[str], Tensor]:
        """CLIP's tokens that end a word and are made of letters alone; see the base class.

        The tokenizer does not tell a word from an ending that is a token as well ("osis"), so endings are among them.
        Left out are tokens that were not trained, and those whose embedding is constant (all zero, say): in a file
        such rows stand for tokens that nobody needed.
        """
        table = self.model.token_embedding.weight  # (vocabulary, W)
        varied = (table != table[:, :1]).any(dim=1).tolist()
        decoder = import_clip().clip._tokenizer.decoder
        # A word's end alone does not make a word: some of these pieces are single bytes of a longer letter.
        ends = [index for index, piece in decoder.items() if piece.endswith("</w>") and index < len(varied)]
        ids = [i for i in sorted(ends) if varied[i] and (self.trained_ids is None or i in self.trained_ids)]
        words = {index: word for index, word in zip(ids, self.decode(ids), strict=True) if word.isalpha()}
        return list(words.values()), torch.tensor(list(words), dtype=torch.int64, device=table.device)

    def end_positions(self, tokens: Tensor) -> Tensor:
        """The end token has the highest id of all."""
        return tokens.argmax(dim=-1)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.model.token_embedding(tokens).to(self.dtype)

    def encode_embeddings(self, embeddings: Tensor, end: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Text features; see the base class, and `end_states`."""
        return self.project_text(self.end_states(embeddings, end, prompts))

    def project_text(self, states: Tensor) -> Tensor:
        return states @ self.model.text_projection

    def end_states(self, embeddings: Tensor, end: Tensor, prompts: Tensor | None = None) -> Tensor:
        """The end tokens' states over the shortest prefix that holds them all; see the base class.

        Attention is causal, so nothing after an end token can reach it: cropping is exact. The modules are called in
        the order of CLIP's `encode_text` and `ResidualAttentionBlock.forward`; the mask is not the one that each block
        keeps, which is of full length and which OpenAI's and CoOp's copies of `clip` do not crop to their input.

        Args:
            embeddings: (N, L, W), without positions; with prompts, the context stands right behind the start token.
            end: (N,) int64, the index of each end token.
            prompts: (J, n, W), the context tokens of the second block to block 1 + J; None: they are never replaced.

        Raises:
            ValueError: an end token lies outside the embeddings, or beyond the model's context.
        """
        x = self.placed(embeddings, end)  # (N, L, W)
        for index, block in enumerate(self.model.transformer.resblocks):
            x = run_block(block, text_prompted(x, prompts, index), causal=True)
        states: Tensor = self.model.ln_final(x[torch.arange(len(end), device=x.device), end])  # (N, W)
        return states

    def placed(self, embeddings: Tensor, end: Tensor) -> Tensor:
        """Embeddings with their positions, (N, L, W), over the shortest prefix that holds all end tokens.

        Args:
            embeddings: (N, L, W), without positions.
            end: (N,) int64.

        Raises:
            ValueError: an end token lies outside the embeddings, or beyond the model's context.
        """
        cropped = self.cropped(embeddings, end)
        return cropped + self.model.positional_embedding[: cropped.shape[1]].to(self.dtype)

    def cropped(self, embeddings: Tensor, end: Tensor) -> Tensor:
        """Embeddings over the shortest prefix that holds all end tokens; see `placed`."""
        return embeddings[:, : self.needed(embeddings.shape[1], end)].to(self.dtype)

    def filled(self, embeddings: Tensor, end: Tensor, padding: int) -> Tensor:
        """Embeddings of the full length, with padding behind each end: for a tower that sees the padding.

        Args:
            embeddings: (N, L, W), without positions; what they have behind an end does not count.
            end: (N,) int64.
            padding: its id.

        Returns:
            (N, context_length, W).
        """
        x = self.cropped(embeddings, end)
        behind = self.embed(torch.full((1, 1), padding, device=x.device))  # (1, 1, W)
        x = torch.cat([x, behind.expand(len(x), self.context_length - x.shape[1], -1)], dim=1)
        own = torch.arange(self.context_length, device=x.device) <= end.to(x.device)[:, None]
        return torch.where(own[..., None], x, behind)

    def needed(self, length: int, end: Tensor) -> int:
        """How many of so many embeddings hold all end tokens; see `placed`. To look would have to wait for a GPU."""
        if end.device.type != "cpu" and length < self.context_length:  # they are cropped
            return length
        needed = int(end.max()) + 1
        if needed > min(length, self.context_length) or int(end.min()) < 0:
            raise ValueError(
                f"end tokens at {end.tolist()} do not lie within {length} embeddings "
                f"and a context of {self.context_length} tokens"
            )
        return needed

    def encode_image(self, images: Tensor, patches: bool = False) -> ImageFeatures:
        """Global and local features; see the base class.

        Raises:
            ValueError: images of another size.
        """
        if images.shape[-3:] != (3, self.input_size, self.input_size):
            raise ValueError(
                f"images of shape {tuple(images.shape[-3:])}, but {self.name} takes (3, {self.input_size}, "
                f"{self.input_size}): set INPUT.SIZE to ({self.input_size}, {self.input_size})"
            )
        visual, images = self.model.visual, images.to(self.dtype)
        if not self.is_vit:
            return resnet_pooled(visual, resnet_map(visual, images), patches)
        x = vit_tokens(visual, images)
        own = x.shape[1]
        for index, block in enumerate(self.image_blocks):
            x = vit_prompted(visual, x, own, self.prompts, index)
            x = recomputed(run_block, block, x) if self.recompute else run_block(block, x)
        return vit_projected(visual, x[:, :own], patches)

    def image_norms(self) -> list[nn.Parameter]:
        """`ln_1` and `ln_2` of each block of a ViT; `ln_pre` and `ln_post` stay as they are."""
        if not self.is_vit:
            raise ValueError(
                f"{self.name} has a ResNet for its image tower, without layer norms to tune: "
                "choose a ViT, or turn the tuning of norm layers off"
            )
        norms = [getattr(block, name) for block in self.image_blocks for name in ("ln_1", "ln_2")]
        return [parameter for norm in norms for parameter in (norm.weight, norm.bias)]

    def held_in(self, dtype: torch.dtype) -> Self:
        view: Self = _sharing(self, model=held(self.model, dtype))
        return view

    def with_prompts(self, prompts: Tensor) -> Self:
        """A view that shares all modules, with prompts in the first J blocks of its image tower, which is a ViT.

        Args:
            prompts: (J, m, V), part of the graph; see `vit_prompted`.

        Raises:
            ValueError: more layers than the tower has, or another width.
        """
        blocks, width = len(self.image_blocks), len(self.model.visual.conv1.weight)
        if prompts.dim() != 3 or len(prompts) > blocks or prompts.shape[2] != width:
            raise ValueError(
                f"vision prompts of shape {tuple(prompts.shape)} for {blocks} blocks of width {width} in {self.name}"
            )
        view: Self = _sharing(self)
        view.__dict__["prompts"] = prompts  # a view does not own them: they are not among its parameters
        return view

    def with_added(
        self, text: Sequence[Callable[[Tensor], Tensor]], image: Sequence[Callable[[Tensor], Tensor]]
    ) -> Self:
        """A view that shares all tensors, with something added to the attention of all blocks; the images' are a ViT's.

        Args:
            text: one a block of the text tower; see `AdaptedAttention`.
            image: one a block of the image tower.
        """
        model = self.model
        visual = _sharing(model.visual, transformer=_adapted(model.visual.transformer, image))
        changed = _sharing(model, transformer=_adapted(model.transformer, text), visual=visual)
        view: Self = _sharing(self, model=changed)
        return view

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Keeps in fp32 what CLIP keeps in fp32 in half precision too.

        CLIP's LayerNorm computes in fp32 and needs fp32 weights; batch statistics and the logit scale lose digits
        that matter.
        """
        norms = [module for module in self.model.modules() if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d))]
        tensors = [tensor for norm in norms for tensor in (*norm.parameters(), *norm.buffers())]
        kept = {id(tensor) for tensor in (*tensors, self.model.logit_scale)}

        def convert(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            return tensor.to(new.device) if id(tensor) in kept and new.dtype != torch.float32 else new

        return super()._apply(convert, recurse)


def _adapted(transformer: Any, added: Sequence[Callable[[Tensor], Tensor]]) -> Any:
    """A tower's `clip.model.Transformer` with something added in each block."""
    pairs = zip(transformer.resblocks, added, strict=True)
    blocks = [_sharing(block, attn=AdaptedAttention(block.attn, more)) for block, more in pairs]
    return _sharing(transformer, resblocks=nn.Sequential(*blocks))


def _sharing(module: nn.Module, **replaced: nn.Module) -> Any:
    """A copy of a module with its own tensors and modules, but for those that are replaced."""
    own = copy.copy(module)
    own._modules = {**module._modules, **replaced}
    return own


def vision_prompts(backbone: Backbone) -> Tensor | None:
    """The prompts in a backbone's image tower, (J, m, V); None for a plain one."""
    return backbone.prompts if isinstance(backbone, ClipBackbone) else None


def require_vit(backbone: Backbone, method: str) -> ClipBackbone:
    """The backbone, if a method can work inside both towers: put tokens among theirs, add to their attention.

    Raises:
        ValueError: its image tower is a ResNet, or its blocks are not OpenAI's.
    """
    if not isinstance(backbone, ClipBackbone):
        raise ValueError(f"{method} works inside the blocks of OpenAI's CLIP; {backbone.name} is built otherwise")
    if not backbone.is_vit:
        raise ValueError(no_tokens(backbone.name, method))
    return backbone


def no_tokens(name: str, method: str) -> str:
    """The message for a ResNet."""
    return (
        f"{method} works inside the blocks of a vision transformer; {name} has a ResNet for its image tower: "
        "choose a ViT, e.g. ViT-B/16"
    )
