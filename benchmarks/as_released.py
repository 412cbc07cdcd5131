"""The methods as they are commonly run: every copy, every padding token, every image in its own pass.

Written from the formulas in `docs/method.md` on an unmodified `clip` model. These are what our trainers are compared
with: in the tests for equality, in `benchmarks/steps.py` for time. Nothing here is meant to be fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def text_features(model: Any, embeddings: Tensor, tokens: Tensor) -> Tensor:
    """The text encoder from token embeddings, over all 77 positions.

    Args:
        model: an OpenAI CLIP.
        embeddings: (N, 77, W).
        tokens: (N, 77), whose highest number marks the end.

    Returns:
        (N, D).
    """
    x = (embeddings + model.positional_embedding).permute(1, 0, 2)  # (77, N, W)
    x = model.ln_final(model.transformer(x).permute(1, 0, 2))
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


def image_tokens(visual: Any, images: Tensor) -> Tensor:
    """All tokens of a vision transformer, projected: (B, 1 + T, D), the global one first."""
    x = visual.conv1(images).flatten(2).permute(0, 2, 1)  # (B, T, width)
    start = visual.class_embedding.expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([start, x], dim=1) + visual.positional_embedding)
    x = visual.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    return visual.ln_post(x) @ visual.proj


class PlainCoOp(nn.Module):
    """CoOp with a generic context before the class names."""

    def __init__(self, model: Any, prompts: Tensor, context: Tensor) -> None:
        """Takes tokenised prompts (C, 77) whose first context words stand where `context` (n, W) goes."""
        super().__init__()
        self.model, self.prompts = model, prompts
        self.ctx = nn.Parameter(context.clone())
        self.embedding = model.token_embedding(prompts).detach()

    def embeddings(self, ctx: Tensor) -> Tensor:
        """The prompts' input embeddings (C, 77, W) with `ctx` (n, W) in place."""
        n = len(ctx)
        e = self.embedding
        return torch.cat([e[:, :1], ctx.expand(len(e), -1, -1), e[:, 1 + n :]], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, C)."""
        f = F.normalize(self.model.encode_image(images), dim=-1)
        t = F.normalize(text_features(self.model, self.embeddings(self.ctx), self.prompts), dim=-1)
        return self.model.logit_scale.exp() * f @ t.T


class PlainCoCoOp(PlainCoOp):
    """CoCoOp, one image at a time: the context is shifted by a small network of the image."""

    def __init__(self, model: Any, prompts: Tensor, context: Tensor) -> None:
        """As in `PlainCoOp`."""
        super().__init__(model, prompts, context)
        D, W = model.text_projection.shape[1], context.shape[1]
        self.meta_net = nn.Sequential(nn.Linear(D, D // 16), nn.ReLU(inplace=True), nn.Linear(D // 16, W))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, C)."""
        f = F.normalize(self.model.encode_image(images), dim=-1)
        rows = []
        for image in f:
            embeddings = self.embeddings(self.ctx + self.meta_net(image))
            t = F.normalize(text_features(self.model, embeddings, self.prompts), dim=-1)
            rows.append(self.model.logit_scale.exp() * image @ t.T)
        return torch.stack(rows)


class PlainReleasedXCoOp(nn.Module):
    """The released XCoOp with all its copies: M image passes, N prompts a class, encoded twice a step."""

    def __init__(
        self, model: Any, prompts: Tensor, clinical: Tensor, n: int, N: int, M: int, weights: Sequence[float]
    ) -> None:
        """Takes tokenised prompts (C, 77) with n context words, and clinical sentences (C, 77)."""
        super().__init__()
        self.model, self.N, self.M, self.weights = model, N, M, weights
        self.C = len(prompts)
        self.prompts = prompts.repeat(N, 1)  # row k * C + c
        self.embedding = model.token_embedding(self.prompts).detach()
        self.ctx = nn.Parameter(self.embedding[:, 1 : 1 + n].clone())
        self.hard_embedding = model.token_embedding(clinical.repeat(N, 1)).detach()
        with torch.no_grad():
            self.hard = text_features(model, self.hard_embedding, clinical.repeat(N, 1))

    def trained(self) -> list[nn.Parameter]:
        """The contexts and the norm layers of the image transformer's blocks."""
        blocks = self.model.visual.transformer.resblocks
        return [self.ctx] + [p for block in blocks for norm in (block.ln_1, block.ln_2) for p in norm.parameters()]

    def embeddings(self) -> Tensor:
        """Input embeddings of all copies, (N * C, 77, W)."""
        n = self.ctx.shape[1]
        return torch.cat([self.embedding[:, :1], self.ctx, self.embedding[:, 1 + n :]], dim=1)

    def logits(self, images: Tensor) -> Tensor:
        """Logits with the batch mixing, (B, C)."""
        B, C, N, M = len(images), self.C, self.N, self.M
        tokens = image_tokens(self.model.visual, images.repeat(M, 1, 1, 1))
        tokens = F.normalize(tokens, dim=-1).view(M, B, -1, tokens.shape[-1])
        t = F.normalize(text_features(self.model, self.embeddings(), self.prompts), dim=-1).view(N, C, -1)
        similarity = tokens[:, None] @ t.transpose(1, 2)[None, :, None]  # (M, N, B, 1 + T, C)
        whole = similarity[..., 0, :].sum((0, 1))  # (B, C)
        parts = similarity[..., 1:, :].reshape(M, N, -1, B * C).mean(2).sum((0, 1)).view(B, C)
        return 0.125 * self.model.logit_scale.exp() * (whole + 0.01 * parts)

    def losses(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Image-text, prompt-level and token-level losses, weighted."""
        N, C = self.N, self.C
        first = F.cross_entropy(self.logits(images), labels)
        scale = self.model.logit_scale.exp()
        hard = F.normalize(self.hard, dim=-1)[None]  # (1, N * C, D)
        if torch.rand(1).item() < 0.5:
            hard = hard + 0.05 * torch.randn_like(hard)
        soft = text_features(self.model, self.embeddings(), self.prompts).view(N, C, -1).mean(0)
        soft = F.normalize(soft, dim=-1)[None]
        target = torch.arange(C, device=hard.device)[None]
        prompt = F.cross_entropy(scale * soft @ hard.view(N, C, -1).mean(0, keepdim=True).transpose(1, 2), target)
        soft_tokens = F.normalize(self.embeddings(), dim=-1).view(N, C, -1).mean(0, keepdim=True)
        hard_tokens = F.normalize(self.hard_embedding, dim=-1).view(N, C, -1).mean(0, keepdim=True)
        token = F.cross_entropy(scale * soft_tokens @ hard_tokens.transpose(1, 2), target)
        return [first, self.weights[0] * prompt, self.weights[1] * token]


class PlainSentences(nn.Module):
    """XCoOp (`docs/method.md`): sentences whose words are learned, all 77 positions, images encoded at every step."""

    own: Tensor
    start: Tensor

    def __init__(
        self,
        model: Any,
        sentences: Tensor,
        labels: Tensor,
        clinical: Tensor,
        *,
        spread: float,
        offset_spread: float,
        contrast: float,
        N: int,
    ) -> None:
        """Takes tokenised sentences (M, 77), the class of each (M,), and unit features (C, D) of clinical sentences.

        Beside them the prior's standard deviations of prompts and offsets in logits, the weight of the contrast, and
        the number of training images.
        """
        super().__init__()
        self.model, self.sentences, self.clinical = model, sentences, clinical
        self.spread, self.offset_spread, self.contrast, self.N = spread, offset_spread, contrast, N
        self.embedding = model.token_embedding(sentences).detach()
        place, end = torch.arange(sentences.shape[1], device=sentences.device), sentences.argmax(-1)
        self.learned = ((place > 0) & (place < end[:, None]))[..., None]  # (M, 77, 1): between start and end
        self.words = nn.Parameter(torch.zeros_like(self.embedding))
        self.offset = nn.Parameter(clinical.new_zeros(len(clinical)))
        belongs = F.one_hot(labels, len(clinical)).to(clinical)  # (M, C)
        self.own = belongs / belongs.sum(0)
        with torch.no_grad():
            self.start = self.prompts()

    def prompts(self) -> Tensor:
        """Unit features of the sentences, (M, D)."""
        embeddings = self.embedding + self.learned * self.words
        return F.normalize(text_features(self.model, embeddings, self.sentences), dim=-1)

    def losses(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Cross entropy, prior, and contrast."""
        scale, C = self.model.logit_scale.exp(), len(self.clinical)
        f, t = F.normalize(self.model.encode_image(images), dim=-1), self.prompts()
        first = F.cross_entropy(scale * (f @ t.T) @ self.own + self.offset, labels)
        moved = self.own.sum(1) @ (t - self.start).square().sum(-1)
        prior = scale**2 * moved / (2 * self.spread**2) + self.offset.square().sum() / (2 * self.offset_spread**2)
        classes = F.normalize(self.own.T @ t, dim=-1)
        target = torch.arange(C, device=labels.device)
        contrast = self.contrast * C * F.cross_entropy(scale * self.clinical @ classes.T, target)
        return [first, prior / self.N, contrast / self.N]
