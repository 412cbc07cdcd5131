"""Checkpoints: foreign, damaged and malicious ones; what stays when a run goes wrong."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker, Usual

from xcoop.engine.checkpoint import newest
from xcoop.results import checkpoints


class Evil:
    """Executes when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def coop_checkpoint(path: Path, ctx: torch.Tensor, epochs: int = 50) -> None:
    """As CoOp under Dassl writes it: fixed token vectors, and a scheduler that holds an optimiser, pickled."""
    parameter = torch.nn.Parameter(ctx)
    optimiser = torch.optim.SGD([parameter], lr=0.002, momentum=0.9)
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 50.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = OrderedDict(ctx=ctx, token_prefix=torch.zeros(7, 1, 64), token_suffix=torch.zeros(7, 72, 64))
    scheduler = {"successor": successor, "warmup_epoch": 1, "cons_lr": 1e-5, "last_epoch": 1, "base_lrs": [0.002]}
    content = {"state_dict": state, "epoch": epochs, "optimizer": optimiser.state_dict(), "scheduler": scheduler}
    torch.save(content | {"val_result": None}, path)


@pytest.fixture
def run(usual: Usual, make_cfg: ConfigMaker) -> Path:
    """The folder of a finished run of CoOp, to be damaged."""
    return Path(shutil.copytree(usual("CoOp").trainer.output_dir, make_cfg("CoOp").OUTPUT_DIR))


def test_contexts_trained_by_coop_load_for_other_classes(make_cfg: ConfigMaker, tmp_path: Path) -> None:
    ctx = torch.randn(4, 64).half()
    coop_checkpoint(tmp_path / "coop/prompt_learner/model.pth.tar-50", ctx)
    trainer = tiny_run.build(make_cfg("CoOp", "TRAINER.COOP.N_CTX", 4))
    trainer.load_model(str(tmp_path / "coop"), epoch=50)
    assert torch.equal(trainer.model.prompt_learner.ctx, ctx.float())


def test_generic_contexts_serve_other_class_names(make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tiny_run.trained(make_cfg("CoOp"))
    monkeypatch.setattr(tiny_run, "NAMES", ["a much longer name of a spot", "spot"])
    other = tiny_run.build(make_cfg("CoOp", output="other"))
    other.load_model(trained.output_dir, epoch=2)
    assert torch.equal(other.model.prompt_learner.ctx, trained.model.prompt_learner.ctx)
    assert not torch.equal(tiny_run.logits(other), tiny_run.logits(trained))


def test_what_does_not_fit_changes_nothing_and_names_the_file(make_cfg: ConfigMaker) -> None:
    longer = tiny_run.trained(make_cfg("CoOp", "TRAINER.COOP.N_CTX", 5))
    trainer = tiny_run.build(make_cfg("CoOp", output="other"))
    before = tiny_run.logits(trainer)
    with pytest.raises(ValueError, match=r"model.pth.tar-2: 'ctx' has shape \(5, 64\), this model's has \(16, 64\)"):
        trainer.load_model(longer.output_dir, epoch=2)
    cocoop = tiny_run.trained(make_cfg("CoCoOp", output="cocoop"))
    with pytest.raises(ValueError, match=r"holds meta_net.*does not train"):
        trainer.load_model(cocoop.output_dir, epoch=2)
    with pytest.raises(ValueError, match=r"lacks meta_net"):
        tiny_run.build(make_cfg("CoCoOp", output="third")).load_model(longer.output_dir, epoch=2)
    assert torch.equal(tiny_run.logits(trainer), before)


@pytest.mark.parametrize("name", ["CoOp", "XCoOp"])
def test_contexts_of_classes_are_refused_for_other_classes(
    name: str, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many classes, so the shapes agree."""
    pairs = ("TRAINER.COOP.CSC", True)
    trained = tiny_run.trained(make_cfg(name, *pairs))
    monkeypatch.setattr(tiny_run, "NAMES", tiny_run.NAMES[::-1])
    other = tiny_run.build(make_cfg(name, *pairs, output="other"))
    with pytest.raises(
        ValueError, match=r"model.pth.tar-2 holds contexts of the classes \['dark_spot', 'bright spot'\]"
    ):
        other.load_model(trained.output_dir, epoch=2)


def test_a_missing_epoch_is_answered_with_those_that_are_there(usual: Usual) -> None:
    trainer = usual("CoOp").trainer
    with pytest.raises(FileNotFoundError, match=r"model.pth.tar-7; in that folder: model.pth.tar-1, model.pth.tar-2"):
        trainer.load_model(trainer.output_dir, epoch=7)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "pickle", "evil", "list", "numbers", "epoch"])
def test_damaged_and_malicious_files_are_named_and_nothing_runs(
    kind: str, run: Path, make_cfg: ConfigMaker, tmp_path: Path
) -> None:
    path = run / "prompt_learner" / "model.pth.tar-2"
    proof = tmp_path / "executed"
    whole = path.read_bytes()
    if kind == "evil":
        torch.save({"state_dict": Evil(proof), "epoch": 2}, path)
    elif kind == "list":
        torch.save([1, 2, 3], path)
    elif kind == "numbers":
        torch.save({"state_dict": {"ctx": 1.0}, "epoch": 2}, path)
    elif kind == "epoch":
        torch.save({"state_dict": {"ctx": torch.zeros(16, 64)}}, path)
    else:
        content = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}
        path.write_bytes(content.get(kind, pickle.dumps({"state_dict": Evil(proof)}, protocol=2)))
    left = path.read_bytes()
    for use in (lambda t: t.load_model(str(run), epoch=2), lambda t: t.train()):
        with pytest.raises(ValueError, match=r"model.pth.tar-2"):
            use(tiny_run.build(make_cfg("CoOp")))
    assert not proof.exists()
    assert path.read_bytes() == left


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_contexts_that_are_no_numbers_are_refused(number: str, run: Path, make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg("CoOp"))
    path = run / "prompt_learner" / "model.pth.tar-2"
    content = tiny_run.stored(trainer, 2)
    content["state_dict"]["ctx"][3, 5] = float(number)
    torch.save(content, path)
    before = trainer.model.trained_state()
    with pytest.raises(ValueError, match=r"model.pth.tar-2: 'ctx' does not hold finite numbers"):
        trainer.load_model(trainer.output_dir, epoch=2)
    assert torch.equal(trainer.model.trained_state()["ctx"], before["ctx"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("epoch", 10**12), ("epoch", -1), ("optimizer", 3), ("optimizer", None), ("rng", {}), ("best_result", "x")],
)
def test_what_cannot_be_resumed_from_is_named(key: str, value: Any, run: Path, make_cfg: ConfigMaker) -> None:
    path = run / "prompt_learner" / "model.pth.tar-2"
    torch.save(torch.load(path, weights_only=True) | {key: value}, path)
    with pytest.raises(ValueError, match=r"model.pth.tar-2 (was written after epoch|is no checkpoint to resume)"):
        tiny_run.build(make_cfg("CoOp")).train()


def test_a_full_disk_is_named_and_leaves_the_older_checkpoint(
    run: Path, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_run.build(make_cfg("CoOp"))
    path = run / "prompt_learner" / "model.pth.tar-2"
    whole = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*model.pth.tar-2'"):
        trainer.save_model(1, trainer.output_dir)
    assert path.read_bytes() == whole
    assert sorted(file.name for file in path.parent.iterdir()) == ["checkpoint", "model.pth.tar-1", path.name]


def test_a_pointer_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "prompt_learner"
    folder.mkdir()
    for name in (b"../secret", b"", b"model.pth.tar-9", b"\x8b\0\xff", b"x" * 4000, b"x" * 5000):
        (folder / "checkpoint").write_bytes(name)
        with pytest.raises(ValueError, match=str(folder / "checkpoint")) as caught:
            checkpoints.latest_checkpoint(folder)
        assert len(str(caught.value)) < 1000
        with pytest.raises((ValueError, FileNotFoundError), match=str(folder / "checkpoint")):
            newest(str(folder))


@pytest.mark.parametrize("name", ["CoOp", "XCoOp"])
def test_a_loss_that_is_no_number_stops_the_run_and_loses_nothing(
    name: str, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_run.build(make_cfg(name, "OPTIM.MAX_EPOCH", 4))
    losses = type(trainer.model).losses

    def poisoned(self: Any, *batch: Any) -> dict[str, torch.Tensor]:
        poison = float("nan") if trainer.epoch == 2 and trainer.batch_idx == 1 else 1.0
        return {key: value * poison for key, value in losses(self, *batch).items()}

    monkeypatch.setattr(type(trainer.model), "losses", poisoned)
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 3, batch 2, with the images .*/train/0-\d\d"):
        trainer.train()
    folder = Path(trainer.output_dir)
    assert (folder / "prompt_learner/checkpoint").read_text() == "model.pth.tar-2\n"
    assert not (folder / "results.json").exists()
    assert all(torch.isfinite(tensor).all() for tensor in trainer.model.trained_state().values())


@pytest.mark.parametrize("every", [1, 2, 20])
def test_where_a_look_waits_for_the_device_the_run_still_stops_before_it_saves(
    every: int, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps go on until the next look, which names the first bad one; as it is on any device but a CPU."""
    trainer = tiny_run.build(make_cfg("CoOp", "OPTIM.MAX_EPOCH", 4, "TRAIN.PRINT_FREQ", every))
    trainer.finite.at_once = False
    losses = type(trainer.model).losses
    steps = []

    def poisoned(self: Any, *batch: Any) -> dict[str, torch.Tensor]:
        steps.append((trainer.epoch, trainer.batch_idx))
        poison = float("nan") if trainer.epoch == 2 and trainer.batch_idx == 0 else 1.0
        return {key: value * poison for key, value in losses(self, *batch).items()}

    monkeypatch.setattr(type(trainer.model), "losses", poisoned)
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 3, batch 1, with the images .*/train/0-\d\d"):
        trainer.train()
    assert steps[-1] == (2, 0 if every == 1 else 1)  # there are two batches
    assert Path(trainer.output_dir, "prompt_learner/checkpoint").read_text() == "model.pth.tar-2\n"
    assert not Path(trainer.output_dir, "results.json").exists()


def test_a_gradient_that_is_no_number_stops_the_run_too(make_cfg: ConfigMaker) -> None:
    """The loss is a number, its derivative is not: the step must not be taken."""
    trainer = tiny_run.build(make_cfg("CoOp"))
    trainer.model.prompt_learner.ctx.register_hook(lambda gradient: gradient * float("inf"))
    before = trainer.model.trained_state()
    with pytest.raises(FloatingPointError, match=r"gradient is .* in epoch 1, batch 1"):
        trainer.train()
    assert torch.equal(trainer.model.trained_state()["ctx"], before["ctx"])


def test_the_best_model_is_kept_and_deployed_and_a_resume_starts_from_the_last(
    make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation says 10, 30, 20: epoch 2 is the best, and the run is resumed after epoch 3, not after the best."""
    trainer = tiny_run.build(make_cfg("CoOp", "OPTIM.MAX_EPOCH", 3, "TEST.FINAL_MODEL", "best_val"))
    test = type(trainer).test

    def staged(self: Any, split: str | None = None) -> float:
        accuracy = test(self, split)
        return {0: 10.0, 1: 30.0, 2: 20.0}[self.epoch] if split == "val" else accuracy

    monkeypatch.setattr(type(trainer), "test", staged)
    trainer.train()
    folder = Path(trainer.output_dir, "prompt_learner")
    best = torch.load(folder / "model-best.pth.tar", weights_only=True)
    assert (best["epoch"], best["val_result"]) == (2, 30.0)
    assert torch.equal(trainer.model.prompt_learner.ctx, best["state_dict"]["ctx"])
    assert (folder / "checkpoint").read_text() == "model.pth.tar-3\n"

    longer = tiny_run.build(make_cfg("CoOp", "OPTIM.MAX_EPOCH", 3, "TEST.FINAL_MODEL", "best_val"))
    longer.before_train()
    assert (longer.start_epoch, longer.best_result) == (3, 30.0)


def test_selection_without_validation_images_is_refused(make_cfg: ConfigMaker, tmp_path: Path) -> None:
    data = tiny_run.draw(tmp_path / "pictures")
    for path in (data / "val").iterdir():
        path.unlink()
    for pairs in (("TEST.FINAL_MODEL", "best_val"), ("TEST.SPLIT", "val")):
        with pytest.raises(ValueError, match="no validation split"):
            tiny_run.build(make_cfg("CoOp", "DATASET.ROOT", str(data), *pairs))
    tiny_run.build(make_cfg("CoOp", "DATASET.ROOT", str(data)))
