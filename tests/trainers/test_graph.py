"""Steps as one CUDA graph, on an emulated device: what a recording freezes is frozen, what it refuses is refused."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_run
import torch
from emulated import Emulated
from tiny_run import ConfigMaker

from xcoop.backbones.openai import ClipBackbone
from xcoop.config.plugins import trainer_names, trains
from xcoop.training import graph

LEARNING = [name for name in trainer_names() if trains(name)]


@pytest.mark.parametrize("name", LEARNING)
def test_try(name: str, make_cfg: ConfigMaker, caplog, monkeypatch) -> None:
    caplog.set_level("INFO")
    run = tiny_run.build(make_cfg(name, "OPTIM.MAX_EPOCH", 4))
    if run.optim is None:
        pytest.skip("it takes no steps")
    own = Emulated()
    monkeypatch.setattr(ClipBackbone, "needed", lambda self, length, end: length)
    run.steps = graph.Steps(own)
    run.train()
    print(name, own.warmed, own.replayed, [len(t.calls) for t in own.tapes], [r.message for r in caplog.records if "graph" in r.message.lower()])
    plain = tiny_run.trained(make_cfg(name, "OPTIM.MAX_EPOCH", 4, output="plain"))
    for k, v in plain.model.trained_state().items():
        print("  ", k, float((v - run.model.trained_state()[k]).abs().max()), float(v.abs().max()))
