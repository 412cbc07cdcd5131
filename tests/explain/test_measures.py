"""Measures of maps: on planted scorers, by hand on small images, and against independent formulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers_clip import tiny_backbone
from scipy.stats import spearmanr
from torch import Tensor, nn

from xcoop.explain.measures import (
    BASELINES,
    blur_baseline,
    centre_maps,
    control_maps,
    curves,
    localise,
    order_of,
    patch_counts,
    random_maps,
    randomised,
    rank_correlation,
    reversed_maps,
    upsample,
)

# Controls.


def test_a_random_map_belongs_to_its_image() -> None:
    maps = random_maps(3, (4, 5), seed=1)
    assert maps.shape == (3, 4, 5)
    assert torch.equal(random_maps(2, (4, 5), seed=1), maps[:2])
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(random_maps(3, (4, 5), seed=2)[0], maps[0])
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
    assert order_of(torch.tensor([[[1.0, 5], [3, 2]]])).tolist() == [[1, 2, 3, 0]]
    tied = torch.zeros(2, 6, 6)
    tied[:, 4, 2] = 1
    order = order_of(tied)
    assert torch.equal(order[0], order[1])
    assert order[0, 0] == 4 * 6 + 2
    assert sorted(order[0].tolist()) == list(range(36))
    first_half = order[0, 1:18] // 6
    assert first_half.double().mean().item() == pytest.approx(2.5, abs=1)  # all over the image


def test_the_reversed_map_has_the_opposite_order_even_with_ties() -> None:
    maps = (random_maps(4, (5, 5)) * 3).floor()
    assert torch.equal(order_of(reversed_maps(maps)), order_of(maps).flip(1))
    controls = control_maps(maps)
    assert list(controls) == ["random", "centre", "reversed"]
    assert all(one.shape == maps.shape for one in controls.values())


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
    model = nn.Module()
    model.backbone, model.ctx = tiny_backbone(seed=0), nn.Parameter(torch.randn(4, 64))
    copied = randomised(model)
    assert torch.equal(copied.ctx, model.ctx)
    assert not torch.equal(copied.backbone.model.visual.proj, model.backbone.model.visual.proj)


def test_rank_correlation_is_scipys() -> None:
    one, other = random_maps(3, (6, 6), seed=0), random_maps(3, (6, 6), seed=1)
    one[1] = (one[1] * 4).floor()  # ties
    other[2] = one[2] ** 3
    pairs = [(a.flatten().double(), b.flatten().double()) for a, b in zip(one, other, strict=True)]
    expected = [spearmanr(a, b).statistic for a, b in pairs]
    assert rank_correlation(one, other).tolist() == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(one, -one).tolist() == pytest.approx([-1] * 3)
    assert rank_correlation(torch.ones(1, 2, 2), torch.rand(1, 2, 2)).isnan().all()


# Faithfulness: a scorer that looks at one patch alone, so that the right map is known.

SIDE, GRID, ROW, COLUMN, STEPS = 32, 8, 2, 5, 16
CELL = SIDE // GRID


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def score(batch: Tensor) -> Tensor:
    """The mean absolute value of the patch: about 0.8 on noise, 0 on the mean baseline."""
    return batch[:, :, ROW * CELL : (ROW + 1) * CELL, COLUMN * CELL : (COLUMN + 1) * CELL].abs().mean((1, 2, 3))


def everything(batch: Tensor) -> Tensor:
    """A scorer to which every pixel counts."""
    return (batch * noise(1, seed=9)[0]).flatten(1).tanh().sum(1)


def true_maps(count: int) -> Tensor:
    """1 at the patch that counts, (B, 8, 8); less, and different everywhere, elsewhere."""
    maps = torch.rand(count, GRID, GRID, generator=torch.Generator().manual_seed(5)) / 2
    maps[:, ROW, COLUMN] = 1
    return maps


def test_the_true_map_beats_the_random_one_and_that_the_reversed_one() -> None:
    true = true_maps(12)
    controls = control_maps(true)
    found = [curves(score, noise(12), maps, steps=STEPS) for maps in (true, controls["random"], controls["reversed"])]
    deletion = [float(one.deletion_auc().mean()) for one in found]
    insertion = [float(one.insertion_auc().mean()) for one in found]
    assert deletion[0] + 0.2 < deletion[1] < deletion[2] - 0.2
    assert insertion[0] - 0.2 > insertion[1] > insertion[2] + 0.2


def test_the_curves_by_hand() -> None:
    """The patch goes in the first of 16 steps, and is full before: half a step of the full score is the area."""
    batch = noise(3)
    full = score(batch)
    found = curves(score, batch, true_maps(3), steps=STEPS)
    torch.testing.assert_close(found.deletion, torch.cat([full[:, None], torch.zeros(3, STEPS)], dim=1))
    torch.testing.assert_close(found.insertion, torch.cat([torch.zeros(3, 1), full[:, None].expand(3, STEPS)], dim=1))
    torch.testing.assert_close(found.deletion_auc(), full.double() / 2 / STEPS)
    torch.testing.assert_close(found.insertion_auc(), full.double() * (1 - 1 / 2 / STEPS))


@pytest.mark.parametrize("baseline", list(BASELINES))
def test_the_ends_are_the_scores_of_image_and_baseline(baseline: str) -> None:
    batch = noise(4)
    found = curves(score, batch, random_maps(4, (GRID, GRID)), baseline, steps=7)
    full, empty = score(batch), score(BASELINES[baseline](batch))
    for start, end, curve in ((full, empty, found.deletion), (empty, full, found.insertion)):
        assert curve.shape == (4, 8)
        assert torch.equal(curve[:, 0], start)
        assert torch.equal(curve[:, -1], end)


@pytest.mark.parametrize("steps", [1, 7, 28, 64])
def test_deletion_is_the_insertion_of_the_reversed_map_backwards(steps: int) -> None:
    batch, maps = noise(3), random_maps(3, (GRID, GRID))
    one, other = (curves(everything, batch, m, steps=steps) for m in (maps, -maps))
    assert torch.equal(one.deletion, other.insertion.flip(1))
    assert torch.equal(one.insertion, other.deletion.flip(1))
    tied = (maps * 4).floor()
    one, other = (curves(everything, batch, m, steps=steps) for m in (tied, reversed_maps(tied)))
    assert torch.equal(one.deletion, other.insertion.flip(1))


def test_patches_go_by_falling_relevance_cell_by_cell() -> None:
    seen: list[Tensor] = []

    def watch(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.new_zeros(len(x))

    order = torch.tensor([[3, 1], [0, 2]])
    curves(watch, torch.ones(1, 3, 4, 6), order[None].float(), steps=4)
    rows = [x[0, ::2, ::3].int().flatten().tolist() for x in torch.cat(seen)]  # one pixel of each cell
    assert rows[:2] == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert rows[2:5] == [[0, 1, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0]]
    assert rows[5:] == [[1, 0, 0, 0], [1, 0, 0, 1], [1, 1, 0, 1]]
    assert all((x.unfold(1, 2, 2).unfold(2, 3, 3).flatten(3).std(3) == 0).all() for x in torch.cat(seen))  # whole cells


def test_parts_and_batches_do_not_matter() -> None:
    batch, maps = noise(5), random_maps(5, (GRID, GRID))
    whole = curves(score, batch, maps, "blur", steps=9)
    sizes: list[int] = []

    def watch(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return score(x)

    parts = curves(watch, batch, maps, "blur", steps=9, chunk=8)
    assert max(sizes) == 8
    assert sum(sizes) == 5 * 2 * 9  # each end is scored once
    torch.testing.assert_close(parts.deletion, whole.deletion)
    single = curves(score, batch[3:4], maps[3:4], "blur", steps=9)
    torch.testing.assert_close(single.insertion[0], whole.insertion[3])


def test_the_score_of_erased_patches_is_captums_ablation() -> None:
    attr = pytest.importorskip("captum.attr")
    batch = noise(2)
    cells = torch.arange(GRID * GRID).view(GRID, GRID).repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
    falls = attr.FeatureAblation(everything).attribute(batch, feature_mask=cells.expand(1, 3, SIDE, SIDE))
    for patch in (0, 21, 63):
        maps = torch.zeros(2, GRID, GRID).flatten(1)
        maps[:, patch] = 1
        found = curves(everything, batch, maps.view(2, GRID, GRID), steps=GRID * GRID)
        fall = falls[:, 0, patch // GRID * CELL, patch % GRID * CELL]
        torch.testing.assert_close(found.deletion[:, 0] - found.deletion[:, 1], fall)


def test_how_many_patches_each_step_takes() -> None:
    assert patch_counts(196, 28) == list(range(0, 197, 7))
    assert patch_counts(5, 4) == [0, 1, 3, 4, 5]
    for patches in (5, 16, 49):
        for steps in range(1, patches + 1):
            counts = patch_counts(patches, steps)
            assert (len(counts), counts[0], counts[-1]) == (steps + 1, 0, patches)
            assert sorted(set(counts)) == counts
            assert all(abs(k - j * patches / steps) <= 0.5 for j, k in enumerate(counts))


def test_the_blur_keeps_what_is_large_and_loses_what_is_small() -> None:
    flat = torch.full((1, 3, 64, 64), 0.7)
    torch.testing.assert_close(blur_baseline(flat), flat)
    board = (torch.arange(64) // 2 % 2 * 2.0 - 1).expand(1, 3, 64, 64)
    assert blur_baseline(board)[..., 16:48].abs().max() < 0.02
    assert blur_baseline(board).abs().max() < 0.15  # at the border half of the bell is missing
    halves = torch.cat([flat[..., :32], -flat[..., 32:]], dim=-1)
    torch.testing.assert_close(blur_baseline(halves)[..., 0, [0, 63]], halves[..., 0, [0, 63]], atol=0.01, rtol=0)
    point = torch.zeros(1, 3, 80, 80)
    point[..., 40, 40] = 1
    spread = blur_baseline(point)[0, 0]
    assert spread[40, 48] / spread[40, 40] == pytest.approx(0.6065, abs=1e-3)  # exp(-1/2), one deviation away


# Localisation.

QUARTER = torch.zeros(1, 8, 8, dtype=torch.bool)
QUARTER[:, :4, 4:] = True  # the upper right


def one(values: Tensor, mask: Tensor = QUARTER) -> dict[str, float]:
    """The values of a map that has the mask's size, so that nothing is upsampled."""
    found = localise(values[None], mask)
    return {name: float(getattr(found, name)[0]) for name in vars(found)}


def test_a_map_that_is_the_mask() -> None:
    assert one(QUARTER[0].float()) == {"pointing": 1, "energy": 1, "iou_best": 1, "area": 0.25}


@pytest.mark.parametrize("size", [3, 8])
def test_a_constant_map_reaches_exactly_what_chance_does(size: int) -> None:
    found = localise(torch.full((1, size, size), 0.1), QUARTER)
    assert found.pointing[0] == found.energy[0] == found.area[0] == found.iou_best[0] == 0.25


def test_maxima_that_are_equal_share_the_point() -> None:
    values = torch.zeros(8, 8)
    values[0, 7] = values[7, 0] = values[3, 5] = 2
    assert one(values)["pointing"] == pytest.approx(2 / 3)
    values[7, 0] = 2.001
    assert one(values)["pointing"] == 0


def test_localisation_by_hand() -> None:
    """One row of eight pixels; the mask holds the first four."""
    found = one(torch.tensor([[-1.0, 4, 3, 3, 3, 0, -2, 5]]), torch.tensor([[[1, 1, 1, 1, 0, 0, 0, 0]]]).bool())
    assert found["pointing"] == 0
    assert found["energy"] == pytest.approx((1 + 6 + 5 + 5) / (1 + 6 + 5 + 5 + 5 + 2 + 0 + 7))
    assert found["iou_best"] == pytest.approx(4 / 7)  # all but the -2; from 3 up: 3 / 6; all eight: 4 / 8


def test_localisation_against_independent_formulations() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(3, 6, 6, generator=generator), torch.rand(3, 24, 24, generator=generator) < 0.3
    found = localise(maps, masks)
    for i, (values, mask) in enumerate(zip(upsample(maps.double(), (24, 24)), masks, strict=True)):
        flat, truth = values.flatten().numpy(), mask.flatten().numpy()
        row, column = divmod(int(maps[i].argmax()), 6)  # a cell is 4 x 4 pixels: 4 of them share its centre
        assert found.pointing[i] == mask[4 * row + 1 : 4 * row + 3, 4 * column + 1 : 4 * column + 3].double().mean()
        assert found.iou_best[i] == pytest.approx(
            max((truth & (flat >= t)).sum() / (truth | (flat >= t)).sum() for t in flat)
        )
        above = flat - float(maps[i].min())
        assert found.energy[i] == pytest.approx(above[truth].sum() / above.sum())


@pytest.mark.parametrize("grid", [(7, 7), (3, 5), (8, 8), (14, 14)])
def test_a_random_map_does_not_point_at_the_border_more_often(grid: tuple[int, int]) -> None:
    """Every cell is highest once, by very little; what is between their centres is the middle of the image."""
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


def test_values_do_not_count_by_their_scale_and_empty_masks_not_at_all() -> None:
    maps = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(2))
    masks = torch.stack([QUARTER[0], torch.zeros(8, 8).bool(), torch.ones(8, 8).bool()])
    plain, scaled = localise(maps, masks), localise(maps * 1e-4 + 20, masks)
    for name in vars(plain):
        values = getattr(plain, name)
        assert np.isnan(values).tolist() == [False, True, False]
        assert values[2] == 1
        assert values == pytest.approx(getattr(scaled, name), abs=0.02, nan_ok=True)


def test_a_map_that_is_no_number_is_refused() -> None:
    maps = torch.full((1, 8, 8), torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        localise(maps, QUARTER)
    with pytest.raises(ValueError, match="NaN"):
        curves(score, noise(1), maps)
