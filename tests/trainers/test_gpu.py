"""Every trainer on a CUDA device: what it computes on a CPU, in every precision, resumed, and explained.

XCOOP_TEST_GPU=1 bash scripts/test.sh -m gpu
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
import torch
from emulated import RECORDED
from helpers_clip import tiny_backbone
from tiny_run import ConfigMaker

import xcoop
from xcoop.backbones import ImageFeatures
from xcoop.config.plugins import trainer_names, trains
from xcoop.trainers.cocoop import DEFAULTS as COCOOP
from xcoop.trainers.cocoop import CoCoOpModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TRAINERS = trainer_names()
LEARNING = [name for name in TRAINERS if trains(name)]
ON_DEVICE = ("USE_CUDA", True)
GRAPH = (*ON_DEVICE, "TRAIN.CUDA_GRAPH", True)
WITHOUT_STEPS = "it takes no steps"


def precision(name: str, value: str) -> tuple[str, str]:
    """The setting of a trainer's precision."""
    return f"TRAINER.{name.upper()}.PREC", value


def first_step(trainer: Any) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The gradients and the numbers of a step on the first batch, on the CPU."""
    trainer.before_train()
    trainer.set_model_mode("train")
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 0, 1
    torch.manual_seed(0)
    shown = trainer.forward_backward(next(iter(trainer.train_loader_x)))
    trained = trainer.model.trained_parameters()
    gradients = {key: parameter.grad.float().cpu() for key, parameter in trained.items()}
    return gradients, {key: float(value) for key, value in shown.items()}


@pytest.mark.parametrize("name", LEARNING)
def test_a_step_is_that_of_a_cpu(name: str, make_cfg: ConfigMaker) -> None:
    here = tiny_run.build(make_cfg(name, output="cpu"))
    if here.optim is None:
        pytest.skip(WITHOUT_STEPS)
    there = tiny_run.build(make_cfg(name, *ON_DEVICE))
    there.model.load_trained_state(here.model.trained_state())  # random starts may differ between devices
    (gradients, shown), (found, numbers) = first_step(here), first_step(there)
    assert numbers == pytest.approx(shown, rel=1e-3, abs=1e-4)
    for key, gradient in gradients.items():
        assert (found[key] - gradient).norm() <= 1e-2 * gradient.norm(), key


@pytest.mark.parametrize("name", TRAINERS)
def test_a_run_predicts_what_it_predicts_on_a_cpu(name: str, make_cfg: ConfigMaker) -> None:
    """A model that was trained on the device, loaded on both."""
    run = tiny_run.trained(make_cfg(name, *ON_DEVICE))
    folder, images = Path(run.output_dir), [item.impath for item in run.dm.dataset.test]
    here, there = (xcoop.load_run(folder, device=device).predict(images).probabilities for device in ("cpu", None))
    np.testing.assert_allclose(there, here, atol=1e-3)
    if not run.model.mixes_batches:
        np.testing.assert_allclose(torch.cat(run._probabilities).numpy(), here, atol=1e-3)


@pytest.mark.parametrize("format_", ["amp", "bf16", "auto"])
@pytest.mark.parametrize("name", LEARNING)
def test_half_precision_has_the_losses_of_full_precision(name: str, format_: str, make_cfg: ConfigMaker) -> None:
    full = tiny_run.build(make_cfg(name, *ON_DEVICE, output="fp32"))
    if full.optim is None:
        pytest.skip(WITHOUT_STEPS)
    half = tiny_run.build(make_cfg(name, *ON_DEVICE, *precision(name, format_)))
    half.model.load_trained_state(full.model.trained_state())
    (_, shown), (_, numbers) = first_step(full), first_step(half)
    assert numbers["loss"] == pytest.approx(shown["loss"], rel=0.1)
    finished = tiny_run.trained(make_cfg(name, *ON_DEVICE, *precision(name, format_), output="trained"))
    assert all(torch.isfinite(rows).all() for rows in finished._probabilities)


@pytest.mark.parametrize("name", LEARNING)
def test_a_resumed_run_is_an_uninterrupted_one(name: str, make_cfg: ConfigMaker) -> None:
    """Not bit for bit: sums on a device may come in another order."""
    pairs = (*ON_DEVICE, "OPTIM.MAX_EPOCH", 4)
    stopped = tiny_run.build(make_cfg(name, *pairs, output="stopped"))
    if stopped.optim is None:
        pytest.skip(WITHOUT_STEPS)
    tiny_run.stop_in_the_third_epoch(stopped)
    whole = tiny_run.trained(make_cfg(name, *pairs))
    resumed = tiny_run.trained(make_cfg(name, *pairs, output="stopped"))
    assert resumed.start_epoch == 2
    rows = [torch.cat(run._probabilities) for run in (resumed, whole)]
    torch.testing.assert_close(*rows, atol=1e-3, rtol=0)


# Steps as a CUDA graph; on a CPU they are emulated (`test_graph.py`).


def far_apart(ours: Any, theirs: Any, start: dict[str, torch.Tensor]) -> list[str]:
    """What two trainings from the same start did not bring to the same place, to a hundredth of the way."""
    own, other = ours.model.trained_state(), theirs.model.trained_state()
    return [key for key in own if (own[key] - other[key]).norm() > 1e-2 * (other[key] - start[key]).norm() + 1e-6]


@pytest.mark.parametrize(
    ("name", "format_"), [*((name, "fp32") for name in RECORDED), ("XCoOp", "bf16"), ("CoCoOp", "bf16")]
)
def test_a_graph_takes_the_plain_steps(name: str, format_: str, make_cfg: ConfigMaker) -> None:
    """Of a gradient that is a difference of equal numbers rounding decides: contexts start away from their teachers."""
    pairs = ("OPTIM.MAX_EPOCH", 4, *precision(name, format_))
    pairs += ("TRAINER.PROGRAD.CTX_INIT", "") if name == "ProGrad" else ()
    plain = tiny_run.build(make_cfg(name, *ON_DEVICE, *pairs, output="plain"))
    start = plain.model.trained_state()
    plain.train()
    run = tiny_run.trained(make_cfg(name, *GRAPH, *pairs))
    assert run.steps.recording is not None  # else the log says why
    assert far_apart(run, plain, start) == []
    rows = [torch.cat(one._probabilities) for one in (run, plain)]
    torch.testing.assert_close(*rows, atol=1e-3 if format_ == "fp32" else 2e-2, rtol=0)


@pytest.mark.parametrize("optimiser", ["amsgrad", "adamw"])
def test_a_graph_with_an_optimiser_that_counts(optimiser: str, make_cfg: ConfigMaker) -> None:
    pairs = ("OPTIM.MAX_EPOCH", 4, "OPTIM.NAME", optimiser)
    plain = tiny_run.build(make_cfg("XCoOp", *ON_DEVICE, *pairs, output="plain"))
    start = plain.model.trained_state()
    plain.train()
    run = tiny_run.trained(make_cfg("XCoOp", *GRAPH, *pairs))
    assert run.steps.recording is not None
    assert far_apart(run, plain, start) == []


def test_a_graph_is_resumed(make_cfg: ConfigMaker) -> None:
    pairs = (*GRAPH, "OPTIM.MAX_EPOCH", 4)
    stopped = tiny_run.build(make_cfg("XCoOp", *pairs, output="stopped"))
    tiny_run.stop_in_the_third_epoch(stopped)
    whole = tiny_run.trained(make_cfg("XCoOp", *pairs))
    resumed = tiny_run.trained(make_cfg("XCoOp", *pairs, output="stopped"))
    assert resumed.start_epoch == 2
    assert resumed.steps.recording is not None
    torch.testing.assert_close(*(torch.cat(run._probabilities) for run in (resumed, whole)), atol=1e-3, rtol=0)


def test_a_loss_of_a_graph_that_is_no_number_names_its_step(make_cfg: ConfigMaker) -> None:
    run = tiny_run.build(make_cfg("XCoOp", *GRAPH, "OPTIM.MAX_EPOCH", 4))
    step = run.forward_backward

    def broken(batch: dict[str, Any]) -> Any:
        if (run.epoch, run.batch_idx) == (2, 0):
            batch["features"].pooled[0] = float("nan")
        return step(batch)

    run.forward_backward = broken
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 3, batch 1, with the images"):
        run.train()
    assert run.steps.recording is not None
    assert not Path(run.output_dir, "prompt_learner", "model.pth.tar-3").exists()


def test_a_replayed_step_waits_for_nothing_and_takes_no_memory(make_cfg: ConfigMaker) -> None:
    run = tiny_run.build(make_cfg("XCoOp", *GRAPH, "TRAIN.PRINT_FREQ", 1000))
    run.before_train()
    run.set_model_mode("train")
    run.epoch, run.batch_idx, run.num_batches = 0, 0, 1000
    for _ in range(2):
        for batch in run.train_loader_x:
            run.forward_backward(batch)
    assert run.steps.recording is not None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in run.train_loader_x:
            run.forward_backward(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.max_memory_allocated() - before < 1 << 20  # a batch, and the numbers of its step


@pytest.mark.parametrize("format_", ["fp32", "auto"])
@pytest.mark.parametrize("name", ["MaPLe", "PromptSRC", "CLIPLoRA", "XCoOpReleased"])
def test_a_tower_that_computes_twice_has_the_same_gradients(name: str, format_: str, make_cfg: ConfigMaker) -> None:
    runs = [
        tiny_run.build(make_cfg(name, *ON_DEVICE, *precision(name, format_), "TRAIN.RECOMPUTE_TOWER", twice))
        for twice in (False, True)
    ]
    runs[1].model.load_trained_state(runs[0].model.trained_state())
    (once, shown), (twice, numbers) = first_step(runs[0]), first_step(runs[1])
    assert numbers == pytest.approx(shown, rel=1e-3, abs=1e-4)
    for key, gradient in once.items():
        assert (twice[key] - gradient).norm() <= 1e-2 * gradient.norm(), key


@pytest.mark.parametrize("workers", [0, 2])
def test_features_gathered_on_the_device_are_those_of_a_cpu(workers: int, make_cfg: ConfigMaker) -> None:
    pairs = ("DATALOADER.NUM_WORKERS", workers, "FEATURES.CACHE", False)
    here, there = (tiny_run.build(make_cfg("XCoOp", *pairs, *more)) for more in ((), ON_DEVICE))
    assert there.store._place(1000) == there.device
    ours, theirs = (trainer.store._compute(trainer.test_loader) for trainer in (here, there))
    for own, other in ((ours.pooled, theirs.pooled), (ours.patches, theirs.patches)):
        assert other.device.type == "cuda"
        torch.testing.assert_close(other.cpu(), own, atol=1e-2, rtol=1e-2)  # a GPU convolves in TF32


@pytest.mark.parametrize("name", TRAINERS)
def test_explanations_are_those_of_a_cpu(name: str, make_cfg: ConfigMaker) -> None:
    run = tiny_run.trained(make_cfg(name, *ON_DEVICE))
    image = run.dm.dataset.test[0].impath
    here, there = (xcoop.load_run(Path(run.output_dir), device=device).explain(image) for device in ("cpu", None))
    assert there.predicted == here.predicted
    for text, own in here.contributions.items():
        assert there.contributions[text] == pytest.approx(own, abs=0.01)
    for text, part in here.base.items():
        assert there.base[text] == pytest.approx(part, abs=0.01)


def test_cocoop_holds_one_part_of_a_batch_at_a_time() -> None:
    """A step with sixteen parts takes less than a third of the memory that one with the whole batch takes."""
    names, device = ["melanoma", "blue nevus", "clear_lung"], torch.device("cuda")
    backbone = tiny_backbone().to(device)
    pooled = torch.randn(256, backbone.embed_dim, device=device)
    features = ImageFeatures(pooled, pooled[:, None][:, :0])
    peaks = []
    for sequences in (768, 48):
        keys = COCOOP.clone()
        keys.SEQUENCES = sequences
        model = CoCoOpModel(backbone, names, keys).to(device)
        for _ in range(2):  # the first step takes what stays: kernels, gradients
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            model.logits(features).sum().backward()
            peak = torch.cuda.max_memory_allocated() - before
        peaks.append(peak)
    assert peaks[1] < peaks[0] / 3
