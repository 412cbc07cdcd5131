"""What a training draws is a function of (seed, epoch, index), and an interrupted one ends as if it had not been."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dassl.data import DataManager, DatasetWrapper
from dassl.engine import build_trainer
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint, set_random_seed
from torch import nn
from torch.utils.data import DataLoader
from toy_engine import KilledError, Linear, items_of, make_cfg, ours_only, weights_of

from xcoop.engine.data import Seeded, drawing, sample_seed, worker_start
from xcoop.engine.tools import restore_rng, rng_state

N = 18  # training squares


class Images(Seeded, DatasetWrapper):
    """As the trainers of this package mix it."""


def draws(_: Any) -> torch.Tensor:
    """A transform that draws from all three generators."""
    return torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()], dtype=torch.float64)


def seen(loader: Any) -> dict[int, torch.Tensor]:
    """What each image was given, by its index."""
    return {int(i): row for batch in loader for i, row in zip(batch["index"], batch["img"], strict=True)}


def drawn_images(squares: Path, tmp_path: Path, *options: Any) -> Images:
    return Images(make_cfg(squares, tmp_path, *options), items_of(squares, "train"), transform=draws, is_train=True)


def run(cfg: Any) -> Any:
    set_random_seed(1)
    trainer = build_trainer(cfg)
    trainer.train()
    return trainer


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
    forked = {"num_workers": 2, "multiprocessing_context": worker_start(2)}
    assert found(batch_size=5, shuffle=True, prefetch_factor=4, **forked) == plain
    images.begin_epoch(3)
    assert not {row[1] for row in found(batch_size=1)} & {row[1] for row in plain}


def test_workers_that_outlive_an_epoch_are_told_of_the_next(squares: Path, tmp_path: Path) -> None:
    images = drawn_images(squares, tmp_path, "SEED", 1)
    kept = DataLoader(images, 4, num_workers=2, multiprocessing_context=worker_start(2), persistent_workers=True)
    for epoch in range(3):
        images.begin_epoch(epoch)
        lasting, fresh = seen(kept), seen(DataLoader(images, 3))
        assert all(torch.equal(lasting[i], fresh[i]) for i in range(N))


def test_the_generators_of_the_process_are_left_alone(squares: Path, tmp_path: Path) -> None:
    images = drawn_images(squares, tmp_path, "SEED", 1)
    set_random_seed(3)
    expected = draws(None)
    set_random_seed(3)
    for index in range(N):
        images[index]
    assert torch.equal(draws(None), expected)
    one, two = (drawn_images(squares, tmp_path)[0]["img"] for _ in range(2))  # without a seed, each draws its own
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


class OwnLoop(Linear):
    """A programme's trainer with a loop of its own, which keeps what it was given in each epoch."""

    first = 0

    def resume_model_if_exist(self, directory: str) -> int:
        return self.first

    def before_epoch(self) -> None:
        self.seen = {} if self.epoch == self.first else self.seen

    def run_epoch(self) -> None:
        self.seen[self.epoch] = seen(self.train_loader_x)


@ours_only("the loaders of Dassl are told nothing")
def test_a_resumed_loop_of_a_programmes_own_is_given_what_belongs_to_the_epoch(squares: Path, tmp_path: Path) -> None:
    options = ("SEED", 1, "OPTIM.MAX_EPOCH", 3, "DATALOADER.TRAIN_X.BATCH_SIZE", 18, "DATALOADER.NUM_WORKERS")
    whole, resumed = (OwnLoop(make_cfg(squares, tmp_path, *options, workers)) for workers in (0, 2))
    resumed.first = 1
    for trainer in (whole, resumed):
        trainer.train()
    assert list(resumed.seen) == [1, 2]
    assert all(torch.equal(resumed.seen[epoch][i], whole.seen[epoch][i]) for epoch in (1, 2) for i in range(N))
    assert not torch.equal(whole.seen[0][0], whole.seen[1][0])


@ours_only("an exact resume")
@pytest.mark.parametrize(("workers", "final"), [(0, "best_val"), (0, "last_step"), (2, "best_val")])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    squares: Path, tmp_path: Path, workers: int, final: str
) -> None:
    options = ("DATALOADER.NUM_WORKERS", workers, "TEST.FINAL_MODEL", final, "OPTIM.NAME", "adam")
    whole = run(make_cfg(squares, tmp_path / "whole", *options))
    with pytest.raises(KilledError):
        run(make_cfg(squares, tmp_path / "parts", *options, "TRAINER.NAME", "Dying"))
    random.seed(99)  # whatever the second process does first does not matter
    resumed = run(make_cfg(squares, tmp_path / "parts", *options))
    assert torch.equal(weights_of(resumed), weights_of(whole))
    assert resumed.best_result == whole.best_result
    one, two = (load_checkpoint(str(tmp_path / name / "linear" / "model.pth.tar-6")) for name in ("whole", "parts"))
    assert torch.equal(one["rng"]["torch"], two["rng"]["torch"])
    assert one["rng"]["python"] == two["rng"]["python"]
    assert one["scheduler"] == two["scheduler"]


def test_generators_go_on_where_their_state_was_taken() -> None:
    def drawn() -> tuple[Any, ...]:
        return random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist(), torch.rand(2).tolist()

    random.gauss(0, 1)  # the second of its pair is kept
    np.random.standard_normal()
    state = rng_state()
    first = drawn()
    restore_rng(state)
    assert first == drawn()


@ours_only("an exact resume")
def test_folder_without_a_checkpoint_starts_from_scratch(squares: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "linear").mkdir()  # what a process leaves that dies before its first checkpoint
    run(make_cfg(squares, tmp_path, "OPTIM.MAX_EPOCH", 1))
    assert "No checkpoint found, train from scratch" in capsys.readouterr().out
    (tmp_path / "linear" / "checkpoint").write_text("model.pth.tar-3\n")  # but a pointer to a lost file is an error
    with pytest.raises(FileNotFoundError, match=r"model\.pth\.tar-3"):
        run(make_cfg(squares, tmp_path))


class Pair(Linear):
    """Two models."""

    def build_model(self) -> None:
        super().build_model()
        self.second = nn.Linear(1, 1)
        self.register_model("second", self.second)


@ours_only("an exact resume")
def test_models_saved_at_different_epochs_go_back_to_the_same_one(squares: Path, tmp_path: Path) -> None:
    trainer = Pair(make_cfg(squares, tmp_path))
    nn.init.constant_(trainer.second.weight, 1.0)
    trainer.save_model(0, str(tmp_path))
    early = weights_of(trainer).clone()
    with torch.no_grad():
        trainer.model[1].weight.zero_()
    trainer.save_model(1, str(tmp_path))
    (tmp_path / "second" / "checkpoint").write_text("model.pth.tar-1\n")  # died before it saved the second model
    assert trainer.resume_model_if_exist(str(tmp_path)) == 1
    assert torch.equal(weights_of(trainer), early)


@ours_only("an exact resume")
def test_schedule_of_a_longer_training_is_that_of_its_own_config(squares: Path, tmp_path: Path) -> None:
    run(make_cfg(squares, tmp_path, "OPTIM.MAX_EPOCH", 3))
    longer = run(make_cfg(squares, tmp_path, "OPTIM.MAX_EPOCH", 5))
    expected = [0.001 * (1 + np.cos(np.pi * e / 5)) for e in (2, 3)]
    assert longer.rates == pytest.approx(expected)


@ours_only("an exact resume")
@pytest.mark.parametrize(("warmup", "recount"), [(0, True), (1, True), (2, True), (2, False)])
@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_old_checkpoint_with_objects_in_it_is_resumed(
    tmp_path: Path, squares: Path, warmup: int, recount: bool, epoch: int
) -> None:
    """As Dassl wrote it: the scheduler's state holds the successor, which holds the optimiser."""
    node = make_cfg(squares, tmp_path, "OPTIM.WARMUP_EPOCH", warmup, "OPTIM.WARMUP_RECOUNT", recount).OPTIM
    model = nn.Linear(2, 2)
    optimiser = build_optimizer(model, node)
    schedule = build_lr_scheduler(optimiser, node)
    for _ in range(epoch):
        model(torch.ones(1, 2)).sum().backward()
        optimiser.step()
        schedule.step()
    state = {"state_dict": OrderedDict(model.state_dict()), "epoch": epoch, "val_result": np.float64(81.25)}
    state |= {"optimizer": optimiser.state_dict(), "scheduler": as_dassl_writes_it(optimiser, warmup, recount, epoch)}
    torch.save(state, tmp_path / "old.pth")

    content = load_checkpoint(str(tmp_path / "old.pth"))
    fresh = build_optimizer(nn.Linear(2, 2), node)
    resumed = build_lr_scheduler(fresh, node)
    fresh.load_state_dict(content["optimizer"])
    resumed.load_state_dict(content["scheduler"])
    assert content["val_result"] == 81.25
    for _ in range(3):
        assert fresh.param_groups[0]["lr"] == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
        for one in (optimiser, fresh):
            one.step()
        schedule.step()
        resumed.step()


def as_dassl_writes_it(optimiser: Any, warmup: int, recount: bool, epoch: int) -> dict[str, Any]:
    rate = optimiser.param_groups[0]["lr"]
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 6.0)
    optimiser.param_groups[0]["lr"] = rate
    if not warmup:
        successor.last_epoch = epoch
        return {key: value for key, value in vars(successor).items() if isinstance(value, (int, float, list))}
    successor.last_epoch = max(epoch - warmup, 0) if recount else max(epoch, warmup)
    counted = min(epoch, warmup)
    return {"successor": successor, "warmup_epoch": warmup, "cons_lr": 1e-5, "base_lrs": [0.002], "last_epoch": counted}


def in_a_child(cfg: Any, weights: Path) -> int:
    """Trains in a forked process, which writes its weights at the end; its process number."""
    if child := os.fork():
        return child
    try:
        torch.set_num_threads(1)  # a forked process must not use the parent's thread pool
        with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence):
            torch.save(weights_of(run(cfg)), weights)
    finally:
        os._exit(0)


@ours_only("an exact resume")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 on forks of processes with threads
def test_process_killed_a_dozen_times_loses_nothing(squares: Path, tmp_path: Path) -> None:
    """Killed at random moments while it trains and saves; the last run ends where an undisturbed one does."""
    options = ("TRAIN.CHECKPOINT_FREQ", 1, "OPTIM.MAX_EPOCH", 10)
    whole = weights_of(run(make_cfg(squares, tmp_path / "whole", *options)))
    cfg = make_cfg(squares, tmp_path / "killed", *options)
    moments = random.Random(0)
    for _ in range(12):
        child = in_a_child(cfg, tmp_path / "weights.pt")
        time.sleep(moments.uniform(0.01, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for path in (tmp_path / "killed" / "linear").glob("model.pth.tar-*"):
            assert load_checkpoint(str(path))["epoch"] == int(path.name.rpartition("-")[2])
    os.waitpid(in_a_child(cfg, tmp_path / "weights.pt"), 0)
    assert torch.equal(torch.load(tmp_path / "weights.pt", weights_only=True), whole)
