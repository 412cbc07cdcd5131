"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from xcoop.utils.suggest import unknown

if TYPE_CHECKING:
    from yacs.config import CfgNode

Groups = list[dict[str, Any]]
_NAMES = ("adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw")


class RAdam(torch.optim.RAdam):
    """Rectified Adam, of torch, under the name that Dassl gives it."""

    __module__ = "dassl.optim.radam"


def build_optimizer(
    model: nn.Module | Iterable[Any], optim_cfg: CfgNode, param_groups: Groups | None = None
) -> torch.optim.Optimizer:
    """The optimiser that `optim_cfg.NAME` names, over all parameters (those without a gradient never move).

    Args:
        model: a module, or parameters or parameter groups.
        optim_cfg: the config's node OPTIM.
        param_groups: groups in place of the model's parameters.

    Raises:
        ValueError: the name is unknown.
        TypeError: STAGED_LR needs a module.
    """
    if optim_cfg.NAME not in _NAMES:
        raise ValueError(f"OPTIM.NAME: {unknown('optimiser', optim_cfg.NAME, _NAMES)}")
    parameters = param_groups if param_groups is not None else _parameters(model, optim_cfg)
    name, common = optim_cfg.NAME, {"lr": optim_cfg.LR, "weight_decay": optim_cfg.WEIGHT_DECAY}
    if name == "sgd":
        return torch.optim.SGD(
            parameters,
            momentum=optim_cfg.MOMENTUM,
            dampening=optim_cfg.SGD_DAMPNING,
            nesterov=optim_cfg.SGD_NESTEROV,
            **common,
        )
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, momentum=optim_cfg.MOMENTUM, alpha=optim_cfg.RMSPROP_ALPHA, **common)
    return _adam_like(name, parameters, {"betas": (optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2), **common})


def _adam_like(name: str, parameters: Any, options: dict[str, Any]) -> torch.optim.Optimizer:
    if name == "radam":
        return RAdam(parameters, **options)
    if name == "adamw":
        return torch.optim.AdamW(parameters, **options)
    return torch.optim.Adam(parameters, amsgrad=name == "amsgrad", **options)


def _parameters(model: nn.Module | Iterable[Any], optim_cfg: CfgNode) -> Any:
    if optim_cfg.STAGED_LR:
        if not isinstance(model, nn.Module):
            raise TypeError("OPTIM.STAGED_LR names layers, so it needs a module, not bare parameters")
        return _staged(model, optim_cfg)
    return list(model.parameters()) if isinstance(model, nn.Module) else list(model)


def _staged(model: nn.Module, optim_cfg: CfgNode) -> Groups:
    """Two groups: the layers of NEW_LAYERS at the full rate, the others at a part of it."""
    if isinstance(model, nn.DataParallel):
        model = model.module
    new = _names(optim_cfg.NEW_LAYERS)
    children = dict(model.named_children())
    for name in new:
        if name not in children:
            raise ValueError(f"OPTIM.NEW_LAYERS: {unknown('layer', name, children)}")
    fresh = [p for name, child in children.items() if name in new for p in child.parameters()]
    base = [p for name, child in children.items() if name not in new for p in child.parameters()]
    return [{"params": base, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": fresh}]


def _names(layers: str | Sequence[str]) -> list[str]:
    return [layers] if isinstance(layers, str) else list(layers)
