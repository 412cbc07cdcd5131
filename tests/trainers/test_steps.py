"""One step: precisions, clipping, groups with rates of their own, the schedule, the lines of the log."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker

from xcoop.config.plugins import get_cfg, trainer_class, trainer_names
from xcoop.engine.parts import PRECISIONS, computed_in, number_formats

PLAIN = ("OPTIM.MOMENTUM", 0.0, "OPTIM.WEIGHT_DECAY", 0.0, "OPTIM.WARMUP_EPOCH", -1, "OPTIM.MAX_EPOCH", 1)


def one_step(trainer: Any) -> torch.Tensor:
    """How far the first step moves all that is trained, as one vector."""
    before = trainer.model.trained_state()
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 0, 99
    trainer.set_model_mode("train")
    trainer.forward_backward(next(iter(trainer.train_loader_x)))
    after = trainer.model.trained_state()
    return torch.cat([(after[name] - before[name]).flatten() for name in before])


@pytest.mark.parametrize("name", ["amp", "fp16"])
def test_half_precision_without_a_gpu_is_full_precision_and_says_so(
    name: str, make_cfg: ConfigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    half = tiny_run.trained(make_cfg("CoOp", "TRAINER.COOP.PREC", name))
    assert caplog.text.count(f"PREC {name} needs a GPU") == 1
    full = tiny_run.trained(make_cfg("CoOp", output="full"))
    assert torch.equal(half.model.trained_state()["ctx"], full.model.trained_state()["ctx"])


@pytest.mark.parametrize(
    ("name", "on_cpu", "on_gpu", "with_bf16"),
    [
        ("fp32", "fp32", "fp32", "fp32"),
        ("amp", "fp32", "fp16", "fp16"),
        ("fp16", "fp32", "fp16", "fp16"),
        ("bf16", "bf16", "bf16", "bf16"),
        ("auto", "fp32", "fp16", "bf16"),
    ],
)
def test_what_a_precision_means_depends_on_device_and_hardware(
    name: str, on_cpu: str, on_gpu: str, with_bf16: str
) -> None:
    assert [computed_in(name, "cpu", has_bf16) for has_bf16 in (False, True)] == [on_cpu, on_cpu]
    assert [computed_in(name, "cuda", has_bf16) for has_bf16 in (False, True)] == [on_gpu, with_bf16]
    assert name in PRECISIONS


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_the_loss_is_scaled_in_fp16_alone(has_bf16: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a scaler turns itself off without a GPU
    used, scaler = number_formats("auto", torch.device("cuda"))
    assert used == dtype
    assert scaler.is_enabled() is not has_bf16
    assert number_formats("auto", torch.device("cpu"))[0] is None


@pytest.mark.parametrize(("value", "recorded"), [("bf16", "bf16"), ("auto", "fp32")])
def test_the_record_says_what_was_computed_in(value: str, recorded: str, make_cfg: ConfigMaker) -> None:
    run = tiny_run.trained(make_cfg("CoOp", "TRAINER.COOP.PREC", value))
    record = json.loads(tiny_run.Path(run.output_dir, "results.json").read_text())
    assert record["precision"] == recorded
    assert value == run.cfg.TRAINER.COOP.PREC
    tested = tiny_run.build(make_cfg("CoOp", "TRAINER.COOP.PREC", value, output="tested"))
    tested.load_model(run.output_dir)
    tested.test()
    assert json.loads(tiny_run.Path(tested.output_dir, "results.json").read_text())["precision"] is None


STEPPED = [name for name in trainer_names() if "PREC" in get_cfg().TRAINER[trainer_class(name).node]]


@pytest.mark.parametrize("name", STEPPED)
def test_bf16_trains_32_bit_parameters_close_to_fp32(name: str, make_cfg: ConfigMaker) -> None:
    node = f"TRAINER.{name.upper()}.PREC"
    full = tiny_run.trained(make_cfg(name, *PLAIN))
    half = tiny_run.trained(make_cfg(name, *PLAIN, node, "bf16", output="half"))
    for key, tensor in half.model.trained_state().items():
        assert tensor.dtype == torch.float32, key
    ours, theirs = torch.cat(half._probabilities), torch.cat(full._probabilities)
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ["CoOp", "KgCoOp", "ProGrad", "BiomedCoOp", "LASP", "XCoOpReleased"])
def test_a_scaler_changes_no_step_and_an_overflow_skips_one(name: str, make_cfg: ConfigMaker) -> None:
    pairs = (*PLAIN, f"TRAINER.{name.upper()}.CTX_INIT", "")  # away from the sentence of a teacher
    torch.manual_seed(1)
    plain = one_step(tiny_run.build(make_cfg(name, *pairs)))
    assert plain.any()
    scaled = tiny_run.build(make_cfg(name, *pairs))
    scaled.scaler = _cpu_scaler()
    torch.testing.assert_close(one_step(scaled), plain, rtol=1e-3, atol=1e-8)
    hook = scaled.model.prompt_learner.ctx.register_hook(lambda gradient: gradient * float("inf"))
    assert not one_step(scaled).any()
    assert scaled.scaler.get_scale() == 2.0**15  # halved
    hook.remove()
    assert one_step(scaled).any()


@pytest.mark.parametrize("scaled", [False, True])
def test_clipping_limits_the_true_gradient(scaled: bool, make_cfg: ConfigMaker) -> None:
    """Without momentum a step is lr times the gradient; a scaler's factor must be gone before the norm is taken."""
    pairs = (*PLAIN, "TRAINER.XCOOP.OFFSET_LR_MULT", 1.0)  # one rate for all
    free = tiny_run.build(make_cfg("XCoOp", *pairs, "TRAINER.XCOOP.CLIP_GRAD_NORM", 0.0))
    moved = one_step(free)
    limit = 0.25 * moved.norm().item() / 0.01
    clipped = tiny_run.build(make_cfg("XCoOp", *pairs, "TRAINER.XCOOP.CLIP_GRAD_NORM", limit))
    if scaled:
        clipped.scaler = _cpu_scaler()
    torch.testing.assert_close(one_step(clipped), moved / 4, rtol=1e-3, atol=1e-7)
    loose = tiny_run.build(make_cfg("XCoOp", *pairs, "TRAINER.XCOOP.CLIP_GRAD_NORM", 100 * limit))
    assert torch.equal(one_step(loose), moved)


def test_each_group_has_its_own_rate_and_the_log_names_it(
    make_cfg: ConfigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    trainer = tiny_run.build(make_cfg("XCoOp", *PLAIN, "TRAINER.XCOOP.TUNE_NORMS", True, "OPTIM.LR", 0.02))
    rates = {group["name"]: group["lr"] for group in trainer.optim.param_groups}
    assert rates == {"prompts": 0.02, "offsets": pytest.approx(2.0), "norm layers": pytest.approx(0.002)}
    assert trainer.get_current_lr() == 0.02  # what the log shows, whatever the order of the groups
    assert "training prompts" in caplog.text
    assert "training norm layers: 1,536 parameters at lr 0.002" in caplog.text  # 3 blocks x 2 norms x 2 x 128


@pytest.mark.parametrize("resumed_at", [None, 2])
def test_the_rate_follows_warm_up_and_cosine_also_after_a_resume(
    resumed_at: int | None, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_cfg("CoOp", "OPTIM.MAX_EPOCH", 5, "OPTIM.LR", 0.01)
    if resumed_at:
        tiny_run.trained(cfg)
        pointer = tiny_run.Path(cfg.OUTPUT_DIR, "prompt_learner", "checkpoint")
        pointer.write_text(f"model.pth.tar-{resumed_at}\n")
    trainer = tiny_run.build(cfg)
    rates = []
    before = type(trainer).before_epoch
    monkeypatch.setattr(type(trainer), "before_epoch", lambda self: (rates.append(self.get_current_lr()), before(self)))
    trainer.train()
    whole = [1e-5] + [0.01 * (1 + math.cos(math.pi * e / 5)) / 2 for e in range(4)]
    assert rates == pytest.approx(whole[resumed_at or 0 :], rel=1e-6)


def test_the_log_has_the_lines_that_parsers_look_for(make_cfg: ConfigMaker, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_run.trained(make_cfg("CoOp"))
    lines = capsys.readouterr().out.splitlines()
    number = r"\d+\.\d{3,4} \(\d+\.\d{3,4}\)"
    epoch = rf"epoch \[1/2\] batch \[2/2\] time {number} data {number} loss {number} acc {number} lr \S+ eta 0:00:00"
    assert any(re.fullmatch(epoch, line) for line in lines), lines
    finished = lines.index("Finish training")
    assert lines[finished + 1] == "Deploy the last-epoch model"
    assert any(re.fullmatch(r"\* accuracy: \d+\.\d%", line) for line in lines[finished:])


def test_parts_of_a_loss_are_shown_and_sum_to_it(make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg("XCoOp", *PLAIN))
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 0, 99
    shown = trainer.forward_backward(next(iter(trainer.train_loader_x)))
    parts = {name: value for name, value in shown.items() if name not in ("loss", "acc")}
    assert len(parts) > 1
    assert sum(parts.values()) == pytest.approx(shown["loss"], rel=1e-6)
    assert 0 <= shown["acc"] <= 100


def test_no_more_workers_than_cpus(
    make_cfg: ConfigMaker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    trainer = tiny_run.trained(make_cfg("LinearProbe", "DATALOADER.NUM_WORKERS", 64, "FEATURES.CACHE", False))
    assert trainer.test_loader.num_workers == 2
    assert sum("NUM_WORKERS 64: this machine has 2 CPUs" in line for line in caplog.messages) == 1
    assert trainer.cfg.DATALOADER.NUM_WORKERS == 64  # what is recorded does not depend on the machine


def test_images_of_a_wrong_size_or_normalisation_are_noticed(
    make_cfg: ConfigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"INPUT.SIZE is \(64, 64\); ViT-B/16 needs \(32, 32\)"):
        tiny_run.build(make_cfg("CoOp", "INPUT.SIZE", [64, 64]))
    tiny_run.build(make_cfg("CoOp", "INPUT.PIXEL_STD", [0.229, 0.224, 0.225]))
    assert "INPUT.PIXEL_STD" in caplog.text


def _cpu_scaler() -> Any:
    if not hasattr(torch.amp, "GradScaler"):
        pytest.skip("this torch has no gradient scaler for CPUs")
    return torch.amp.GradScaler("cpu", init_scale=2.0**16)
