"""Weights & Biases: off by default, told numbers and settings only, and clear where the package is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_run
from tiny_run import ConfigMaker

from xcoop.config.merge import config_hash
from xcoop.training import tracking


class FakeRun:
    """What `wandb.init` returns, as far as it is used."""

    def __init__(self, started: dict[str, Any]) -> None:
        self.started, self.logged, self.summary, self.finished = started, [], {}, 0
        self.steps: list[tuple[str, str]] = []

    def log(self, numbers: dict[str, float]) -> None:
        assert not self.finished
        self.logged.append(numbers)

    def define_metric(self, name: str, step_metric: str) -> None:
        self.steps.append((name, step_metric))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Every run that a stand-in for the package started."""
    found: list[FakeRun] = []

    def init(**started: Any) -> FakeRun:
        found.append(FakeRun(started))
        return found[-1]

    fake = SimpleNamespace(init=init, Settings=lambda **settings: settings)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    return found


def test_off_by_default(make_cfg: ConfigMaker, runs: list[FakeRun]) -> None:
    tiny_run.trained(make_cfg("CoOp"))
    assert runs == []


def test_a_run_is_tracked_once_and_without_paths(make_cfg: ConfigMaker, runs: list[FakeRun]) -> None:
    trainer = tiny_run.trained(make_cfg("CoOp", "WANDB.PROJECT", "prompts"))
    (run,) = runs
    assert (run.started["project"], run.started["mode"]) == ("prompts", "offline")
    assert run.started["settings"]["console"] == "off"
    assert run.started["settings"]["x_disable_meta"] is True  # the command line holds paths
    assert trainer.output_dir not in json.dumps(run.started["config"])
    assert trainer.cfg.DATASET.ROOT not in json.dumps(run.started["config"])
    tags = {tag for line in run.logged for tag in line}
    assert {"train/loss", "test/accuracy", tracking.STEP} <= tags
    steps = [line[tracking.STEP] for line in run.logged if "train/loss" in line]
    assert len(steps) == len(set(steps))  # one call a step
    record = json.loads(Path(trainer.output_dir, "results.json").read_text())
    assert run.summary["accuracy"] == record["metrics"]["accuracy"]
    assert run.finished == 1


def test_tracking_does_not_change_what_a_run_is(make_cfg: ConfigMaker) -> None:
    assert config_hash(make_cfg("CoOp")) == config_hash(make_cfg("CoOp", "WANDB.PROJECT", "prompts"))


def test_a_missing_package_is_said_before_anything_is_loaded(
    make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'xcoop\[wandb\]'"):
        tiny_run.build(make_cfg("CoOp", "WANDB.PROJECT", "prompts"))


def test_an_unknown_mode_is_named(make_cfg: ConfigMaker, runs: list[FakeRun]) -> None:
    with pytest.raises(ValueError, match="Did you mean 'offline'"):
        tiny_run.build(make_cfg("CoOp", "WANDB.PROJECT", "prompts", "WANDB.MODE", "offlin"))
