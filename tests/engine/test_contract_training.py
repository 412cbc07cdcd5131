"""Learning rates, optimisers, the loop and its lines, checkpoints and evaluation, whichever engine answers."""

from __future__ import annotations

import math
import re
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.engine import TrainerX, build_trainer
from dassl.evaluation import build_evaluator
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import (
    AverageMeter,
    MetricMeter,
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    open_all_layers,
    open_specified_layers,
    resume_from_checkpoint,
    save_checkpoint,
    set_random_seed,
    setup_logger,
)
from torch import nn
from toy_engine import ANY, KilledError, Linear, make_cfg, real_is_wrong, weights_of

NUMBER = r"[\d.]+"
LINE = re.compile(
    rf"epoch \[(\d+)/(\d+)\] batch \[(\d+)/(\d+)\] time {NUMBER} \({NUMBER}\) data {NUMBER} \({NUMBER}\) "
    rf"loss {NUMBER} \({NUMBER}\) acc {NUMBER} \({NUMBER}\) lr (\d\.\d{{4}}e-\d\d) eta \d+:\d\d:\d\d"
)


def train(cfg: Any, seed: int = 1) -> Any:
    set_random_seed(seed)
    trainer = build_trainer(cfg)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def finished(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A training that ran to its end, and its folder."""
    out = tmp_path_factory.mktemp("finished")
    return train(make_cfg(squares, out)), out


COSINE = {"LR_SCHEDULER": "cosine", "MAX_EPOCH": 3}


def rates(options: dict[str, Any], epochs: int, bases: tuple[float, ...] = (0.002,)) -> list[list[float]]:
    """The rates of all groups at each epoch."""
    node = get_cfg_default().OPTIM
    node.merge_from_list([part for pair in ({"NAME": "sgd", "LR": bases[0]} | options).items() for part in pair])
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": base} for base in bases]
    optimiser = build_optimizer(None, node, param_groups=groups)
    schedule = build_lr_scheduler(optimiser, node)
    seen = []
    for _ in range(epochs):
        seen.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    return seen


CONSTANT, LINEAR = ({"WARMUP_TYPE": kind} for kind in ("constant", "linear"))
AT = [(1 + math.cos(math.pi * e / 4)) / 2 for e in range(5)]  # the cosine over four epochs


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [2e-3, 1.5e-3, 5e-4, 0]),
        ({"WARMUP_EPOCH": 1, **CONSTANT}, [1e-5, 2e-3, 1.5e-3, 5e-4]),
        ({"WARMUP_EPOCH": 2, **LINEAR}, [1e-5, 1e-3, 2e-3, 1.5e-3, 5e-4]),
        (
            {"MAX_EPOCH": 4, "WARMUP_EPOCH": 1, "WARMUP_RECOUNT": False, **CONSTANT},
            [1e-5, 2e-3, 2e-3 * AT[2] / AT[1], 2e-3 * AT[3] / AT[1]],
        ),
        ({"LR_SCHEDULER": "single_step", "STEPSIZE": (2,)}, [2e-3, 2e-3, 2e-4, 2e-4, 2e-5]),
        ({"LR_SCHEDULER": "single_step"}, [2e-3, 2e-3, 2e-3, 2e-4]),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": (1, 3)}, [2e-3, 2e-4, 2e-4, 2e-5]),
    ],
)
def test_rates_by_epoch(options: dict[str, Any], expected: list[float]) -> None:
    got = [groups[0] for groups in rates({**COSINE, **options}, len(expected))]
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_groups_keep_their_own_base_and_unknown_schedules_are_named() -> None:
    got = rates({**COSINE, "WARMUP_EPOCH": 1, **CONSTANT}, 3, (2e-3, 2e-4))
    assert got == [pytest.approx(pair) for pair in ([1e-5, 1e-5], [2e-3, 2e-4], [1.5e-3, 1.5e-4])]
    with pytest.raises(ValueError, match="cosin"):
        rates({"LR_SCHEDULER": "cosin"}, 1)
    with pytest.raises(ValueError, match=ANY):
        rates({"WARMUP_EPOCH": 1, "WARMUP_TYPE": "quadratic"}, 1)


class TestOptimisers:
    @pytest.mark.parametrize("name", ["adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"])
    def test_each_lowers_a_loss_and_leaves_frozen_parameters(self, name: str) -> None:
        torch.manual_seed(0)
        node = get_cfg_default().OPTIM
        node.NAME, node.LR = name, 0.01
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        model[0].requires_grad_(False)
        frozen, before = model[0].weight.clone(), None
        optimiser = build_optimizer(model, node)
        for _ in range(30):
            loss = (model(torch.ones(1, 2)) - 3).pow(2).sum()
            before = before or loss.item()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert loss.item() < before
        assert torch.equal(model[0].weight, frozen)

    def test_new_layers_at_the_full_rate(self) -> None:
        node = get_cfg_default().OPTIM
        node.merge_from_list(["NAME", "sgd", "LR", 0.1, "STAGED_LR", True, "NEW_LAYERS", ("1",)])
        optimiser = build_optimizer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), node)
        got = sorted((sum(p.numel() for p in g["params"]), g["lr"]) for g in optimiser.param_groups)
        assert got == [(3, 0.1), (6, pytest.approx(0.01))]

    def test_unknown_name(self) -> None:
        node = get_cfg_default().OPTIM
        node.NAME = "sdg"
        with pytest.raises(ValueError, match="sdg"):
            build_optimizer(nn.Linear(1, 1), node)


class TestLoop:
    def test_lines_that_parsers_read(self, squares: Path, tmp_path: Path, capsys: Any) -> None:
        options = ("OPTIM.MAX_EPOCH", 1, "DATALOADER.TRAIN_X.BATCH_SIZE", 4, "TRAIN.PRINT_FREQ", 3)
        train(make_cfg(squares, tmp_path / "other", *options))  # 4 batches
        assert [line[2] for line in LINE.findall(capsys.readouterr().out)] == ["3"]
        train(make_cfg(squares, tmp_path, "OPTIM.MAX_EPOCH", 2))
        text = capsys.readouterr().out
        found = LINE.findall(text)
        assert [line[:4] for line in found] == [(e, "2", b, "2") for e in "12" for b in "12"]
        lines = text.splitlines()
        order = [
            "Loading trainer: Linear",
            "Loading dataset: Squares",
            "Loading evaluator: Classification",
            "No checkpoint found, train from scratch",
            f"Initialize tensorboard (log_dir={tmp_path / 'tensorboard'})",
            f"Checkpoint saved to {tmp_path / 'linear' / 'model.pth.tar-2'}",
            "Finish training",
            "Deploy the last-epoch model",
            "Evaluate on the *test* set",
            "=> result",
            "* total: 15",
        ]
        places = [lines.index(line) for line in order]
        assert places == sorted(places)
        assert re.search(r"^\* accuracy: \d+\.\d%$", text, re.M)
        assert re.search(r"^Elapsed: \d+:\d\d:\d\d$", text, re.M)

    @pytest.mark.parametrize("frequency", [1, 2, 3, 9])
    def test_tensors_are_shown_as_the_numbers_they_hold(
        self, squares: Path, tmp_path: Path, capsys: Any, frequency: int
    ) -> None:
        options = ("OPTIM.MAX_EPOCH", 2, "DATALOADER.TRAIN_X.BATCH_SIZE", 4, "TRAIN.PRINT_FREQ", frequency)
        texts = []
        for name in ("Linear", "Unread"):  # 4 batches
            train(make_cfg(squares, tmp_path / name, *options, "TRAINER.NAME", name))
            texts.append(re.sub(r"(time|data) \S+ \S+|eta \S+", "", capsys.readouterr().out))
        plain, unread = ([line for line in text.splitlines() if line.startswith("epoch")] for text in texts)
        assert len(plain) == 2 * {1: 4, 2: 2, 3: 1, 9: 4}[frequency]
        assert unread == plain

    def test_rate_of_each_epoch_and_of_its_last_line(self, finished: tuple[Any, Path]) -> None:
        trainer, _ = finished
        expected = [1e-5] + [0.002 * (1 + math.cos(math.pi * e / 6)) / 2 for e in range(5)]
        assert trainer.rates == pytest.approx(expected, rel=1e-9)

    def test_best_model_is_saved_and_deployed(self, squares: Path, tmp_path: Path, capsys: Any) -> None:
        options = ("TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 2)
        set_random_seed(1)
        trainer = build_trainer(make_cfg(squares, tmp_path, *options))
        trainer.train()
        text = capsys.readouterr().out
        assert text.count("Evaluate on the *val* set") == 2
        assert "Deploy the model with the best val performance" in text
        content = load_checkpoint(str(tmp_path / "linear" / "model-best.pth.tar"))
        assert content["val_result"] == pytest.approx(trainer.best_result)

    @real_is_wrong("chooses the model on the test split")
    def test_best_model_needs_a_validation_split(self, squares: Path, tmp_path: Path) -> None:
        cfg = make_cfg(squares, tmp_path, "TEST.FINAL_MODEL", "best_val", "DATASET.NAME", "SquaresWithoutVal")
        with pytest.raises(ValueError, match="validation"):
            train(cfg)

    def test_validation_falls_back_to_the_test_split(self, squares: Path, tmp_path: Path, capsys: Any) -> None:
        options = ("DATASET.NAME", "SquaresWithoutVal", "TEST.NO_TEST", True, "OPTIM.MAX_EPOCH", 1)
        trainer = train(make_cfg(squares, tmp_path, *options))
        assert "Evaluate" not in capsys.readouterr().out
        trainer.test(split="val")
        assert "Evaluate on the *test* set" in capsys.readouterr().out


def test_models_are_registered_once_and_after_init(squares: Path, tmp_path: Path) -> None:
    class Early(TrainerX):
        def __init__(self, cfg: Any) -> None:
            self.register_model("early", nn.Linear(1, 1))

    with pytest.raises(AttributeError):
        Early(get_cfg_default())
    trainer = build_trainer(make_cfg(squares, tmp_path))
    assert isinstance(trainer, Linear)
    assert trainer.get_model_names() == ["linear"]
    with pytest.raises(AssertionError):
        trainer.register_model("linear", nn.Linear(1, 1))
    for mode in ("eval", "train"):
        trainer.set_model_mode(mode)
        assert trainer.model.training == (mode == "train")
    with pytest.raises(KeyError):
        trainer.set_model_mode("asleep")
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        trainer.model_backward_and_update(torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ValueError, match="Linear"):
        build_trainer(make_cfg(squares, tmp_path, "TRAINER.NAME", "Linaer"))


class TestCheckpoints:
    def test_layout_and_content(self, finished: tuple[Any, Path]) -> None:
        trainer, out = finished
        folder = out / "linear"
        assert {p.name for p in folder.iterdir()} == {"checkpoint", "model.pth.tar-3", "model.pth.tar-6"}
        assert (folder / "checkpoint").read_text().strip() == "model.pth.tar-6"
        content = load_checkpoint(str(folder / "model.pth.tar-6"))
        assert content["epoch"] == 6
        assert content["val_result"] is None
        assert {"state_dict", "optimizer", "scheduler"} <= set(content)
        assert torch.equal(content["state_dict"]["1.weight"], trainer.model[1].weight)

    def test_what_is_saved_is_loaded_and_resumed_by_the_functions(self, tmp_path: Path) -> None:
        """As a programme with a loop of its own does; "module." is what DataParallel adds."""
        model, other = nn.Linear(2, 1), nn.Linear(2, 1)
        with pytest.raises(FileNotFoundError):
            resume_from_checkpoint(str(tmp_path), other)
        with pytest.raises(FileNotFoundError):
            load_checkpoint(str(tmp_path / "absent"))
        with pytest.raises(ValueError, match="None"):
            load_checkpoint(None)  # type: ignore[arg-type]
        state = {f"module.{name}": value for name, value in model.state_dict().items()}
        for strip, key in ((False, "module.weight"), (True, "weight")):
            save_checkpoint({"state_dict": state, "epoch": 3}, str(tmp_path), remove_module_from_keys=strip)
            assert key in load_checkpoint(str(tmp_path / "model.pth.tar-3"))["state_dict"]
        assert resume_from_checkpoint(str(tmp_path), other) == 3
        assert torch.equal(other.weight, model.weight)

    def test_rate_goes_on_after_a_resume(self, squares: Path, tmp_path: Path, finished: tuple[Any, Path]) -> None:
        with pytest.raises(KilledError):
            train(make_cfg(squares, tmp_path, "TRAINER.NAME", "Dying"))
        resumed = train(make_cfg(squares, tmp_path))
        assert resumed.rates == pytest.approx(finished[0].rates[3:], rel=1e-9)

    def test_finished_run_is_only_tested_again(self, squares: Path, finished: tuple[Any, Path], capsys: Any) -> None:
        trainer = train(make_cfg(squares, finished[1]))
        assert trainer.rates == []
        text = capsys.readouterr().out
        assert f"Found checkpoint at {finished[1]} (will resume training)" in text
        assert "* accuracy:" in text
        assert torch.equal(weights_of(trainer), weights_of(finished[0]))

    def test_resume_is_strict_about_shapes(self, squares: Path, tmp_path: Path, finished: tuple[Any, Path]) -> None:
        cfg = make_cfg(squares, tmp_path, "RESUME", str(finished[1]), "INPUT.SIZE", (8, 8))
        with pytest.raises(RuntimeError, match="size mismatch"):
            build_trainer(cfg).train()

    @real_is_wrong("formats a missing validation result as a number")
    def test_loading_for_a_test(self, squares: Path, finished: tuple[Any, Path], tmp_path: Path, capsys: Any) -> None:
        trainer = build_trainer(make_cfg(squares, tmp_path))
        trainer.load_model("")
        assert "skipped" in capsys.readouterr().out
        with pytest.raises(FileNotFoundError):
            trainer.load_model(str(finished[1]), epoch=99)
        trainer.load_model(str(finished[1]), epoch=6)
        assert torch.equal(weights_of(trainer), weights_of(finished[0]))

    def test_pretrained_weights_that_fit_are_taken(self, tmp_path: Path) -> None:
        state = {"module.weight": torch.full((2, 2), 5.0), "bias": torch.zeros(7), "other": torch.zeros(1)}
        torch.save({"state_dict": state}, tmp_path / "w.pth")
        model = nn.Linear(2, 2)
        bias = model.bias.clone()
        load_pretrained_weights(model, str(tmp_path / "w.pth"))
        assert torch.equal(model.weight, torch.full((2, 2), 5.0))
        assert torch.equal(model.bias, bias)
        torch.save({"nothing": torch.zeros(1)}, tmp_path / "n.pth")
        with pytest.warns(UserWarning, match=ANY):
            load_pretrained_weights(model, str(tmp_path / "n.pth"))


def test_parameters_are_counted_and_opened_by_layer() -> None:
    model = nn.Sequential(OrderedDict(tower=nn.Linear(2, 2), head=nn.Linear(2, 1)))
    assert count_num_param(model) == 9
    assert count_num_param(params=model.head.parameters()) == 3
    open_specified_layers(model, "head")
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert (model.tower.training, model.head.training) == (False, True)
    open_all_layers(model)
    assert all(p.requires_grad for p in model.parameters())
    assert model.tower.training


class TestEvaluator:
    LOGITS = torch.tensor([[2.0, 1, 0], [2, 1, 0], [0, 2, 1], [0, 2, 1], [0, 2, 1]])  # predicts 0 0 1 1 1
    LABELS = torch.tensor([0, 1, 1, 1, 0])

    def evaluate(self, *options: Any) -> dict[str, float]:
        cfg = get_cfg_default()
        cfg.merge_from_list(list(options))
        evaluator = build_evaluator(cfg, lab2cname={0: "cat", 1: "dog", 2: "owl"})
        evaluator.reset()
        evaluator.process(self.LOGITS[:2], self.LABELS[:2])
        evaluator.process(self.LOGITS[2:], self.LABELS[2:])
        return evaluator.evaluate()

    def test_result_and_its_lines(self, capsys: Any) -> None:
        results = self.evaluate()
        assert list(results) == ["accuracy", "error_rate", "macro_f1"]
        # F1 of 0: 1/2; of 1: 2/3; 2 does not occur in the truth.
        assert list(results.values()) == pytest.approx([60, 40, 100 * (1 / 2 + 2 / 3) / 2])
        expected = "=> result\n* total: 5\n* correct: 3\n* accuracy: 60.0%\n* error: 40.0%\n* macro_f1: 58.3%\n"
        assert capsys.readouterr().out.endswith(expected)

    def test_result_of_each_class(self, capsys: Any) -> None:
        results = self.evaluate("TEST.PER_CLASS_RESULT", True)
        assert results["perclass_accuracy"] == pytest.approx((50 + 200 / 3) / 2)
        assert capsys.readouterr().out.endswith(
            "=> per-class result\n"
            "* class: 0 (cat)\ttotal: 2\tcorrect: 1\tacc: 50.0%\n"
            "* class: 1 (dog)\ttotal: 3\tcorrect: 2\tacc: 66.7%\n"
            "* average: 58.3%\n"
        )

    def test_confusion_matrix_is_read_back_safely(self, tmp_path: Path) -> None:
        self.evaluate("TEST.COMPUTE_CMAT", True, "OUTPUT_DIR", str(tmp_path))
        shares = torch.load(tmp_path / "cmat.pt", weights_only=True)
        expected = torch.tensor([[1 / 2, 1 / 2], [1 / 3, 2 / 3]], dtype=torch.float64)
        torch.testing.assert_close(shares, expected)


def test_accuracy_in_percent() -> None:
    logits = torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 2, 3], [2, 3, 1]])
    one, two = compute_accuracy(logits, torch.tensor([0, 1, 2, 2]), topk=(1, 2))
    assert one.shape == (1,)
    assert (one.item(), two.item()) == (50, 75)
    assert compute_accuracy((logits, None), torch.tensor([0, 0, 0, 0]))[0].item() == 50


def test_meters() -> None:
    meter, moving, several = AverageMeter(), AverageMeter(ema=True), MetricMeter()
    meter.update(1.0)
    meter.update(torch.tensor(4.0), n=2)
    assert (meter.val, meter.sum, meter.count, meter.avg) == (4, 9, 3, 3)
    meter.reset()
    assert (meter.val, meter.sum, meter.count, meter.avg) == (0, 0, 0, 0)
    moving.update(1.0)
    moving.update(2.0)
    assert moving.avg == pytest.approx(0.1 * 0.9 + 2 * 0.1)
    several.update({"loss": 1.0, "acc": torch.tensor(50.0)})
    several.update({"loss": 2.0})
    several.update(None)
    assert str(several) == "loss 2.0000 (1.5000) acc 50.0000 (50.0000)"
    with pytest.raises(TypeError):
        several.update([1.0])


def test_the_log_copies_the_console_and_keeps_older_logs(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    for words in ("first", "second"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", sys.stdout)
            setup_logger(str(tmp_path))
            sys.stdout.write(f"{words}\n")
            sys.stdout.flush()
            assert sys.stdout.isatty() is False
            assert sys.stdout.encoding
            sys.stdout.close()
    sys.stdout.write("the console still works\n")
    assert capsys.readouterr().out == "first\nsecond\nthe console still works\n"
    assert (tmp_path / "log.txt").read_text() == "first\n"
    (newer,) = (p for p in tmp_path.iterdir() if re.fullmatch(r"log\.txt(-\d+){6}", p.name))
    assert newer.read_text() == "second\n"
