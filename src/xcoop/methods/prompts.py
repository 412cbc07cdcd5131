"""The learnable prompts: context vectors round the tokens of a class name.

Symbols: C classes, K prompts a class, n context tokens, L tokens, W text width. The layout is CoOp's (Zhou et al.,
"Learning to Prompt for Vision-Language Models", arXiv 2109.01134): `[start] context name . [end]`, with the name at
the end, in the middle or at the front of the context.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xcoop.backbones import Backbone

logger = logging.getLogger(__name__)

POSITIONS = ("end", "middle", "front")


def random_context(*shape: int, std: float = 0.02) -> Tensor:
    """Context vectors drawn from N(0, std^2), as CoOp starts them.

    Args:
        shape: (n, W), (C, n, W) or (K, C, n, W).
        std: standard deviation; 0.02 is that of CLIP's own token embeddings.
    """
    return torch.empty(*shape).normal_(std=std)


def context_from_words(backbone: Backbone, words: str) -> Tensor:
    """The token embeddings of some words, (n, W); n is how many tokens they make.

    Args:
        backbone: gives tokenizer and embeddings.
        words: e.g. `a_photo_of_a`; underscores stand for spaces.
    """
    words = words.replace("_", " ")
    n = backbone.count_tokens(words) - 2  # without start and end
    with torch.no_grad():
        return backbone.embed(_tokens(backbone, [words]))[0, 1 : 1 + n].clone()


def start_context(backbone: Backbone, words: str, n_ctx: int, *leading: int) -> Tensor:
    """The context that CoOp's keys ask for: the words of CTX_INIT, or random vectors.

    Args:
        backbone: gives tokenizer, embeddings and width.
        words: CTX_INIT; "" for random vectors.
        n_ctx: N_CTX; words decide for themselves how many tokens they are.
        leading: for random vectors, the axes before (n, W), e.g. C for class-specific contexts.
    """
    if not words:
        return random_context(*leading, n_ctx, backbone.text_width)
    context = context_from_words(backbone, words)
    if len(context) != n_ctx:
        logger.info("CTX_INIT %r makes %d context tokens; N_CTX %d is not used", words, len(context), n_ctx)
    return context


class PromptLearner(nn.Module):
    """Contexts to be learned, in place between start token and class name.

    Args:
        backbone: gives tokens and their embeddings; it is not kept.
        classnames: underscores stand for spaces.
        context: where the context starts: (n, W) one for all classes, (C, n, W) one a class, or (K, C, n, W); also
            (K, 1, n, W), K for all classes.
        position: of the class name: after the context (`end`), in its `middle`, or before it (`front`).
        full_length: keep all 77 positions; otherwise those up to the last end token.

    Raises:
        ValueError: an unknown position, a context that doesn't fit the classes, or a prompt that is too long.
    """

    ctx: nn.Parameter
    token_prefix: Tensor
    token_suffix: Tensor
    end: Tensor
    order: Tensor

    def __init__(
        self,
        backbone: Backbone,
        classnames: Sequence[str],
        context: Tensor,
        position: str = "end",
        full_length: bool = False,
    ) -> None:
        super().__init__()
        if position not in POSITIONS:
            raise ValueError(f"class token position {position!r}; known: {', '.join(POSITIONS)}")
        if context.dim() > 2 and context.shape[-3] not in (1, len(classnames)):
            raise ValueError(f"context of shape {tuple(context.shape)} for {len(classnames)} classes")
        self.classnames = [name.replace("_", " ") for name in classnames]
        self.position = position
        self.n_ctx = context.shape[-2]
        self.ctx = nn.Parameter(context.detach().clone())
        self._embed_frame(backbone, full_length)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The prompts as embeddings, (..., L, W), and where their end tokens stand, (...,).

        The leading axes are (C,), or (K, C) for K prompts a class.
        """
        return self.assemble(self.ctx)

    def assemble(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Puts a context in place.

        Args:
            context: (n, W), or (..., C or 1, n, W).

        Returns:
            Embeddings (..., C, L, W) and the positions of their end tokens (..., C).
        """
        leading = (*context.shape[:-3], len(self.classnames))  # (..., C)
        context = context.expand(*leading, *context.shape[-2:])
        prefix = self.token_prefix.expand(*leading, -1, -1)
        suffix = self.token_suffix.expand(*leading, -1, -1)
        prompts = torch.cat([prefix, context, suffix], dim=-2)  # (..., C, L, W), the name at the end
        if self.position != "end":
            index = self.order[..., None].expand(prompts.shape)
            prompts = prompts.gather(-2, index)
        return prompts, self.end.expand(leading)

    def _embed_frame(self, backbone: Backbone, full_length: bool) -> None:
        """Embeds what stands round the context: the start token, and names, full stops and end tokens."""
        placeholders = " ".join(["X"] * self.n_ctx)  # one token each; the context takes their places
        tokens = _tokens(backbone, [f"{placeholders} {name}." for name in self.classnames])  # (C, 77)
        end = backbone.end_positions(tokens)  # (C,)
        length = tokens.shape[1] if full_length else int(end.max()) + 1
        with torch.no_grad():
            embeddings = backbone.embed(tokens)[:, :length]  # (C, L, W)
        names = [backbone.count_tokens(name) - 2 for name in self.classnames]
        order = torch.tensor([_order(self.position, self.n_ctx, name, length) for name in names])
        # CoOp's names for these two; they are made anew from the class names, never stored.
        self.register_buffer("token_prefix", embeddings[:, :1].clone(), persistent=False)  # (C, 1, W)
        self.register_buffer("token_suffix", embeddings[:, 1 + self.n_ctx :].clone(), persistent=False)
        self.register_buffer("end", end, persistent=False)
        self.register_buffer("order", order.to(end.device), persistent=False)  # (C, L)


def _tokens(backbone: Backbone, texts: list[str]) -> Tensor:
    """Token ids (N, 77) where the backbone is."""
    return backbone.tokenize(texts).to(backbone.logit_scale.device)


def _order(position: str, n_ctx: int, n_name: int, length: int) -> list[int]:
    """Which place of `[start] context name rest` comes at each place of the prompt."""
    context = list(range(1, 1 + n_ctx))
    name = list(range(1 + n_ctx, 1 + n_ctx + n_name))
    before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    rest = list(range(1 + n_ctx + n_name, length))
    return [0, *context[:before], *name, *context[before:], *rest]
