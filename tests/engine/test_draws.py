"""What augments an image is drawn from (seed, epoch, index): whatever the workers, the batches and the other images."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dassl.data import DataManager, DatasetWrapper
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from torch.utils.data import DataLoader
from toy_engine import items_of, make_cfg, ours_only, weights_of

from xcoop.engine.data import Seeded
from xcoop.engine.rng import drawing, sample_seed

N = 18  # training squares


class Images(Seeded, DatasetWrapper):
    """As the trainers of this package mix it."""


def draws(_: Any) -> torch.Tensor:
    """A transform that draws from all three generators."""
    return torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()], dtype=torch.float64)


def seen(loader: Any) -> dict[int, torch.Tensor]:
    """What each image was given, by its index."""
    return {int(i): row for batch in loader for i, row in zip(batch["index"], batch["img"], strict=True)}


def test_the_seed_of_a_sample_is_the_one_that_is_written_down() -> None:
    """Computed with `printf '1 0 0' | sha256sum`."""
    assert sample_seed(1, 0, 0) == 0xE28E05197DA97224
    assert sample_seed(3, 12, 7) == 0x2DE0E9B2EFEA3EC9
    assert len({sample_seed(s, e, i) for s in range(5) for e in range(12) for i in range(12)}) == 5 * 12 * 12


def test_drawing_starts_all_generators_and_puts_them_back_also_after_an_error() -> None:
    set_random_seed(5)
    expected = [draws(None) for _ in range(2)]
    set_random_seed(5)
    assert torch.equal(draws(None), expected[0])
    with contextlib.suppress(ZeroDivisionError), drawing(2**64 - 1):
        inside = draws(None)
        raise ZeroDivisionError
    assert torch.equal(draws(None), expected[1])
    with drawing(2**64 - 1):
        assert torch.equal(draws(None), inside)


@pytest.mark.parametrize("views", [1, 3])
def test_neither_workers_nor_batches_nor_order_change_a_draw(squares: Path, tmp_path: Path, views: int) -> None:
    cfg = make_cfg(squares, tmp_path, "SEED", 1, "DATALOADER.K_TRANSFORMS", views)
    images = Images(cfg, items_of(squares, "train"), transform=[draws, draws], is_train=True)
    images.begin_epoch(2)

    def collate(rows: list[Any]) -> list[Any]:
        return rows

    def found(**how: Any) -> list[Any]:
        rows = [row for batch in DataLoader(images, collate_fn=collate, **how) for row in batch]
        return sorted((row["index"], str(row["img"]), str(row["img2"])) for row in rows)

    plain = found(batch_size=1)
    assert len({text for row in plain for text in row[1:]}) == 2 * N, "each view of each image has draws of its own"
    torch.rand(7)
    assert found(batch_size=5, num_workers=2, shuffle=True, prefetch_factor=4) == plain
    images.begin_epoch(3)
    assert not {row[1] for row in found(batch_size=1)} & {row[1] for row in plain}


def test_workers_that_outlive_an_epoch_are_told_of_the_next(squares: Path, tmp_path: Path) -> None:
    images = Images(make_cfg(squares, tmp_path, "SEED", 1), items_of(squares, "train"), transform=draws, is_train=True)
    kept = DataLoader(images, 4, num_workers=2, persistent_workers=True)
    for epoch in range(3):
        images.begin_epoch(epoch)
        lasting, fresh = seen(kept), seen(DataLoader(images, 3))
        assert all(torch.equal(lasting[i], fresh[i]) for i in range(N))


def test_the_generators_of_the_process_are_left_alone(squares: Path, tmp_path: Path) -> None:
    images = Images(make_cfg(squares, tmp_path, "SEED", 1), items_of(squares, "train"), transform=draws, is_train=True)
    set_random_seed(3)
    expected = draws(None)
    set_random_seed(3)
    for index in range(N):
        images[index]
    assert torch.equal(draws(None), expected)


def test_without_a_seed_each_process_draws_its_own(squares: Path, tmp_path: Path) -> None:
    cfg, items = make_cfg(squares, tmp_path), items_of(squares, "train")
    one, two = (Images(cfg, items, transform=draws, is_train=True)[0]["img"] for _ in range(2))
    assert not torch.equal(one, two)


@ours_only("the loaders of Dassl are told nothing")
def test_a_second_pass_in_one_epoch_draws_anew_and_the_same_in_every_run(squares: Path, tmp_path: Path) -> None:
    passes = []
    for workers in (0, 2):
        cfg = make_cfg(squares, tmp_path, "SEED", 1, "DATALOADER.NUM_WORKERS", workers)
        loader = DataManager(cfg, custom_tfm_train=draws).train_loader_x
        torch.manual_seed(4)
        passes.append([seen(loader) for _ in range(2)])
    (first, second), others = passes
    assert not any(torch.equal(first[i], second[i]) for i in first.keys() & second.keys())
    for ours, theirs in zip((first, second), others, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[i], theirs[i]) for i in ours)


@ours_only("the loaders of Dassl are told nothing")
def test_any_trainer_of_the_engine_ends_in_the_same_weights_whatever_the_workers(squares: Path, tmp_path: Path) -> None:
    weights = []
    for workers in (0, 2):
        pairs = ("SEED", 1, "OPTIM.MAX_EPOCH", 3, "DATALOADER.NUM_WORKERS", workers)
        cfg = make_cfg(squares, tmp_path / str(workers), *pairs)
        set_random_seed(1)
        trainer = build_trainer(cfg)
        trainer.train()
        weights.append(weights_of(trainer))
    assert torch.equal(*weights)
