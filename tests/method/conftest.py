"""What tests of one method share: a bank of two classes, and features of six images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_banks import SKIN, toy_bank
from helpers_clip import tiny_backbone

from xcoop.backbones import ImageFeatures
from xcoop.concepts import ConceptBank


@pytest.fixture
def bank(tmp_path: Path) -> ConceptBank:
    return toy_bank(tmp_path, SKIN)


@pytest.fixture(scope="module")
def features() -> ImageFeatures:
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return tiny_backbone().encode_image(images, patches=True)
