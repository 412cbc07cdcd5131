"""Learning rates and optimisers, whichever engine answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import nn
from toy_engine import ANY


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


class TestRates:
    COSINE = {"LR_SCHEDULER": "cosine", "MAX_EPOCH": 3}  # noqa: RUF012

    def check(self, options: dict[str, Any], expected: list[float]) -> None:
        got = [groups[0] for groups in rates({**self.COSINE, **options}, len(expected))]
        assert got == pytest.approx(expected, rel=1e-9, abs=1e-15)

    def test_cosine(self) -> None:
        self.check({}, [2e-3, 1.5e-3, 5e-4, 0])

    def test_constant_warm_up(self) -> None:
        self.check({"WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant"}, [1e-5, 2e-3, 1.5e-3, 5e-4])

    def test_linear_warm_up(self) -> None:
        self.check({"WARMUP_EPOCH": 2, "WARMUP_TYPE": "linear"}, [1e-5, 1e-3, 2e-3, 1.5e-3, 5e-4])

    def test_warm_up_in_place_of_the_first_epochs(self) -> None:
        options = {"MAX_EPOCH": 4, "WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant", "WARMUP_RECOUNT": False}
        at = [(1 + math.cos(math.pi * e / 4)) / 2 for e in range(5)]
        self.check(options, [1e-5, 2e-3, 2e-3 * at[2] / at[1], 2e-3 * at[3] / at[1]])

    def test_steps(self) -> None:
        self.check({"LR_SCHEDULER": "single_step", "STEPSIZE": (2,)}, [2e-3, 2e-3, 2e-4, 2e-4, 2e-5])
        self.check({"LR_SCHEDULER": "single_step"}, [2e-3, 2e-3, 2e-3, 2e-4])
        self.check({"LR_SCHEDULER": "multi_step", "STEPSIZE": (1, 3)}, [2e-3, 2e-4, 2e-4, 2e-5])

    def test_groups_keep_their_own_base(self) -> None:
        got = rates({**self.COSINE, "WARMUP_EPOCH": 1, "WARMUP_TYPE": "constant"}, 3, (2e-3, 2e-4))
        assert got == [pytest.approx(pair) for pair in ([1e-5, 1e-5], [2e-3, 2e-4], [1.5e-3, 1.5e-4])]

    def test_unknown_schedule(self) -> None:
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
