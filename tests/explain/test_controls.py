"""Maps and models that know nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers_clip import tiny_backbone
from scipy.stats import spearmanr
from torch import nn

from xcoop.explain.controls import (
    centre_maps,
    control_maps,
    order_of,
    random_maps,
    randomised,
    rank_correlation,
    reversed_maps,
)


def test_a_random_map_belongs_to_its_image() -> None:
    maps = random_maps([3, 8, 9], (4, 5), seed=1)
    assert maps.shape == (3, 4, 5)
    assert torch.equal(random_maps([8], (4, 5), seed=1)[0], maps[1])
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(random_maps([3], (4, 5), seed=2)[0], maps[0])
    assert 0 <= maps.min() <= maps.max() < 1


def test_the_centre_prior_falls_off_from_the_centre() -> None:
    maps = centre_maps(2, (14, 7))
    assert maps.shape == (2, 14, 7)
    torch.testing.assert_close(maps, maps.flip(1))
    torch.testing.assert_close(maps, maps.flip(2))
    assert maps[0].argmax() in (6 * 7 + 3, 7 * 7 + 3)
    row, column = (0.5 / 14 - 0.5) / 0.25, (0.5 / 7 - 0.5) / 0.25
    assert maps[0, 0, 0] == pytest.approx(np.exp(-(row**2 + column**2) / 2))


def test_the_order_falls_and_breaks_ties_alike_but_not_by_rows() -> None:
    maps = torch.tensor([[[1.0, 5], [3, 2]]])
    assert order_of(maps).tolist() == [[1, 2, 3, 0]]
    tied = torch.zeros(2, 6, 6)
    tied[:, 4, 2] = 1
    order = order_of(tied)
    assert torch.equal(order[0], order[1])
    assert order[0, 0] == 4 * 6 + 2
    assert sorted(order[0].tolist()) == list(range(36))
    first_half = order[0, 1:18] // 6
    assert first_half.double().mean().item() == pytest.approx(2.5, abs=1)  # all over the picture


def test_the_reversed_map_has_the_opposite_order_even_with_ties() -> None:
    maps = (random_maps(range(4), (5, 5)) * 3).floor()
    assert torch.equal(order_of(reversed_maps(maps)), order_of(maps).flip(1))


def test_the_controls_by_name() -> None:
    maps, other = random_maps(range(2), (4, 4), seed=5), random_maps(range(2), (4, 4), seed=6)
    assert list(control_maps(maps, [0, 1])) == ["random", "centre", "reversed"]
    with_other = control_maps(maps, [0, 1], other=other)
    assert torch.equal(with_other["other class"], other)
    assert all(one.shape == maps.shape for one in with_other.values())


@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_a_randomised_copy_has_forgotten_the_image_tower_alone(vision: str) -> None:
    backbone = tiny_backbone(seed=0, vision=vision)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    images = torch.randn(6, 3, backbone.input_size, backbone.input_size)
    copied = randomised(backbone, seed=4)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    changed = {name for name, value in copied.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in backbone.named_parameters() if name.startswith("model.visual.")}
    was, now = (model.encode_image(images, patches=True) for model in (backbone, copied))
    assert now.pooled.isfinite().all()
    assert torch.cosine_similarity(was.pooled, now.pooled).abs().mean() < 0.6
    again, another = (randomised(backbone, seed).model.visual.conv1.weight for seed in (4, 5))
    assert torch.equal(again, copied.model.visual.conv1.weight)
    assert not torch.equal(another, again)
    assert copied.fingerprint() != backbone.fingerprint()


def test_a_model_is_randomised_through_its_backbone() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = tiny_backbone(seed=0)
            self.ctx = nn.Parameter(torch.randn(4, 64))

    model = Model()
    copied = randomised(model)
    assert torch.equal(copied.ctx, model.ctx)
    assert not torch.equal(copied.backbone.model.visual.proj, model.backbone.model.visual.proj)
    with pytest.raises(TypeError, match="not Linear"):
        randomised(nn.Linear(2, 2))


def test_rank_correlation_is_scipys() -> None:
    one, other = random_maps(range(3), (6, 6), seed=0), random_maps(range(3), (6, 6), seed=1)
    one[1] = (one[1] * 4).floor()  # ties
    other[2] = one[2] ** 3
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one, other, strict=True)]
    assert rank_correlation(one, other).tolist() == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(one, -one).tolist() == pytest.approx([-1] * 3)
    assert rank_correlation(torch.ones(1, 2, 2), torch.rand(1, 2, 2)).isnan().all()
    with pytest.raises(ValueError, match="cannot be compared"):
        rank_correlation(one, other[:2])
