"""What CLIPs have in common whose texts are not cut by OpenAI's tokenizer, but by one that came with their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from xcoop.backbones.making import Making
from xcoop.backbones.openai import ClipBackbone


class Pieces(Protocol):
    """A tokenizer."""

    @property
    def size(self) -> int:
        """How many tokens it knows."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with what stands before and behind each."""

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The text of each single id."""

    def words(self) -> Iterator[tuple[int, str]]:
        """The pieces that are a word of letters, or begin one, with their ids."""


class OwnTokensClip(ClipBackbone):
    """A CLIP with a tokenizer of its own."""

    unseen = 0  # places before the first piece that the text tower does not see

    def __init__(self, name: str, model: nn.Module, pieces: Pieces, padding: int, making: Making) -> None:
        """Wraps a model without changing it.

        Args:
            name: what it is called.
            model: both towers.
            pieces: its tokenizer.
            padding: the id behind a text's end.
            making: what it was built with, and where it comes from.

        Raises:
            ValueError: the tokenizer knows more tokens than have embeddings.
        """
        super().__init__(name, model, making=making)
        self.pieces, self.padding = pieces, padding
        if pieces.size > (rows := len(self.model.token_embedding.weight)):
            raise ValueError(
                f"{making.source}: its tokenizer knows {pieces.size:,} tokens, and {rows:,} have embeddings: "
                "it belongs to another model"
            )

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Token ids, (N, context_length) int64: unseen places, pieces, padding; see the base class."""
        rows = [self.pieces.encode(text) for text in self.fitting(texts)]
        tokens = torch.full((len(rows), self.context_length), self.padding)
        for ids, row in zip(rows, tokens, strict=True):
            row[self.unseen : self.unseen + len(ids)] = torch.tensor(ids)
        return tokens

    def count_tokens(self, text: str) -> int:
        """How many places a text takes, with unseen ones and what stands before and behind it; see the base class."""
        return self.unseen + len(self.pieces.encode(text))

    def decode(self, ids: Sequence[int] | Tensor) -> list[str]:
        """The text of each single token id, without the mark of a word's beginning or of a piece inside one."""
        return self.pieces.decode(ids.tolist() if isinstance(ids, Tensor) else list(ids))

    def vocabulary(self) -> tuple[list[str], Tensor]:
        """The pieces that are a word of letters, or begin one, whose embeddings vary; see the base class."""
        table = self.model.token_embedding.weight  # (vocabulary, W)
        varied = (table != table[:, :1]).any(dim=1).tolist()
        words = {index: word for index, word in self.pieces.words() if varied[index]}
        return list(words.values()), torch.tensor(list(words), dtype=torch.int64, device=table.device)
