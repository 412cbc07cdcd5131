"""A PMC-CLIP in small: CLIP's ResNet and a BERT with random weights, in the three files that its authors published."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers_biomed import WORDS
from helpers_families import draw
from torch import Tensor

from xcoop.backbones.clip_model import import_clip

SIDE, WIDTH, JOINT = 32, 8, 40  # pixels, of the ResNet's first stage, of the joint space


class Small(NamedTuple):
    """The towers of the libraries, in evaluation mode, and the matrix behind the BERT's pool."""

    image: Any
    text: Any
    projection: Tensor

    def encode_text(self, tokens: Tensor) -> Tensor:
        """As its authors' notebook does: no mask, so that padding is seen."""
        features: Tensor = self.text(tokens).pooler_output @ self.projection
        return features


def build(folder: Path, config: bool = True, heads: int = 3) -> Small:
    """Fills a folder.

    Args:
        folder: made.
        config: whether the BERT's own lies beside the files.
        heads: of the BERT, whose layer norms have an eps of 1e-3 with a config.
    """
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80, "num_attention_heads": heads}
    own = transformers.BertConfig(
        vocab_size=len(WORDS), max_position_embeddings=90, layer_norm_eps=1e-3 if config else 1e-12, **sizes
    )
    image = draw(import_clip().model.ModifiedResNet((1, 1, 2, 1), JOINT, 8, SIDE, WIDTH))
    text = draw(transformers.BertModel(own), seed=1)
    projection = torch.randn(48, JOINT, generator=torch.Generator().manual_seed(2)) / 48**0.5
    torch.save(image.state_dict(), folder / "image_encoder(resnet50).pth")
    torch.save(text.state_dict(), folder / "text_encoder.pth")
    torch.save(projection, folder / "text_projection_layer.pth")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    if config:
        own.save_pretrained(folder)
    return Small(image, text, projection)
