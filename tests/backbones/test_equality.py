"""The towers equal the methods of the unmodified model."""

from __future__ import annotations

import pytest
import torch
from helpers_clip import tiny_backbone

TEXTS = ["a photo of a nevus.", "melanoma", "an irregular pigment network with blue-whitish veil, and streaks"]


@pytest.fixture(scope="module", params=["vit", "resnet"])
def backbone(request):
    return tiny_backbone(seed=1, vision=request.param)


def images(backbone, count=3):
    size = backbone.input_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_text_equals_encode_text(backbone):
    with torch.no_grad():
        expected = backbone.model.encode_text(backbone.tokenize(TEXTS))
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected, atol=1e-5, rtol=0)


def test_pooled_equals_encode_image(backbone):
    x = images(backbone)
    expected = backbone.model.encode_image(x)
    for patches in (False, True):
        torch.testing.assert_close(backbone.encode_image(x, patches).pooled, expected, atol=1e-5, rtol=0)
