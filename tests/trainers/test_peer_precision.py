"""Mixed precision of the methods that learn from a teacher: a scaler changes no step, 16 bit come close to 32."""

from __future__ import annotations

import pytest
import tiny_run
import torch
from test_steps import PLAIN, _cpu_scaler, one_step
from tiny_run import ConfigMaker

NAMES = ["KgCoOp", "ProGrad", "BiomedCoOp", "LASP"]
RANDOM = {name: (f"TRAINER.{name.upper()}.CTX_INIT", "") for name in NAMES}  # away from the sentence of the teacher


@pytest.mark.parametrize("name", NAMES)
def test_a_scaler_changes_no_step(name: str, make_cfg: ConfigMaker) -> None:
    plain = one_step(tiny_run.build(make_cfg(name, *PLAIN, *RANDOM[name])))
    scaled = tiny_run.build(make_cfg(name, *PLAIN, *RANDOM[name]))
    scaled.precision.scaler = _cpu_scaler()
    torch.testing.assert_close(one_step(scaled), plain, rtol=1e-3, atol=1e-8)
    assert plain.any()


@pytest.mark.parametrize("name", NAMES)
def test_an_overflow_skips_the_step(name: str, make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg(name, *PLAIN))
    trainer.precision.scaler = _cpu_scaler()
    hook = trainer.model.prompt_learner.ctx.register_hook(lambda gradient: gradient * float("inf"))
    assert not one_step(trainer).any()
    hook.remove()
    assert one_step(trainer).any()


@pytest.mark.parametrize("name", NAMES)
def test_bf16_trains_32_bit_parameters_close_to_fp32(name: str, make_cfg: ConfigMaker) -> None:
    full = tiny_run.trained(make_cfg(name, *PLAIN))
    half = tiny_run.trained(make_cfg(name, *PLAIN, f"TRAINER.{name.upper()}.PREC", "bf16", output="half"))
    for key, tensor in half.model.trained_state().items():
        assert tensor.dtype == torch.float32, key
    torch.testing.assert_close(torch.cat(half._probabilities), torch.cat(full._probabilities), atol=0.05, rtol=0)
