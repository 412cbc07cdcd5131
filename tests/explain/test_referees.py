"""The same numbers from libraries that others wrote; each is skipped where it is not installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xcoop.explain.localisation import localise, upsample

SIDE = 16


@pytest.fixture(scope="module")
def case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    maps = torch.rand(6, SIDE, SIDE, generator=generator)
    return maps, torch.rand(6, SIDE, SIDE, generator=generator) < 0.4


def test_pixel_auc_is_torchmetrics(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    maps, masks = case
    expected = [float(functional.binary_auroc(m.flatten(), k.flatten().long())) for m, k in zip(*case, strict=True)]
    assert localise(maps, masks).pixel_auc.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["PointingGame", "RelevanceRankAccuracy"])
def test_localisation_is_quantus(case: tuple[torch.Tensor, torch.Tensor], name: str) -> None:
    quantus = pytest.importorskip("quantus")
    maps, masks = case
    metric = getattr(quantus, name)(abs=False, normalise=False, disable_warnings=True)
    expected = metric(
        model=torch.nn.Identity(),
        x_batch=np.zeros((6, 1, SIDE, SIDE), np.float32),
        y_batch=np.zeros(6, int),
        a_batch=upsample(maps, (SIDE, SIDE)).numpy()[:, None],
        s_batch=masks.numpy()[:, None],
    )
    found = localise(maps, masks)
    inside = np.array([int(mask.sum()) for mask in masks])
    # Rank accuracy is the share h of the mask's n pixels among the n highest; ours is h n / (2 n - h n).
    ours = found.pointing if name == "PointingGame" else 2 * found.iou_area / (1 + found.iou_area)
    assert np.asarray(expected, float).tolist() == pytest.approx(ours.tolist(), abs=1 / inside.min())


def test_the_score_of_erased_patches_is_captums_ablation() -> None:
    attr = pytest.importorskip("captum.attr")
    from planted import CELL, GRID, images, score

    from xcoop.explain.faithfulness import curves

    batch = images(2)
    mask = torch.arange(GRID * GRID).view(GRID, GRID).repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
    effect = attr.FeatureAblation(score(2, 5)).attribute(batch, baselines=0, feature_mask=mask[None, None])
    first = torch.zeros(2, GRID, GRID)
    first[:, 2, 5] = 1
    found = curves(score(2, 5), batch, first, steps=GRID * GRID)
    torch.testing.assert_close(found.deletion[:, 0] - found.deletion[:, 1], effect[:, 0, 2 * CELL, 5 * CELL])
