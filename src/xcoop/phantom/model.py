"""The small CLIP in training: its settings, its towers, and its optimisers.

The towers are OpenAI's modules, evaluated with fewer passes over memory to the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xcoop.backbones.clip_model import build_clip, import_clip
from xcoop.backbones.openai import ClipBackbone
from xcoop.backbones.phantom import FULL, IDS, ROWS, untrained_rows
from xcoop.backbones.vit import QUICK, self_attention
from xcoop.phantom.tables import TABLES, all_sentences

VOCAB, CONTEXT = 49408, 77


@dataclass(frozen=True)
class Settings:
    """All that decides what a pretraining computes."""

    seed: int = 1  # of images, captions, initial weights and batches
    steps: int = 3600  # of the optimiser, unless `minutes` ends the run before
    minutes: float = 34.0  # the time after which the schedule is at its end, drawing left out; 0: no limit
    images: int = 20000  # drawn to train on
    derm_share: float = 0.5  # of the images, and of the steps, that are dermoscopic
    batch: int = 64  # images a step; all of one kind, as telling a chest from a lesion teaches nothing
    # Pixels a side of an image and of a patch: all that patches larger than 8 show would not fit into the width.
    size: int = 64
    patch: int = 8
    vision_width: int = 128
    vision_layers: int = 4
    text_width: int = 128
    text_layers: int = 3
    joint_width: int = 128
    see: float = 0.62  # the first part of the run, in which the image tower learns to name what is in an image
    speak: float = 0.22  # the part after it, in which the text tower learns to say so; in the rest, both learn
    rate: float = 3e-3  # of AdamW
    matrix_rate: float = 9e-3  # of Muon, for the matrices of the towers' blocks
    decay: float = 0.05
    warmup: int = 100  # steps
    # Weights of the loss's parts beside the captions': phrases, values, the same two with each image's best patches in
    # the place of its global feature, heads that name each concept's value (they teach the image tower, and are
    # dropped), and these heads on each patch, which shall name the concepts that lie in it.
    phrase_weight: float = 1.0
    value_weight: float = 1.0
    local_weight: float = 0.25
    head_weight: float = 1.0
    place_weight: float = 1.0
    captions: int = 24  # how many of a step's images come with their caption; phrases are stated for all of them


def to_pixels(images: np.ndarray, device: torch.device) -> Tensor:
    """Images (B, S, S, 3) uint8 to pixels (B, 3, S, S) in [0, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2) / 255


def normalise(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, S, S) in [0, 1] to the range that CLIP is fed with."""
    mean, std = (pixels.new_tensor(v)[:, None, None] for v in (ClipBackbone.pixel_mean, ClipBackbone.pixel_std))
    return (pixels - mean) / std


def image_tokens(visual: Any, pixels: Tensor) -> Tensor:
    """The global feature of each image, and then that of each patch, in the joint space.

    Args:
        visual: `clip.model.VisionTransformer`.
        pixels: (B, 3, S, S), normalised.

    Returns:
        (B, 1 + T, D), not of unit length; the first token equals `visual(pixels)`.
    """
    side = visual.conv1.weight.shape[-1]
    patches = F.unfold(pixels, side, stride=side).transpose(1, 2)  # (B, T, 3 * side * side)
    x = patches @ visual.conv1.weight.flatten(1).T + visual.positional_embedding[1:]  # (B, T, W)
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(pixels), 1, -1)
    x = visual.ln_pre(torch.cat([first, x], dim=1))  # (B, 1 + T, W)
    for block in visual.transformer.resblocks:
        x = _block(block, x, causal=False)
    return visual.ln_post(x) @ visual.proj


def text_features(clip: Any, embed: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """The unit feature (N, D) of each text, over the shortest prefix that holds every end token.

    Args:
        clip: `clip.model.CLIP`.
        embed: (N, L) token ids -> (N, L, W).
        tokens: (N, 77) token ids.
    """
    end = tokens.argmax(dim=1)
    tokens = tokens[:, : int(end.max()) + 1]
    x = embed(tokens) + clip.positional_embedding[: tokens.shape[1]]
    for block in clip.transformer.resblocks:
        x = _block(block, x, causal=True)
    x = clip.ln_final(x[torch.arange(len(x), device=x.device), end]) @ clip.text_projection
    return F.normalize(x, dim=-1)


def _block(block: Any, x: Tensor, causal: bool) -> Tensor:
    """One residual attention block, on (B, L, W)."""
    x = x + self_attention(block.attn, block.ln_1(x), causal)
    inner, outer = block.mlp.c_fc, block.mlp.c_proj
    # QuickGELU(h) = silu(1.702 h) / 1.702: one fused pass instead of three over the widest tensor there is.
    hidden = F.silu(F.linear(block.ln_2(x), inner.weight * QUICK, inner.bias * QUICK))
    return x + F.linear(hidden, outer.weight / QUICK, outer.bias)


class PhantomClip(nn.Module):
    """The CLIP in training: only the token embeddings that captions use are parameters."""

    ids: Tensor
    row_of: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        clip = import_clip()
        self._tokenize = clip.tokenize
        self.seed = settings.seed
        torch.manual_seed(settings.seed)
        self.clip: Any = clip.model.CLIP(
            settings.joint_width,
            settings.size,
            settings.vision_layers,
            settings.vision_width,
            settings.patch,
            CONTEXT,
            VOCAB,
            settings.text_width,
            settings.text_width // 64,
            settings.text_layers,
        )
        sentences = [sentence for kind in TABLES for sentence in all_sentences(kind)]
        ids = self._tokenize(sentences).flatten().unique()  # with padding, which a crop to the longest text may show
        self.register_buffer("ids", ids)
        self.register_buffer("row_of", torch.zeros(VOCAB, dtype=torch.long).scatter(0, ids, torch.arange(len(ids))))
        # The full table would cost more in the optimiser than all the rest of the model.
        self.rows = nn.Parameter(untrained_rows(VOCAB, settings.text_width, settings.seed)[ids])
        del self.clip.token_embedding
        # Contrast alone leaves a young image tower with nearly one feature for all images for a long time. Heads
        # that name the concepts' values wake it up within a few hundred steps.
        values = {kind: sum(map(len, table.values.values())) for kind, table in TABLES.items()}
        self.heads = nn.ModuleDict({kind: nn.Linear(settings.joint_width, count) for kind, count in values.items()})
        # A patch is asked by the same directions as the whole, but most patches hold nothing: biases of their own.
        self.place_biases = nn.ParameterDict({kind: torch.zeros(count) for kind, count in values.items()})
        positions = sincos_positions(settings.size // settings.patch, settings.vision_width)
        self.clip.visual.positional_embedding.data[1:] = positions

    @torch.no_grad()
    def whiten(self, pixels: Tensor, floor: float = 0.01) -> None:
        """Starts the patch embedding from the principal components of real patches, each about equally loud.

        In images a patch's mean colour is a hundred times as strong as any texture in it; from a random start, fine
        lines are drowned.

        Args:
            pixels: (B, 3, S, S), normalised.
            floor: added to the variance of each component, so that noise stays quiet.
        """
        weight = self.clip.visual.conv1.weight  # (W, 3, P, P)
        patches = F.unfold(pixels, weight.shape[-1], stride=weight.shape[-1]).transpose(1, 2).flatten(0, 1)
        variance, directions = torch.linalg.eigh((patches.T @ patches / len(patches)).double())
        rows = (directions / (variance + floor).sqrt()).T.flip(0)[: len(weight)]  # the strongest first
        weight.zero_()
        weight[: len(rows)] = rows.to(weight).unflatten(1, weight.shape[1:])

    def name_values(self, kind: str, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of every value of every concept, by the heads.

        Args:
            kind: "derm" or "chest".
            tokens: (B, 1 + T, D), the whole and the patches.

        Returns:
            (B, values) for the whole and (B, T, values) for the patches.
        """
        units = F.normalize(tokens, dim=-1) * math.sqrt(tokens.shape[-1])
        head: Any = self.heads[kind]
        return head(units[:, 0]), units[:, 1:] @ head.weight.T + self.place_biases[kind]

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) unit features; a text that is too long raises."""
        tokens = self._tokenize(list(texts)).to(self.rows.device)
        return text_features(self.clip, lambda ids: F.embedding(self.row_of[ids], self.rows), tokens)

    def export(self) -> dict[str, Tensor]:
        """OpenAI's state dict, with the trained token rows alone (`save_state_dict` takes it)."""
        state = {name: tensor.detach().clone() for name, tensor in self.clip.state_dict().items()}
        return state | {ROWS: self.rows.detach().clone(), IDS: self.ids.clone()}

    def backbone(self) -> ClipBackbone:
        """A copy of the model as it stands, with all token embeddings, to be asked like any other backbone."""
        state = self.export()
        rows, ids = state.pop(ROWS), state.pop(IDS)
        full = untrained_rows(VOCAB, rows.shape[1], self.seed).to(rows.device)
        full[ids] = rows
        return ClipBackbone("phantom", build_clip(state | {FULL: full}, "the model in training"))


def sincos_positions(grid: int, width: int) -> Tensor:
    """Sines and cosines of a patch's column and row, (grid * grid, width): near patches start out alike.

    After Vaswani et al. 2017, arXiv:1706.03762, in two dimensions and with periods that fit a small grid.
    """
    rates = math.pi / 2 / 30 ** (torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [place.reshape(-1, 1) * rates for place in (column, row)]
    return 0.5 * torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


class Muon(torch.optim.Optimizer):
    """Gradient descent whose step on a matrix is made orthogonal, so that rare directions are learned as fast.

    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); the scale of the step, with which one learning rate
    serves Muon and AdamW, is that of Liu et al. 2025, arXiv:2502.16982. For matrices alone; a matrix (3W, W) that packs
    query, key and value is taken as three. PyTorch's own (from 2.9 on) takes it as one, and orthogonalises in bfloat16.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, with the gradients that stand there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(mean, group["momentum"])  # Nesterov's
                rows, columns = ahead.shape
                parts = ahead.chunk(3) if rows == 3 * columns else (ahead,)
                step = torch.cat([_orthogonal(part) * math.sqrt(max(part.shape)) for part in parts])
                # 0.2 is the root mean square of AdamW's usual step.
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-0.2 * group["lr"])


def _orthogonal(matrix: Tensor) -> Tensor:
    """(M, N) -> (M, N): nearly the orthogonal factor U V' of U S V', with singular values of 0.7 to 1.2."""
    if matrix.shape[0] > matrix.shape[1]:
        return _orthogonal(matrix.T).T
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(5):  # Newton-Schulz; with this quintic, five steps bring all singular values near one
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def optimizers(model: nn.Module, decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the towers' blocks, AdamW for the rest.

    The towers are kept apart, as their rates differ. Matrices decay; norms, biases, embeddings and the temperature
    do not.
    """
    still = ("rows", "positional_embedding", "class_embedding", "logit_scale")
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim >= 2 and not name.endswith(still)
        sees = name.startswith(("clip.visual.", "heads.", "place_biases."))
        groups.setdefault((".resblocks." in name and matrix, matrix, sees), []).append(parameter)
    sorts: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for (in_block, matrix, sees), params in groups.items():
        own_decay = decay if matrix else 0.0
        sorts[in_block].append({"params": params, "weight_decay": own_decay, "sees": sees, "matrices": in_block})
    return [Muon(sorts[True]), torch.optim.AdamW(sorts[False], betas=(0.9, 0.98))]
