"""Steps as one CUDA graph, on an emulated device: what a recording freezes is frozen, what it refuses is refused."""

from __future__ import annotations

import copy
import gc
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from emulated import PLAIN, RECORDED, TOWER, WITHOUT_STEPS, Emulated, Left, OnDevice, Tape, moved, tensors
from tiny_run import ConfigMaker
from torch._subclasses.fake_tensor import FakeTensorMode

from xcoop.backbones import ImageFeatures
from xcoop.backbones.openai import ClipBackbone
from xcoop.config.merge import config_hash
from xcoop.methods.model import PromptModel
from xcoop.training import graph
from xcoop.training.step import Step

EPOCHS = 4  # of two steps; two warm up, with the third a recording is compared, five are replayed
NEVER = 1 << 30


@pytest.fixture(autouse=True)
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are not cropped to their end tokens, as where looking for these would be a wait."""
    monkeypatch.setattr(ClipBackbone, "needed", lambda self, length, end: length)


def pairs(name: str) -> tuple[object, ...]:
    """Settings under which no gradient is a difference of equal numbers: contexts start away from what they teach."""
    context = ("TRAINER.PROGRAD.CTX_INIT", "") if name == "ProGrad" else ()
    return ("OPTIM.MAX_EPOCH", EPOCHS, *context)


def built(cfg: Any, recorder: Emulated | None) -> Any:
    """A trainer whose steps are recorded as that says."""
    run = tiny_run.build(cfg)
    run.steps = graph.Steps(recorder)
    return run


def epochs(run: Any, first: int = 0, last: int = EPOCHS) -> None:
    """Some epochs, without a test behind them."""
    if not first:
        run.before_train()
    for run.epoch in range(first, last):
        run.before_epoch()
        run.run_epoch()


def plain(make_cfg: ConfigMaker, name: str, *more: object, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same training with the same update of the parameters, and nothing recorded."""
    with monkeypatch.context() as patch:
        patch.setattr(graph, "WARM", NEVER)
        run = built(make_cfg(name, *pairs(name), *more, output="plain"), Emulated())
        epochs(run)
    return run


def state(run: Any) -> list[torch.Tensor]:
    """All that a training changes."""
    return [tensor.detach().clone() for tensor in tensors(run.model.trained_state(), run.optim.state_dict()["state"])]


def equal(one: Any, other: Any) -> bool:
    """Whether two trainings came to the same, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(state(one), state(other), strict=True))


def losses(run: Any) -> list[float]:
    """Wraps the steps of a run: what is shown of each from now on."""
    shown: list[float] = []
    step = run.forward_backward

    def taken(batch: dict[str, Any]) -> dict[str, float]:
        numbers: dict[str, float] = step(batch)
        shown.append(numbers["loss"])
        return numbers

    run.forward_backward = taken
    return shown


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is said of how steps are taken."""
    return [record.message for record in caplog.records if record.name == graph.__name__]


def left_by_a_step(run: Any) -> list[torch.Size]:
    """What a step leaves beside gradients and the optimiser's state. It would lie in memory of a recording."""
    trained = list(run.model.trained_parameters().values())
    batch = run.parse_batch_train(next(iter(run.train_loader_x)))
    step = Step(run.model, run.optim, run.dtype, run.scaler, 1.0)
    with Left() as left:
        step(*batch, lambda *_: None)
    gc.collect()
    known = {one.data_ptr() for one in tensors(trained, [one.grad for one in trained], run.optim.state_dict())}
    return [one.shape for one in left.alive() if one.data_ptr() not in known]


def step_on_a_fake_device(run: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Forward, losses, backward and clipping where nothing can be read from, nor copied to; the run is lost."""

    def there(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    features, labels = run.parse_batch_train(next(iter(run.train_loader_x)))
    monkeypatch.undo()  # prompts are not cropped there, whatever is said above
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no such device
    with FakeTensorMode():
        moved(run.model, there)
        vars(run.model).pop("_trained", None)  # what it found before
        optim = torch.optim.SGD(run.model.parameter_groups(0.1), momentum=0.9)
        step = Step(run.model, optim, None, run.scaler, 1.0)
        batch = ImageFeatures(there(features.pooled), there(features.patches)), there(labels)
        with OnDevice():
            return step(*batch, lambda *_: None)


# A recorded step is the step.


@pytest.mark.parametrize("name", RECORDED)
def test_replayed_steps_are_the_plain_ones(
    name: str, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Other batches, other rates, clipped where the method clips: bit for bit. And none asks the host for anything."""
    caplog.set_level("INFO", "xcoop.training.graph")
    own = Emulated()
    run = built(make_cfg(name, *pairs(name)), own)
    shown = losses(run)
    epochs(run)
    assert (own.warmed, len(own.tapes), own.replayed) == (2, 1, 6)
    assert said(caplog) == ["steps of 8 images are replayed as one CUDA graph"]
    other = plain(make_cfg, name, monkeypatch=monkeypatch)
    assert equal(run, other)
    assert len({round(loss, 6) for loss in shown[2:]}) == 6
    assert left_by_a_step(other) == []
    assert {value.device.type for value in step_on_a_fake_device(other, monkeypatch).values()} == {"meta"}


def test_every_other_method_says_why_its_steps_are_plain(
    make_cfg: ConfigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    built_ = {name: tiny_run.build(make_cfg(name)) for name in (*PLAIN, *WITHOUT_STEPS)}
    assert [name for name, run in built_.items() if run.optim is None] == list(WITHOUT_STEPS)
    steps = {name: Step(run.model, run.optim, run.dtype, run.scaler, 0.0) for name, run in built_.items() if run.optim}
    assert {name: graph.why_plain(step) for name, step in steps.items()} == PLAIN
    run = built_["CLIPLoRA"]
    run.steps = graph.Steps(Emulated())
    epochs(run, last=1)
    assert said(caplog) == [f"TRAIN.CUDA_GRAPH: the steps of this run are plain: {TOWER}"]
    assert (run.steps.recorder, run.steps.recording) == (None, None)


@pytest.mark.parametrize("optimiser", ["amsgrad", "adamw"])
def test_optimisers_that_count_their_steps(
    optimiser: str, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Emulated()
    run = built(make_cfg("XCoOp", *pairs("XCoOp"), "OPTIM.NAME", optimiser), own)
    epochs(run)
    assert own.replayed == 6
    assert equal(run, plain(make_cfg, "XCoOp", "OPTIM.NAME", optimiser, monkeypatch=monkeypatch))
    usual = tiny_run.build(make_cfg("XCoOp", *pairs("XCoOp"), "OPTIM.NAME", optimiser, output="usual"))
    epochs(usual)
    for one, two in zip(state(run), state(usual), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert run.optim.state_dict()["param_groups"] == usual.optim.state_dict()["param_groups"]


def test_in_bf16_with_frozen_weights_held_in_it(make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    own, bf16 = Emulated(), ("TRAINER.XCOOP.PREC", "bf16")
    run = built(make_cfg("XCoOp", *pairs("XCoOp"), *bf16), own)
    epochs(run)
    assert own.replayed == 6
    assert equal(run, plain(make_cfg, "XCoOp", *bf16, monkeypatch=monkeypatch))


def test_a_rate_that_is_a_number_is_frozen(make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulation can tell: with rates of Python the replayed steps go on with that of the recorded one."""
    monkeypatch.setattr(graph.Rates, "on_device", lambda self, optim: nullcontext())
    own = Emulated()
    run = built(make_cfg("XCoOp", *pairs("XCoOp")), own)
    epochs(run)
    assert own.replayed == 6
    assert not equal(run, plain(make_cfg, "XCoOp", monkeypatch=monkeypatch))


def test_nothing_moves_and_a_batch_of_another_size_is_plain(
    make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for warm, output in ((graph.WARM, "out"), (NEVER, "plain")):
        monkeypatch.setattr(graph, "WARM", warm)
        run = built(make_cfg("XCoOp", *pairs("XCoOp"), output=output), Emulated())
        runs.append(run)
        epochs(run, last=2)
        (batch, other) = run.train_loader_x
        short = {**batch, "label": batch["label"][:3], "impath": batch["impath"][:3]}
        short["features"] = ImageFeatures(batch["features"].pooled[:3], batch["features"].patches[:3])
        places = [tensor.data_ptr() for tensor in tensors(run.model.state_dict(), run.optim.state_dict()["state"])]
        gradients = [parameter.grad for parameter in run.model.trained_parameters().values()]
        for one in (batch, short, other):
            run.batch_idx = 0
            run.forward_backward(one)
        assert places == [one.data_ptr() for one in tensors(run.model.state_dict(), run.optim.state_dict()["state"])]
        kept = [parameter.grad for parameter in run.model.trained_parameters().values()]
        assert all(one is two for one, two in zip(gradients, kept, strict=True)) == (warm != NEVER)
    assert runs[0].steps.recorder.replayed == 2 + 2
    assert equal(*runs)
    assert all(torch.equal(*(run.model.trained_parameters()[key].grad for run in runs)) for key in ("words", "offset"))


def test_what_moved_is_recorded_anew(make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that is loaded between two steps lies elsewhere."""
    runs = []
    for warm, output in ((graph.WARM, "out"), (NEVER, "plain")):
        monkeypatch.setattr(graph, "WARM", warm)
        run = built(make_cfg("XCoOp", *pairs("XCoOp"), output=output), Emulated())
        runs.append(run)
        epochs(run, last=3)
        run.optim.load_state_dict(copy.deepcopy(run.optim.state_dict()))
        epochs(run, first=3)
    assert len(runs[0].steps.recorder.tapes) == 2
    assert equal(*runs)


def test_a_resumed_run_is_an_uninterrupted_one(make_cfg: ConfigMaker) -> None:
    """With recordings before and after."""
    stopped, whole, resumed = (
        built(make_cfg("XCoOp", *pairs("XCoOp"), output=output), Emulated()) for output in ("one", "two", "one")
    )
    tiny_run.stop_in_the_third_epoch(stopped)
    whole.train()
    resumed.train()
    assert resumed.start_epoch == 2
    assert stopped.steps.recording is not None
    assert resumed.steps.recording is not None
    assert equal(resumed, whole)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(make_cfg: ConfigMaker) -> None:
    run = built(make_cfg("XCoOp", *pairs("XCoOp")), Emulated())
    step = run.forward_backward

    def broken(batch: dict[str, Any]) -> Any:
        if (run.epoch, run.batch_idx) == (2, 1):
            batch["features"].pooled[0] = float("nan")
        return step(batch)

    run.forward_backward = broken
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 3, batch 2, with the images"):
        run.train()
    assert run.steps.recorder.replayed == 4
    assert sorted(path.name for path in Path(run.output_dir, "prompt_learner").glob("model*")) == [
        "model.pth.tar-1",
        "model.pth.tar-2",
    ]


# What cannot be recorded is not.


FAULTS = {
    "cannot be recorded (operation not permitted": lambda given: 1 + given[0].item(),
    "a recorded one computes something else": lambda given: given[1],
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_step_that_python_has_a_say_in_is_plain(
    what: str, make_cfg: ConfigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Though its method says otherwise; and the trial leaves no trace in the training."""
    runs = [built(make_cfg("CoOp", *pairs("CoOp"), output=str(i)), one) for i, one in enumerate((Emulated(), None))]
    number = FAULTS[what]
    for run in runs:
        # The trial asks once more than a plain training: the count is that of its steps.
        count = iter([1, 2, 3, 99, *range(4, 20)] if run.steps.recorder else range(1, 20))
        usual = run.model.losses

        def loss(features: ImageFeatures, labels: torch.Tensor, count: Any = count, usual: Any = usual) -> Any:
            parts = usual(features, labels)
            return {**parts, "ce": parts["ce"] * number((parts["ce"].detach(), next(count)))}

        run.model.losses = loss
        epochs(run)
    assert [what in message for message in said(caplog)] == [True]
    torch.testing.assert_close(runs[0].model.trained_state(), runs[1].model.trained_state(), atol=1e-6, rtol=1e-5)


def test_reasons_for_plain_steps(make_cfg: ConfigMaker) -> None:
    run = tiny_run.build(make_cfg("XCoOp"))
    step = Step(run.model, run.optim, run.dtype, run.scaler, 0.0)
    assert graph.why_plain(step) == ""
    slow = torch.optim.RMSprop(run.optim.param_groups)
    assert graph.why_plain(replace(step, optim=slow)).startswith("RMSprop reads its rate on the host; OPTIM.NAME sgd")
    scaler = torch.amp.GradScaler("cpu")
    assert graph.why_plain(replace(step, scaler=scaler)).endswith("PREC bf16, fp32 or auto")
    run.model.seat = object()
    assert "--one-by-one" in graph.why_plain(step)
    run.model.uncaptured = PromptModel.uncaptured  # whoever writes a method and says nothing
    assert graph.why_plain(step) == "the method does not say that they can be recorded"


def test_without_a_gpu_it_is_said_and_changes_nothing(make_cfg: ConfigMaker, caplog: pytest.LogCaptureFixture) -> None:
    asked = tiny_run.trained(make_cfg("XCoOp", "TRAIN.CUDA_GRAPH", True))
    assert said(caplog) == ["TRAIN.CUDA_GRAPH: the steps of this run are plain: a graph needs a GPU"]
    usual = tiny_run.trained(make_cfg("XCoOp", output="usual"))
    assert equal(asked, usual)
    assert config_hash(asked.cfg) == config_hash(usual.cfg)


# What a step asks of a device.


WAITS = {
    "number": lambda x: x.sum().item(),
    "condition": lambda x: bool(x.sum() > 0),
    "places": lambda x: x.nonzero(),
    "flags": lambda x: x[x > 0],
    "set flags": lambda x: x.index_put_((x > 0,), x.sum()),
    "numbers of Python": lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
    "the host's tensor": lambda x: x + torch.ones(3),
    "to the host": lambda x: x.cpu(),
}


@pytest.mark.parametrize("what", WAITS)
def test_the_fake_device_refuses(what: str) -> None:
    with FakeTensorMode():
        x = torch.ones(3, device="meta")
        with OnDevice(), pytest.raises((RuntimeError, AssertionError)):
            WAITS[what](x)
    if "host" not in what:
        with Tape(), pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            WAITS[what](torch.ones(3))
