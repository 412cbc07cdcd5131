"""A CLIP of the phantom's kind, too small to know anything."""

import pytest
import torch

from xcoop.backbones.clip_import import import_clip


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(1)
    return import_clip().model.CLIP(32, 64, 2, 64, 8, 77, 49408, 64, 1, 2).eval()
