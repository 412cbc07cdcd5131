"""What a pretraining is made of: its settings, and the CLIP in training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize, unfold

from xcoop.backbones.clip_import import import_clip
from xcoop.phantom.captions import all_sentences
from xcoop.phantom.corpus import value_counts
from xcoop.phantom.probe import Reader
from xcoop.phantom.terms import KINDS
from xcoop.phantom.towers import text_features
from xcoop.phantom.weights import IDS, ROWS, untrained_rows

VOCAB, CONTEXT = 49408, 77


@dataclass(frozen=True)
class Settings:
    """All that decides what a pretraining computes.

    Attributes:
        seed: of pictures, captions, initial weights and batches.
        steps: optimiser steps, unless `minutes` ends the run before.
        minutes: the time after which the schedule is at its end, drawing left out; 0: no limit.
        images: pictures drawn to train on.
        derm_share: share of the pictures, and of the steps, that are dermoscopic.
        batch: pictures a step; all of one kind, as telling a chest from a lesion teaches nothing.
        size, patch: sides of a picture and of a patch in pixels. Patches of 8 keep fine lines: all that a larger one
            shows would not fit into the tower's width.
        vision_width, vision_layers, text_width, text_layers, joint_width: of the model.
        see: the first part of the run, in which the image tower learns to name what is in a picture.
        speak: the part after it, in which the text tower learns to say so; in the rest, both learn together.
        rate, matrix_rate: learning rates of AdamW, and of Muon for the matrices of the towers' blocks.
        decay, warmup: weight decay, and the steps of linear warm-up.
        phrase_weight, value_weight: of the loss's parts beside the captions'.
        local_weight: of the same two parts with each picture's best patches in the place of its global feature.
        head_weight: of linear heads that name each concept's value; they teach the image tower, and are dropped.
        place_weight: of the same heads on each patch, which shall name the concepts that lie in it.
        captions: how many of a step's pictures come with their caption; phrases are stated for all of them.
    """

    seed: int = 1
    steps: int = 3600
    minutes: float = 34.0
    images: int = 20000
    derm_share: float = 0.5
    batch: int = 64
    size: int = 64
    patch: int = 8
    vision_width: int = 128
    vision_layers: int = 4
    text_width: int = 128
    text_layers: int = 3
    joint_width: int = 128
    see: float = 0.62
    speak: float = 0.22
    rate: float = 3e-3
    matrix_rate: float = 9e-3
    decay: float = 0.05
    warmup: int = 100
    phrase_weight: float = 1.0
    value_weight: float = 1.0
    local_weight: float = 0.25
    head_weight: float = 1.0
    place_weight: float = 1.0
    captions: int = 24


class Student(nn.Module):
    """The CLIP in training: only the token embeddings that captions use are parameters.

    Args:
        settings: sizes and the seed of the initial weights.
    """

    ids: Tensor
    row_of: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        clip = import_clip()
        self._tokenize = clip.tokenize
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
        ids = self._used_ids()
        self.register_buffer("ids", ids)
        self.register_buffer("row_of", torch.zeros(VOCAB, dtype=torch.long).scatter(0, ids, torch.arange(len(ids))))
        # The full table would cost more in the optimiser than all the rest of the model.
        self.rows = nn.Parameter(untrained_rows(VOCAB, settings.text_width, settings.seed)[ids])
        del self.clip.token_embedding
        # Contrast alone leaves a young image tower with nearly one feature for all pictures for a long time. Heads
        # that name the concepts' values wake it up within a few hundred steps.
        self.heads = nn.ModuleDict({kind: nn.Linear(settings.joint_width, sum(value_counts(kind))) for kind in KINDS})
        # A patch is asked by the same directions as the whole, but most patches hold nothing: biases of their own.
        self.place_biases = nn.ParameterDict({kind: torch.zeros(sum(value_counts(kind))) for kind in KINDS})
        with torch.no_grad():
            self.clip.visual.positional_embedding[1:] = places(settings.size // settings.patch, settings.vision_width)

    @torch.no_grad()
    def whiten(self, pixels: Tensor, floor: float = 0.01) -> None:
        """Starts the patch embedding from the principal components of real patches, each about equally loud.

        In pictures a patch's mean colour is a hundred times as strong as any texture in it; from a random start, fine
        lines are drowned.

        Args:
            pixels: (B, 3, S, S), normalised.
            floor: added to the variance of each component, so that noise stays quiet.
        """
        weight = self.clip.visual.conv1.weight  # (W, 3, P, P)
        patches = unfold(pixels, weight.shape[-1], stride=weight.shape[-1]).transpose(1, 2).flatten(0, 1)
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
        units = normalize(tokens, dim=-1) * math.sqrt(tokens.shape[-1])
        head: Any = self.heads[kind]
        return head(units[:, 0]), units[:, 1:] @ head.weight.T + self.place_biases[kind]

    def tokenize(self, texts: list[str]) -> Tensor:
        """(N, 77) token numbers; a text that is too long raises."""
        return self._tokenize(texts)

    def embed(self, tokens: Tensor) -> Tensor:
        """(N, L) -> (N, L, W)."""
        return embedding(self.row_of[tokens], self.rows)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """(N, 77) -> (N, D) unit features, over the shortest prefix that holds every end token."""
        end = tokens.argmax(dim=1)
        tokens = tokens[:, : int(end.max()) + 1]
        return normalize(text_features(self.clip, self.embed(tokens), end), dim=-1)

    def export(self) -> dict[str, Tensor]:
        """OpenAI's state dict, with the trained token rows alone (`weights.save_state_dict` takes it)."""
        state = {name: tensor.detach().clone() for name, tensor in self.clip.state_dict().items()}
        return state | {ROWS: self.rows.detach().clone(), IDS: self.ids.clone()}

    def reader(self) -> Reader:
        """For `xcoop.phantom.probe`."""
        return Reader(self.clip, lambda texts: self.tokenize(list(texts)), self.embed)

    def _used_ids(self) -> Tensor:
        sentences = [sentence for kind in KINDS for sentence in all_sentences(kind)]
        # Padding is token 0, which a crop to the longest text may show.
        return self._tokenize(sentences).flatten().unique()


def places(grid: int, width: int) -> Tensor:
    """Sines and cosines of a patch's column and row, (grid * grid, width): near patches start out alike.

    After Vaswani et al. 2017, arXiv:1706.03762, in two dimensions and with periods that fit a small grid.
    """
    rates = math.pi / 2 / 30 ** (torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [place.reshape(-1, 1) * rates for place in (column, row)]
    return 0.5 * torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
