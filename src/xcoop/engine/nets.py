"""Small helpers around networks and their weights."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from xcoop.engine.checkpoint import load_checkpoint
from xcoop.utils.suggest import unknown


def without_prefix(state_dict: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The state without the leading "module." that DataParallel adds to its keys."""
    return OrderedDict((key.removeprefix("module."), value) for key, value in state_dict.items())


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Loads those weights of a file that fit the model in name and shape; warns if none does.

    Args:
        model: changed in place.
        weight_path: a checkpoint (its `state_dict` is used) or a bare state dict.
    """
    content = load_checkpoint(weight_path)
    given = without_prefix(content.get("state_dict", content))
    own = model.state_dict()
    fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        warnings.warn(f"{weight_path}: not one of its {len(given)} weights fits the model", stacklevel=2)
        return
    model.load_state_dict({**own, **fitting})
    print(f"Successfully loaded pretrained weights from {weight_path}")
    left = sorted(set(given) - set(fitting))
    if left:
        print(f"Weights left out, since the name or the shape does not fit: {left}")


def count_num_param(model: nn.Module | None = None, params: Any = None) -> int:
    """How many numbers a model, or a parameter, or several, hold.

    Raises:
        ValueError: nothing is given.
    """
    if model is not None:
        return sum(p.numel() for p in model.parameters())
    if params is None:
        raise ValueError("neither a model nor parameters to count")
    if isinstance(params, Tensor):
        return params.numel()
    return sum(count_num_param(params=p["params"] if isinstance(p, dict) else p) for p in params)


def open_all_layers(model: nn.Module) -> None:
    """All layers in train mode, all parameters with gradients."""
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def open_specified_layers(model: nn.Module, open_layers: str | Iterable[str]) -> None:
    """Train mode and gradients for the named top-level layers; eval mode and none for the others.

    Raises:
        ValueError: the model has no such layer.
    """
    inner = model.module if isinstance(model, nn.DataParallel) else model
    names = [open_layers] if isinstance(open_layers, str) else list(open_layers)
    children = dict(inner.named_children())
    for name in names:
        if name not in children:
            raise ValueError(unknown("layer", name, children))
    for name, child in children.items():
        child.train(name in names)
        for parameter in child.parameters():
            parameter.requires_grad_(name in names)


def init_network_weights(model: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Draws the weights of all linear, convolutional and norm layers anew.

    Args:
        model: changed in place.
        init_type: normal, xavier, kaiming or orthogonal.
        gain: the standard deviation (normal) or the gain.

    Raises:
        ValueError: the type is unknown.
    """
    draw = {
        "normal": lambda weight: nn.init.normal_(weight, 0.0, gain),
        "xavier": lambda weight: nn.init.xavier_normal_(weight, gain=gain),
        "kaiming": lambda weight: nn.init.kaiming_normal_(weight, a=0, mode="fan_in"),
        "orthogonal": lambda weight: nn.init.orthogonal_(weight, gain=gain),
    }
    if init_type not in draw:
        raise ValueError(unknown("initialisation", init_type, draw))
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            draw[init_type](layer.weight)
        elif isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d)) and layer.weight is not None:
            nn.init.ones_(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
