"""Deletion and insertion on scorers whose right map is known."""

from __future__ import annotations

import pytest
import torch
from planted import CELL, GRID, SIDE, images, score, true_maps
from torch import Tensor

from xcoop.explain.controls import control_maps, random_maps, reversed_maps
from xcoop.explain.faithfulness import BASELINES, Curves, blur_baseline, curves, make_baseline, patch_counts

ROW, COLUMN, STEPS = 2, 5, 16


def areas(maps: Tensor, count: int = 12) -> tuple[float, float]:
    found = curves(score(ROW, COLUMN), images(count), maps, steps=STEPS)
    return float(found.deletion_auc().mean()), float(found.insertion_auc().mean())


def test_the_true_map_beats_the_random_one_and_that_the_reversed_one() -> None:
    true = true_maps(12, ROW, COLUMN)
    controls = control_maps(true, range(12))
    deletion, insertion = zip(*(areas(m) for m in (true, controls["random"], controls["reversed"])), strict=True)
    assert deletion[0] + 0.2 < deletion[1] < deletion[2] - 0.2
    assert insertion[0] - 0.2 > insertion[1] > insertion[2] + 0.2


def test_the_curves_by_hand() -> None:
    """The patch goes in the first of 16 steps, and is full before: half a step of the full score is the area."""
    batch = images(3)
    full = score(ROW, COLUMN)(batch)
    found = curves(score(ROW, COLUMN), batch, true_maps(3, ROW, COLUMN), steps=STEPS)
    torch.testing.assert_close(found.deletion, torch.cat([full[:, None], torch.zeros(3, STEPS)], dim=1))
    torch.testing.assert_close(found.insertion, torch.cat([torch.zeros(3, 1), full[:, None].expand(3, STEPS)], dim=1))
    torch.testing.assert_close(found.deletion_auc(), full.double() / 2 / STEPS)
    torch.testing.assert_close(found.insertion_auc(), full.double() * (1 - 1 / 2 / STEPS))
    torch.testing.assert_close(found.comprehensiveness(), full.double())
    torch.testing.assert_close(found.sufficiency(), torch.zeros(3).double())


@pytest.mark.parametrize("baseline", [*BASELINES, "own"])
def test_the_ends_are_the_scores_of_image_and_baseline(baseline: str) -> None:
    batch = images(4)
    blank = torch.full((1, 3, 1, 1), 0.3) if baseline == "own" else baseline
    found = curves(score(ROW, COLUMN), batch, random_maps(range(4), (GRID, GRID)), blank, steps=7)
    full, empty = (score(ROW, COLUMN)(x) for x in (batch, make_baseline(batch, blank)))
    assert torch.equal(found.deletion[:, 0], full)
    assert torch.equal(found.insertion[:, -1], full)
    assert torch.equal(found.deletion[:, -1], empty)
    assert torch.equal(found.insertion[:, 0], empty)
    assert found.deletion.shape == found.insertion.shape == (4, 8)


@pytest.mark.parametrize("steps", [1, 4, 7, 28, 64])
def test_deletion_is_the_insertion_of_the_reversed_map_backwards(steps: int) -> None:
    """With a scorer to which every pixel counts; and with ties, through the ranks of `reversed_maps`."""
    batch = images(3)
    weights = images(1, seed=9)[0]

    def everything(x: Tensor) -> Tensor:
        return (x * weights).flatten(1).tanh().sum(1)

    maps = random_maps(range(3), (GRID, GRID))
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
    batch, maps = images(5), random_maps(range(5), (GRID, GRID))
    whole = curves(score(ROW, COLUMN), batch, maps, "blur", steps=9)
    sizes: list[int] = []

    def watch(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return score(ROW, COLUMN)(x)

    parts = curves(watch, batch, maps, "blur", steps=9, chunk=8)
    assert max(sizes) == 8
    assert sum(sizes) == 5 * 2 * 9  # each end is scored once
    torch.testing.assert_close(parts.deletion, whole.deletion)
    single = curves(score(ROW, COLUMN), batch[3:4], maps[3:4], "blur", steps=9)
    torch.testing.assert_close(single.insertion[0], whole.insertion[3])


def test_how_many_patches_each_step_takes() -> None:
    assert patch_counts(196, 28) == list(range(0, 197, 7))
    assert patch_counts(5, 4) == [0, 1, 3, 4, 5]
    for patches in (5, 16, 49, 196):
        for steps in range(1, patches + 1):
            counts = patch_counts(patches, steps)
            assert (len(counts), counts[0], counts[-1]) == (steps + 1, 0, patches)
            assert sorted(set(counts)) == counts
            assert all(abs(k - j * patches / steps) <= 0.5 for j, k in enumerate(counts))


def test_shares_between_the_points_are_interpolated() -> None:
    places = torch.tensor([0, 0.5, 1])
    found = Curves(torch.tensor([[10.0, 4, 2]]), torch.tensor([[2.0, 9, 10]]), places)
    torch.testing.assert_close(found.comprehensiveness([0.25]), torch.tensor([3.0]).double())  # 10 - 7
    torch.testing.assert_close(found.comprehensiveness([0.25, 1]), torch.tensor([5.5]).double())  # 10 - (7 + 2) / 2
    torch.testing.assert_close(found.sufficiency([0.5]), torch.tensor([1.0]).double())


def test_the_blur_keeps_what_is_large_and_loses_what_is_small() -> None:
    flat = torch.full((1, 3, 64, 64), 0.7)
    torch.testing.assert_close(blur_baseline(flat), flat)
    board = (torch.arange(64) // 2 % 2 * 2.0 - 1).expand(1, 3, 64, 64)
    assert blur_baseline(board)[..., 16:48].abs().max() < 0.02
    assert blur_baseline(board).abs().max() < 0.15  # at the border half of the bell is missing
    halves = torch.cat([flat[..., :32], -flat[..., 32:]], dim=-1)
    torch.testing.assert_close(blur_baseline(halves)[..., 0, [0, 63]], halves[..., 0, [0, 63]], atol=0.01, rtol=0)
    point = torch.zeros(1, 3, 65, 65)
    point[..., 32, 32] = 1
    spread = blur_baseline(point, 4 / 65)[0, 0]
    assert spread[32, 36] / spread[32, 32] == pytest.approx(0.6065, abs=1e-3)  # exp(-1/2), one deviation away
    assert torch.equal(make_baseline(point, "mean"), torch.zeros_like(point))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"maps": torch.zeros(2, 8, 8)}, "images .* and maps"),
        ({"maps": torch.full((1, 8, 8), torch.nan)}, "without NaN"),
        ({"steps": 0}, "1 to 64"),
        ({"steps": 65}, "1 to 64"),
        ({"baseline": "blurr"}, "Did you mean 'blur'"),
        ({"score_fn": lambda x: x}, "score_fn gave shape"),
    ],
)
def test_what_is_refused(changed: dict[str, object], message: str) -> None:
    given = {"score_fn": score(0, 0), "images": images(1), "maps": torch.zeros(1, GRID, GRID), "steps": 4} | changed
    with pytest.raises(ValueError, match=message):
        curves(**given)


def test_the_planted_patch_is_where_it_is_meant() -> None:
    assert CELL * GRID == SIDE
    batch = torch.zeros(1, 3, SIDE, SIDE)
    batch[:, :, ROW * CELL, COLUMN * CELL] = 1
    assert score(ROW, COLUMN)(batch) > 0
    assert score(COLUMN, ROW)(batch) == 0
