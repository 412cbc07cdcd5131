"""Which words of a prompt moved in training, how far, and towards what.

A learned sentence is its words' embeddings e_i plus what was learned, d_i. Said of each word:

    change      |d_i| / |e_i|
    towards     the word w of the vocabulary whose direction w - e_i is nearest to d_i, by its cosine; as the best of
                many words is near to any direction, beside the 95 % quantile of the best of random directions
    nearest     the word that is nearest to e_i + d_i: mostly the word itself

and of the sentence how far its feature moved, s |u(t) - u(t_0)| in logits, beside the 95 % quantile of the same where
every word changes by as much in a random direction.

Symbols: M prompts, n tokens of a sentence, N words of the vocabulary, W text width, s the inverse temperature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xcoop.backbones import Backbone
from xcoop.methods.alignment import unit
from xcoop.methods.model import PromptModel, Told

STILL = 0.01  # a change below which a word did not move
QUANTILE = 0.95
DRAWS = 20  # random changes of all prompts
DIRECTIONS = 200  # random directions of one word
_SEED = [0, 20261128]


@dataclass(frozen=True)
class WordChange:
    """What became of one word of a sentence; of a word of several tokens, `towards` is that of the one that moved most.

    Attributes:
        word: as the sentence has it.
        change: the length of what was learned, as a share of the length of its embedding.
        nearest: the word of the vocabulary that is nearest now; "" without a vocabulary.
        towards: the word that it moved towards; "" if it did not move, or without a vocabulary.
        cosine: of the change and that word's direction, in [-1, 1].
        by_chance: what the best word of a random direction seldom exceeds.
    """

    word: str
    change: float
    nearest: str = ""
    towards: str = ""
    cosine: float = 0.0
    by_chance: float = 0.0


@dataclass(frozen=True)
class SentenceChange:
    """What became of one prompt.

    Attributes:
        told: its class and concept.
        text: the sentence that it was.
        moved: how far its feature is from the sentence's, in logits.
        by_chance: what a random change of the same lengths seldom exceeds.
        words: in the order of the sentence, punctuation left out.
    """

    told: Told
    text: str
    moved: float
    by_chance: float
    words: tuple[WordChange, ...]

    @property
    def is_still(self) -> bool:
        """Whether no word moved."""
        return all(word.change < STILL for word in self.words)


@torch.no_grad()
def sentence_changes(model: PromptModel) -> list[SentenceChange]:
    """What became of every sentence of a model that learns words (`learned_sentences`); [] of others."""
    sentences = model.learned_sentences()
    if not sentences:
        return []
    backbone, changes = model.backbone, torch.cat([one.changes for one in sentences])
    start = unit(model.encode_changes(torch.zeros_like(changes)))  # (M, D)
    moved = model.scale * (unit(model.encode_changes(changes)) - start).norm(dim=1)  # (M,)
    rng = np.random.default_rng(_SEED)
    by_chance = []
    for _ in range(DRAWS if changes.any() else 1):
        drawn = torch.from_numpy(rng.standard_normal(changes.shape, dtype=np.float32)).to(changes)
        random = unit(drawn) * changes.norm(dim=1, keepdim=True)
        by_chance.append(model.scale * (unit(model.encode_changes(random)) - start).norm(dim=1))
    limits = torch.stack(by_chance).float().quantile(QUANTILE, dim=0)  # (M,)
    vocabulary = _Vocabulary(backbone)
    found = []
    for place, (one, told) in enumerate(zip(sentences, model.told, strict=True)):
        words = [
            _change(word, one.embeddings[tokens].float(), one.changes[tokens].float(), vocabulary)
            for word, tokens in split_words(backbone, one.text, len(one.changes))
        ]
        found.append(SentenceChange(told, one.text, float(moved[place]), float(limits[place]), tuple(words)))
    return found


def split_words(backbone: Backbone, text: str, tokens: int) -> list[tuple[str, slice]]:
    """The words of a sentence and their tokens, of which it has n in all; without punctuation.

    Where the tokenizer cuts the sentence otherwise than its words alone, each token stands for itself.
    """
    pieces = re.findall(r"\w+|[^\w\s]", text)
    counts = [backbone.count_tokens(piece) - 2 for piece in pieces]  # without start and end
    if sum(counts) != tokens:
        ids = backbone.tokenize(text)[0, 1 : 1 + tokens]
        pieces, counts = backbone.decode(ids), [1] * tokens
    ends = np.cumsum(counts).tolist()
    places = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    return [(piece, place) for piece, place in zip(pieces, places, strict=True) if re.search(r"\w", piece)]


class _Vocabulary:
    """The words of a backbone as embeddings, (N, W)."""

    def __init__(self, backbone: Backbone) -> None:
        self.words, ids = backbone.vocabulary()
        if self.words:
            self.table = backbone.embed(ids[None])[0].float()
            rng = np.random.default_rng(_SEED)
            drawn = rng.standard_normal((DIRECTIONS, self.table.shape[1]), dtype=np.float32)
            self.random = unit(torch.from_numpy(drawn)).to(self.table.device)  # (DIRECTIONS, W)
            self.products = self.random @ self.table.T  # (DIRECTIONS, N)

    def nearest(self, vector: Tensor) -> str:
        return self.words[int((self.table - vector).norm(dim=1).argmin())]

    def towards(self, start: Tensor, change: Tensor) -> tuple[str, float, float]:
        """The word in whose direction a change points, the cosine, and what that of a random one seldom exceeds."""
        ways = self.table - start
        lengths = ways.norm(dim=1)
        other = lengths > 1e-6  # not the word itself
        cosines = (ways @ unit(change) / lengths.clamp_min(1e-6)).masked_fill(~other, -1)
        chance = ((self.products - self.random @ start[:, None]) / lengths.clamp_min(1e-6)).masked_fill(~other, -1)
        best = int(cosines.argmax())
        return self.words[best], float(cosines[best]), float(chance.amax(1).quantile(QUANTILE))


def _change(word: str, embeddings: Tensor, changes: Tensor, vocabulary: _Vocabulary) -> WordChange:
    """Of a word with embeddings and changes (n, W)."""
    share = float(changes.norm() / embeddings.norm().clamp_min(1e-12))
    if not vocabulary.words:
        return WordChange(word, share)
    most = int(changes.norm(dim=1).argmax())
    nearest = vocabulary.nearest(embeddings[most] + changes[most])
    if share < STILL:
        return WordChange(word, share, nearest)
    return WordChange(word, share, nearest, *vocabulary.towards(embeddings[most], changes[most]))


# Sentences.

NAMED = 3  # words of a prompt that are named


def change_sentences(changes: list[SentenceChange]) -> list[str]:
    """What became of the sentences of one class: those that moved most, and if none did, so much."""
    moving = sorted((one for one in changes if not one.is_still), key=lambda one: -one.moved)
    if not moving:
        return ["Nothing moved: every prompt is its sentence, word for word."] if changes else []
    said = []
    if still := len(changes) - len(moving):
        said.append(f"Of its {len(changes)} prompts, {still} did not move.")
    if all(one.moved <= one.by_chance for one in moving):
        said.append(
            "No prompt moved further than equally large random changes of its words would move it: which words changed "
            "says little."
        )
    for one in moving[:NAMED]:
        words = sorted(one.words, key=lambda word: -word.change)[:NAMED]
        listed = ", ".join(f"{word.word} by {word.change:.0%} of its length" for word in words)
        beyond = "more" if one.moved > one.by_chance else "no more"
        said.append(
            f"The prompt of {one.told.concept or 'the name alone'} moved by {one.moved:.2f} logits, {beyond} than the "
            f"{one.by_chance:.2f} of random changes. Most moved: {listed}."
        )
    return said
