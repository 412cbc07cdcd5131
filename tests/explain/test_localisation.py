"""Pointing, energy and overlap, by hand on small pictures and against independent formulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, roc_auc_score
from torch import Tensor

from xcoop.explain.localisation import localise, upsample
from xcoop.explain.metrics import HIGHER, LOWER, METRICS, NEITHER

QUARTER = torch.zeros(1, 8, 8, dtype=torch.bool)
QUARTER[:, :4, 4:] = True  # the upper right


def one(values: Tensor, mask: Tensor = QUARTER) -> dict[str, float]:
    """The values of a map that has the mask's size, so that nothing is upsampled."""
    found = localise(values[None], mask)
    return {name: float(getattr(found, name)[0]) for name in vars(found)}


def test_a_map_that_is_the_mask() -> None:
    assert one(QUARTER[0].float()) == {
        "pointing": 1, "energy": 1, "iou_area": 1, "iou_best": 1, "pixel_auc": 1, "area": 0.25,
    }  # fmt: skip


def test_a_constant_map_reaches_exactly_what_chance_does() -> None:
    for size in (3, 8):
        found = localise(torch.full((1, size, size), 0.1), QUARTER)
        assert found.pointing[0] == found.energy[0] == found.area[0] == 0.25
        assert found.iou_area[0] == pytest.approx(0.25 / (2 - 0.25))
        assert (found.iou_best[0], found.pixel_auc[0]) == (0.25, 0.5)


def test_maxima_that_are_equal_share_the_point() -> None:
    values = torch.zeros(8, 8)
    values[0, 7] = values[7, 0] = values[3, 5] = 2
    assert one(values)["pointing"] == pytest.approx(2 / 3)
    values[7, 0] = 2.001
    assert one(values)["pointing"] == 0


def test_by_hand() -> None:
    """One row of eight pixels; the mask holds the first four."""
    mask = torch.tensor([[[1, 1, 1, 1, 0, 0, 0, 0]]]).bool()
    values = torch.tensor([[-1.0, 4, 3, 3, 3, 0, -2, 5]])
    found = one(values, mask)
    assert found["pointing"] == 0
    assert found["energy"] == pytest.approx((1 + 6 + 5 + 5) / (1 + 6 + 5 + 5 + 5 + 2 + 0 + 7))
    # The four highest: 5 (out), 4 (in), and two of the three 3s, of which two are in: 1 + 4/3 of them inside.
    assert found["iou_area"] == pytest.approx((7 / 3) / (8 - 7 / 3))
    assert found["iou_best"] == pytest.approx(4 / 7)  # all but the -2; from 3 up: 3 / 6; all eight: 4 / 8
    inside, outside = [-1, 4, 3, 3], [3, 0, -2, 5]
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    assert found["pixel_auc"] == pytest.approx(np.mean(pairs))


def test_against_independent_formulations() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(5, 6, 6, generator=generator), torch.rand(5, 24, 24, generator=generator) < 0.3
    found = localise(maps, masks)
    for i, (values, mask) in enumerate(zip(upsample(maps.double(), (24, 24)), masks, strict=True)):
        flat, truth = values.flatten().numpy(), mask.flatten().numpy()
        row, column = divmod(int(maps[i].argmax()), 6)  # a cell is 4 x 4 pixels: 4 of them share its centre
        assert found.pointing[i] == mask[4 * row + 1 : 4 * row + 3, 4 * column + 1 : 4 * column + 3].double().mean()
        assert found.pixel_auc[i] == pytest.approx(roc_auc_score(truth, flat), abs=1e-9)
        assert found.iou_best[i] == pytest.approx(max(jaccard_score(truth, flat >= t) for t in flat), abs=1e-9)
        cut = np.sort(flat)[-truth.sum()]
        assert found.iou_area[i] == pytest.approx(jaccard_score(truth, flat >= cut), abs=0.01)
        assert found.energy[i] == pytest.approx((flat - float(maps[i].min()))[truth].sum()
                                                / (flat - float(maps[i].min())).sum())  # fmt: skip


def test_chance_is_reached_by_maps_that_know_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    found = localise(torch.rand(400, 7, 7, generator=generator), QUARTER.expand(400, 8, 8))
    assert found.pointing.mean() == pytest.approx(0.25, abs=0.06)
    assert found.energy.mean() == pytest.approx(0.25, abs=0.02)
    assert found.pixel_auc.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("grid", [(7, 7), (3, 5), (8, 8), (14, 14)])
def test_a_random_map_does_not_point_at_the_border_more_often(grid: tuple[int, int]) -> None:
    """Every cell is highest once, by very little; what is between their centres is the middle of the picture."""
    cells = grid[0] * grid[1]
    maps = torch.rand(cells, *grid, generator=torch.Generator().manual_seed(4))
    maps.flatten(1)[range(cells), range(cells)] = 1.0001
    middle = torch.zeros(1, 56, 60, dtype=torch.bool)
    middle[:, 14:42, 15:45] = True
    expected = [torch.linspace(0.5 / side, 1 - 0.5 / side, side) for side in grid]
    inside = [((e > 0.25) & (e < 0.75)).double() + (((e - 0.25).abs() < 1e-6) | ((e - 0.75).abs() < 1e-6)) / 2
              for e in expected]  # fmt: skip
    found = localise(maps, middle.expand(cells, 56, 60))
    assert found.pointing.mean() == pytest.approx(float(inside[0].mean() * inside[1].mean()))


def test_values_do_not_count_by_their_scale() -> None:
    maps = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(2))
    masks = QUARTER.expand(2, 8, 8)
    plain, scaled = localise(maps, masks), localise(maps * 1e-4 + 20, masks)
    for name in ("pointing", "iou_area", "pixel_auc", "energy"):
        assert getattr(plain, name) == pytest.approx(getattr(scaled, name), abs=0.02)


def test_an_empty_mask_is_left_out_and_counted() -> None:
    masks = torch.stack([QUARTER[0], torch.zeros(8, 8).bool(), torch.ones(8, 8).bool()])
    found = localise(torch.rand(3, 4, 4), masks)
    assert found.empty == 1
    assert all(np.isnan(getattr(found, name)[1]) for name in vars(found))
    assert (found.pointing[2], found.energy[2], found.iou_best[2], found.area[2]) == (1, 1, 1, 1)
    assert np.isnan(found.pixel_auc[2])


def test_upsampling_is_bilinear() -> None:
    assert upsample(torch.tensor([[[0.0, 4]]]), (1, 4)).tolist() == [[[0, 1, 3, 4]]]


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (torch.zeros(2, 4, 4), QUARTER, r"maps \(B, gh, gw\)"),
        (torch.zeros(1, 4, 4), QUARTER.float(), "float32"),
        (torch.full((1, 4, 4), torch.nan), QUARTER, "NaN"),
    ],
)
def test_what_is_refused(maps: Tensor, masks: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        localise(maps, masks)


def test_every_metric_says_what_it_means() -> None:
    assert {"pointing", "energy", "iou_area", "iou_best", "pixel_auc", "area"} <= set(METRICS)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.better in (HIGHER, LOWER, NEITHER)
        assert metric.group in ("faithfulness", "plausibility", "sanity")
        assert metric.meaning.endswith(".")
        assert metric.title
        assert metric.unit
        assert metric.chance


def test_the_directions_are_those_that_a_perfect_map_moves_in() -> None:
    perfect, noise = one(QUARTER[0].float()), one(torch.rand(8, 8, generator=torch.Generator().manual_seed(3)))
    for name in perfect:
        sign = {HIGHER: 1, LOWER: -1, NEITHER: 0}[METRICS[name].better]
        assert (perfect[name] - noise[name]) * sign > 0 or METRICS[name].better == NEITHER
