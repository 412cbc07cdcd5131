"""What a method is: text features, logits and losses over a frozen backbone, and the few tensors that it trains.

Symbols: B images, C classes, K prompts a class, D joint width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.alignment import unit
from xcoop.backbones import Backbone, ImageFeatures
from xcoop.backbones.build import is_finite

# CoOp stores these beside its contexts; they belong to the class names of the training, not to what was learned.
NOT_LEARNED = ("token_prefix", "token_suffix")
REPORTED = ("acc",)  # entries of `losses` that are shown, and are not part of the sum


class PromptModel(nn.Module):
    """Base of the methods. One states `text_features`, and overrides what differs from plain CLIP.

    Args:
        backbone: frozen, unless the method sets `requires_grad` on some of its parameters.
        classnames: in the order of the labels.
    """

    needs_patches: bool = False  # local image features are wanted, too
    image_tower_frozen: bool = True  # then image features can be computed once
    kept: tuple[str, ...] = ()  # buffers that a checkpoint holds beside what was trained

    def __init__(self, backbone: Backbone, classnames: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.classnames = list(classnames)

    def text_features(self) -> Tensor:
        """The features of the prompts, not normalised: (C, D), or (K, C, D)."""
        raise NotImplementedError

    def image_text_features(self, features: ImageFeatures) -> Tensor:
        """The prompt features that each image is compared with, (B, K, C, D); (1, K, C, D) if all see the same."""
        text = self.text_features()
        return (text if text.dim() == 3 else text[None])[None]

    def logits(self, features: ImageFeatures) -> Tensor:
        """CLIP's: the scaled cosine of each image with each class, (B, C)."""
        return self.scale * unit(features.pooled) @ unit(self.text_features()).T

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """The weighted parts of the loss by name; their sum is minimised. `acc` is only reported.

        Args:
            features: of a batch of images.
            labels: (B,) int64.
        """
        logits = self.logits(features)
        return {"ce": F.cross_entropy(logits, labels), "acc": accuracy(logits, labels)}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """What is trained, as groups for the optimiser with `params`, `lr` and `name`; [] trains nothing."""
        trained = list(self.trained_parameters().values())
        return [{"params": trained, "lr": lr, "name": "prompts"}] if trained else []

    def adjust_gradients(self) -> None:
        """Called between backward and clipping; a method may rescale its gradients here."""

    def gradient_norm(self) -> Tensor:
        """The norm that clipping looks at: of all trained parameters together, a scalar."""
        return gradient_norm(self.trained_parameters().values())

    @property
    def scale(self) -> Tensor:
        """CLIP's learned inverse temperature, a scalar."""
        return self.backbone.logit_scale.exp()

    def encode_images(self, images: Tensor) -> ImageFeatures:
        """Image features (B, ...); gradients flow only where the image tower is trained."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.image_tower_frozen):
            return self.backbone.encode_image(images, patches=self.needs_patches)

    def encode_prompts(self, embeddings: Tensor, end: Tensor) -> Tensor:
        """Text features of embedded prompts: (..., L, W) with end positions (...,) to (..., D)."""
        flat = self.backbone.encode_embeddings(embeddings.flatten(0, -3), end.flatten())
        return flat.unflatten(0, end.shape)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of preprocessed images (B, 3, H, W)."""
        return self.logits(self.encode_images(images))

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters with gradients, by their names in a checkpoint (`ctx`, `meta_net.linear1.weight`, ...).

        They are looked for once, at the first call: the backbone has hundreds of others.
        """
        return dict(self._trained)

    @cached_property
    def _trained(self) -> dict[str, nn.Parameter]:
        named = self.named_parameters()
        return {_checkpoint_name(name): parameter for name, parameter in named if parameter.requires_grad}

    @property
    def class_specific(self) -> bool:
        """Whether each class has contexts of its own, (C, n, W) or (K, C, n, W)."""
        context = self.trained_parameters().get("ctx")
        return context is not None and context.dim() > 2

    def stored(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds, by their names in it: what was trained, and the buffers in `kept`."""
        return {**self.trained_parameters(), **{name: self.get_buffer(name) for name in self.kept}}

    def trained_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of this model, copied: only what was trained, and what its meaning rests on."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.stored().items()}

    @torch.no_grad()
    def load_trained_state(self, state: Mapping[str, Tensor], source: str = "the given state") -> None:
        """Takes over trained tensors; everything is checked before anything is changed.

        Args:
            state: as `trained_state` gives it, or CoOp's own state dict.
            source: where it comes from, for messages.

        Raises:
            ValueError: missing, unknown or misshaped tensors, or ones that hold anything but finite numbers.
        """
        given = {_checkpoint_name(name): value for name, value in state.items()}
        given = {name: value for name, value in given.items() if name not in NOT_LEARNED}
        own = self.stored()
        if missing := sorted(own.keys() - given.keys()):
            raise ValueError(f"{source} lacks {', '.join(missing)}, which this method trains; it has {sorted(given)}")
        if surplus := sorted(given.keys() - own.keys()):
            raise ValueError(f"{source} holds {', '.join(surplus)}, which this method does not train")
        for name, parameter in own.items():
            if given[name].shape != parameter.shape:
                raise ValueError(
                    f"{source}: {name!r} has shape {tuple(given[name].shape)}, this model's has "
                    f"{tuple(parameter.shape)}: same backbone and config, and for class-specific contexts same classes?"
                )
            if not is_finite(given[name]):
                raise ValueError(f"{source}: {name!r} does not hold finite numbers")
        for name, parameter in own.items():
            parameter.copy_(given[name])


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Percentage of rows whose largest logit is the label's, a scalar in [0, 100]."""
    return 100.0 * (logits.detach().argmax(1) == labels).float().mean()


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The Euclidean norm of all gradients together, a scalar; zero if there are none."""
    norms = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())


def _checkpoint_name(name: str) -> str:
    return name.removeprefix("module.").removeprefix("prompt_learner.")
