"""A run whose image tower computes twice is the run that keeps everything."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker

from xcoop.backbones import openai
from xcoop.config.merge import config_hash

TUNED = [
    ("XCoOp", "TRAINER.XCOOP.TUNE_NORMS"),
    ("XCoOpReleased", ""),
    ("LASP", "TRAINER.LASP.FINETUNE_VIT_LN"),
    ("MaPLe", ""),
    ("PromptSRC", ""),
    ("CLIPLoRA", ""),
]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each block of an image tower computed."""
    calls: list[int] = []
    run = openai.run_block

    def counting(block: Any, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
        calls.extend([] if causal else [len(x)])
        return run(block, x, causal)

    monkeypatch.setattr(openai, "run_block", counting)
    return calls


@pytest.mark.parametrize("format_", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "key"), TUNED)
def test_computing_twice_changes_no_result(
    name: str, key: str, format_: str, make_cfg: ConfigMaker, computed: list[int]
) -> None:
    pairs = ("FEATURES.CACHE", False, f"TRAINER.{name.upper()}.PREC", format_, "OPTIM.MAX_EPOCH", 1)
    pairs += (key, True) if key else ()
    plain = tiny_run.trained(make_cfg(name, *pairs, output="plain"))
    once = len(computed)
    twice = tiny_run.trained(make_cfg(name, *pairs, "TRAIN.RECOMPUTE_TOWER", True))
    assert len(computed) - once == once + 3 * 2  # each of three blocks, in two steps
    for key, tensor in plain.model.trained_state().items():
        assert torch.equal(twice.model.trained_state()[key], tensor), key
    assert torch.equal(torch.cat(twice._probabilities), torch.cat(plain._probabilities))
    assert config_hash(twice.cfg) == config_hash(plain.cfg)


def test_a_frozen_tower_computes_once(make_cfg: ConfigMaker, computed: list[int]) -> None:
    pairs = ("FEATURES.CACHE", False, "OPTIM.MAX_EPOCH", 1)
    tiny_run.trained(make_cfg("CoOp", *pairs, "TRAIN.RECOMPUTE_TOWER", True, output="asked"))
    asked = len(computed)
    tiny_run.trained(make_cfg("CoOp", *pairs))
    assert len(computed) == 2 * asked
