"""What a method is: text features, logits and losses over a frozen backbone, and the few tensors that it trains.

Symbols: B images, C classes, K prompts a class, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcoop.backbones import Backbone, ImageFeatures, LabelledFeatures
from xcoop.backbones.clip_model import is_finite
from xcoop.concepts import ConceptBank
from xcoop.methods.alignment import unit
from xcoop.methods.prompts import DEFAULT
from xcoop.methods.together import Seat

# CoOp stores these beside its contexts; they belong to the class names of the training, not to what was learned.
NOT_LEARNED = ("token_prefix", "token_suffix")


@dataclass(frozen=True)
class Task:
    """What a model is made for.

    Attributes:
        classnames: C names, in the order of the labels.
        bank: the concept bank of these classes; None unless the trainer `uses_bank`.
        template: the dataset's sentence for a class name, with {} for it.
        n_train: how many training images there are; 0 where a finished run is loaded.
    """

    classnames: list[str]
    bank: ConceptBank | None = None
    template: str = DEFAULT
    n_train: int = 0


class ClassVector(NamedTuple):
    """In the words of an explanation: the vector of a class that images are compared with.

    Attributes:
        noun: names the vector, in the singular.
        learned: whether training changes it.
        about: a plain sentence on it; "" if there is nothing to say.
    """

    noun: str
    learned: bool
    about: str = ""


Compared = ClassVector  # its name in version 0.1


class Told(NamedTuple):
    """What one term of a logit tells: a prompt, or a concept with its weight.

    Attributes:
        label: of the class to whose logit it adds.
        concept: in the bank's words; "" if it tells no more than the name of its class.
    """

    label: int
    concept: str


class PromptSum(NamedTuple):
    """Logits of B images as exact sums over M terms, prompts or concepts.

        l_bc = sum over the terms m of class c of parts_bm + offsets_c

    Attributes:
        parts: what each term contributes to the logit of its class, (B, M).
        offsets: what does not depend on the image, (C,).
    """

    parts: Tensor
    offsets: Tensor


class LearnedSentence(NamedTuple):
    """A prompt that is a sentence with learned words.

    Attributes:
        text: the sentence as it is written.
        embeddings: of its n tokens between start and end, (n, W).
        changes: what was learned of each, (n, W).
    """

    text: str
    embeddings: Tensor
    changes: Tensor


class Usual(NamedTuple):
    """What the terms contribute in training images, every class counting alike.

    Attributes:
        mean: (M,).
        deviation: how far a contribution goes with one standard deviation of what images show of the concept, (M,);
            below 0 where it falls the more they show.
    """

    mean: Tensor
    deviation: Tensor


class PromptModel(nn.Module):
    """Base of the methods. One states `text_features`, and overrides what differs from plain CLIP.

    Args:
        backbone: frozen, unless the method sets `requires_grad` on some of its parameters.
        classnames: in the order of the labels.
    """

    needs_patches: bool = False  # local image features are wanted, too
    image_tower_frozen: bool = True  # then image features can be computed once
    mixes_batches: bool = False  # whether an image's logits depend on the others of its batch
    holds_concepts: bool = False  # whether the logits depend on clinical sentences; see `with_bank`
    sums_concepts: bool = False  # whether each logit is an exact sum over concepts; see `prompt_sum`
    # Why steps on image features cannot be a CUDA graph; "" if they draw nothing and read no tensor on the host.
    uncaptured: str = "the method does not say that they can be recorded"
    reported: tuple[str, ...] = ("acc",)  # entries of `losses` that are shown, and are not part of the sum
    fitted: tuple[str, ...] = ()  # names of tensors that `prepare` or `conclude` set
    per_image: tuple[str, ...] = ()  # those of them with one row a training image, which is none before `prepare`
    kept: tuple[str, ...] = ()  # buffers that a checkpoint holds beside what was trained

    def __init__(self, backbone: Backbone, classnames: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.classnames = list(classnames)
        self._held: tuple[torch.dtype, Backbone] | None = None  # what `computing_in` puts in the backbone's place
        self._dtype: torch.dtype | None = None  # of `computing_in`, where it is not fp32
        self.seat: Seat | None = None  # among the runs that are trained side by side, while this one is

    # What is compared, and what is minimised.

    def text_features(self) -> Tensor:
        """The features of the prompts, not normalised: (C, D), or (K, C, D). A method must say which."""
        raise NotImplementedError(f"{type(self).__name__} has to say by text_features() what images are compared with")

    def class_features(self) -> Tensor:
        """One unit vector a class, the mean direction of its prompts: (C, D)."""
        text = unit(self.text_features())
        return unit(text.mean(0)) if text.dim() == 3 else text

    def logits(self, features: ImageFeatures) -> Tensor:
        """Of the images, (B, C)."""
        return self.compare(features, self.text_features())

    def compare(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """The logits (B, C) of images beside class features such as `text_features` gives, and no others.

        Here these are CLIP's, the scaled cosine with features (C, D). Explanations ask it with what other sentences
        would have made of the class features.
        """
        return self.scale * unit(self.compared(features)) @ unit(text).T

    def fixed_logits(self) -> Callable[[ImageFeatures], Tensor]:
        """`logits` of the model as it is now, for many images: prompts are encoded once, if that is all they need."""
        if type(self).logits is not PromptModel.logits:  # these may depend on the image
            return self.logits
        with torch.no_grad():
            text = self.text_features()
        return lambda features: self.compare(features, text)

    def losses(self, features: ImageFeatures, labels: Tensor) -> dict[str, Tensor]:
        """The weighted parts of the loss by name; their sum is minimised. What `reported` names is only shown.

        Args:
            features: of a batch of images.
            labels: (B,) int64.
        """
        return classification(self.logits(features), labels)

    def loss(self, parts: Mapping[str, Tensor]) -> Tensor:
        """What is minimised: the sum of the parts that are not only reported, a scalar."""
        return torch.stack([part for name, part in parts.items() if name not in self.reported]).sum()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of preprocessed images (B, 3, H, W)."""
        return self.logits(self.encode_images(images))

    # What a step trains, and how.

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """What is trained, as groups for the optimiser with `params`, `lr` and `name`; [] trains nothing."""
        trained = list(self.trained_parameters().values())
        return [{"params": trained, "lr": lr, "name": "prompts"}] if trained else []

    def tune_norms(self) -> None:
        """Trains the norm layers of the image tower, too; its features can then not be computed once."""
        self.image_tower_frozen = False
        for parameter in self.backbone.image_norms():
            parameter.requires_grad_(True)

    def norm_group(self, lr: float) -> dict[str, Any]:
        """The norm layers of the image tower as a group for the optimiser."""
        return {"params": self.backbone.image_norms(), "lr": lr, "name": "norm layers"}

    def backward(self, loss: Tensor, parts: Mapping[str, Tensor], backward: Callable[..., None]) -> None:
        """Fills the gradients; a method that changes them before they are clipped does so here.

        Args:
            loss: the sum of the parts, a scalar.
            parts: what `losses` gave.
            backward: the backward pass of a scalar, in the precision of the run; it takes `retain_graph`, too.
        """
        backward(loss)

    def gradient_norm(self) -> Tensor:
        """The norm that clipping looks at: the Euclidean one of all gradients together, a scalar."""
        gradients = [p.grad for p in self.trained_parameters().values() if p.grad is not None]
        return torch.stack([gradient.norm() for gradient in gradients]).norm() if gradients else torch.zeros(())

    # What is computed from all training images, not batch by batch.

    def prepare(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Sets the `fitted` tensors before the first epoch, or in the place of all epochs; called if there are any.

        Args:
            training: all training images, each once and not augmented.
            validation: None if there is no such split. The test split is never seen here.
        """

    def conclude(self, training: LabelledFeatures, validation: LabelledFeatures | None) -> None:
        """Sets what remains to be set after the last epoch; called if there are `fitted` tensors, and epochs.

        Args:
            training: as `prepare` gets them, seen by the model as it is now.
            validation: the same of the validation images.
        """

    # The towers.

    @property
    def scale(self) -> Tensor:
        """CLIP's learned inverse temperature, a scalar."""
        return self.backbone.logit_scale.exp()

    @contextmanager
    def computing_in(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Forward passes of a training: where autocast takes a matrix product, in 16 bit; None: all in 32.

        Frozen weights of the towers are cast once, before the first of them; gradients may be asked for later.
        """
        device, plain = self.backbone.logit_scale.device.type, self.backbone
        if dtype is not None:
            if self._held is None or self._held[0] != dtype:
                self._held = dtype, plain.held_in(dtype)
            self.backbone = self._held[1]
        self._dtype = dtype
        try:
            with torch.autocast(device, dtype, enabled=dtype is not None):
                yield
        finally:
            self.backbone, self._dtype = plain, None

    def encode_images(self, images: Tensor) -> ImageFeatures:
        """Image features (B, ...); gradients flow only where the image tower is trained."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.image_tower_frozen):
            return self.image_backbone.encode_image(images, patches=self.needs_patches)

    @property
    def text_tower_frozen(self) -> bool:
        """Whether nothing of the backbone is trained but the norm layers of its image tower."""
        trained = {id(parameter) for parameter in self.backbone.parameters() if parameter.requires_grad}
        return not trained or trained <= {id(parameter) for parameter in self.backbone.image_norms()}

    def encode_prompts(self, embeddings: Tensor, end: Tensor) -> Tensor:
        """Text features of embedded prompts: (..., L, W) with end positions (...,) to (..., D)."""
        flat, ends = embeddings.flatten(0, -3), end.flatten()
        if self.seat is not None and torch.is_grad_enabled() and flat.requires_grad:
            features = self.seat.encode(self.backbone, flat, ends, self._dtype)
        else:
            features = self.backbone.encode_embeddings(flat, ends)
        return features.unflatten(0, end.shape)

    # What explanations ask: the logit as a comparison of vectors.

    @property
    def class_vector(self) -> ClassVector:
        """What `text_features` are, in words."""
        return ClassVector("prompt", learned=True)

    def image_text_features(self, features: ImageFeatures) -> Tensor:
        """The prompt features that each image is compared with, (B, K, C, D); (1, K, C, D) if all see the same."""
        text = self.text_features()
        return (text if text.dim() == 3 else text[None])[None]

    def compared(self, features: ImageFeatures) -> Tensor:
        """The image features that the class features are compared with, (B, D), not normalised."""
        return features.pooled

    def temperature(self, features: ImageFeatures) -> Tensor:
        """What multiplies the cosine of an image with a class in the logit: a scalar, or (B, C)."""
        return self.scale

    @property
    def told(self) -> list[Told]:
        """What each of the M terms tells whose sums the logits are (`prompt_sum`); [] if they are no such sums."""
        return []

    def prompt_sum(self, features: ImageFeatures) -> PromptSum:
        """The logits as sums over the terms in `told`; a model that `sums_concepts` states both.

        Raises:
            ValueError: they are no such sums.
        """
        raise ValueError(f"the logits of {type(self).__name__} are no sums over concepts")

    def fixed_sum(self) -> Callable[[ImageFeatures], PromptSum]:
        """`prompt_sum` of the model as it is now, for many images: a method that encodes prompts does so once."""
        return self.prompt_sum

    @property
    def usual(self) -> Usual | None:
        """What the terms in `told` contribute in the training images; None if that is not known."""
        return None

    def learned_sentences(self) -> list[LearnedSentence]:
        """The prompts in `told`, if they are sentences whose words are learned; [] if they are not."""
        return []

    def encode_changes(self, changes: Tensor) -> Tensor:
        """Features of `learned_sentences`, had this been learned of all their tokens in order, (N, W): (M, D).

        Raises:
            ValueError: there are none.
        """
        raise ValueError(f"{type(self).__name__} learns no words of sentences")

    @property
    def image_backbone(self) -> Backbone:
        """The backbone whose image tower the method sees images with: the plain one, or one with prompts in it."""
        return self.backbone

    def with_bank(self, bank: ConceptBank) -> PromptModel:
        """This model, what it learned included, with the clinical sentences of another bank of the same classes.

        Raises:
            ValueError: it does not hold any (`holds_concepts`).
        """
        raise ValueError(f"{type(self).__name__} holds no clinical sentences that could be changed")

    # What a checkpoint holds.

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
        """Whether each class has contexts of its own, (C, n, W) or (K, C, n, W), or something fitted to it.

        One context for all classes, (n, W) or (K, 1, n, W), is not.
        """
        context = self.trained_parameters().get("ctx")
        return bool(self.fitted) or (context is not None and context.dim() > 2 and context.shape[-3] > 1)

    def state_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by name: trained parameters, fitted tensors, and the buffers in `kept`."""
        return {**self.trained_parameters(), **{name: getattr(self, name) for name in (*self.fitted, *self.kept)}}

    def prompt_names(self) -> list[str]:
        """What is trained in the group of the prompts, by its names in a checkpoint."""
        prompts = {
            id(p) for group in self.parameter_groups(1.0) if group.get("name") == "prompts" for p in group["params"]
        }
        return [name for name, parameter in self.state_tensors().items() if id(parameter) in prompts]

    def count_trained(self) -> int:
        """How many numbers are trained or fitted; training images and labels that are only stored do not count."""
        stored = {*self.kept, *self.per_image} - self.trained_parameters().keys()
        return sum(tensor.numel() for name, tensor in self.state_tensors().items() if name not in stored)

    def trained_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of this model, copied: only what was trained or fitted, and what that rests on."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.state_tensors().items()}

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
        own = self.state_tensors()
        if missing := sorted(own.keys() - given.keys()):
            raise ValueError(f"{source} lacks {', '.join(missing)}, which this method trains; it has {sorted(given)}")
        if surplus := sorted(given.keys() - own.keys()):
            raise ValueError(f"{source} holds {', '.join(surplus)}, which this method does not train")
        for name, tensor in own.items():
            first = 1 if name in self.per_image else 0
            if given[name].dim() != tensor.dim() or given[name].shape[first:] != tensor.shape[first:]:
                raise ValueError(
                    f"{source}: {name!r} has shape {tuple(given[name].shape)}, this model's has "
                    f"{tuple(tensor.shape)}: same backbone and config, and for class-specific contexts same classes?"
                )
            if not is_finite(given[name]):
                raise ValueError(f"{source}: {name!r} does not hold finite numbers")
        for name, tensor in own.items():
            if given[name].shape == tensor.shape:
                tensor.copy_(given[name])
            else:
                tensor.data = given[name].to(tensor, copy=True)


def classification(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross entropy `ce` and accuracy `acc` of logits (B, C), as parts of a loss."""
    return {"ce": F.cross_entropy(logits, labels), "acc": accuracy(logits, labels)}


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Percentage of rows whose largest logit is the label's, a scalar in [0, 100]."""
    return 100.0 * (logits.detach().argmax(1) == labels).float().mean()


def usual_values(values: Tensor, labels: Tensor) -> Usual:
    """Mean and standard deviation over images, every class that has any counting alike.

    Args:
        values: of N images, (N, M).
        labels: (N,).
    """
    weights = 1 / labels.bincount()[labels].to(values)
    weights = (weights / weights.sum())[:, None]  # (N, 1)
    mean = (weights * values).sum(0)
    return Usual(mean, (weights * (values - mean).square()).sum(0).sqrt())


def validation_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """How good G settings are on the same validation images.

    Few images leave many settings equally accurate; the cross entropy tells them apart.

    Args:
        logits: of the settings, (G, V, C).
        labels: (V,).

    Returns:
        (G, 2): the number of correct images, and the negative mean cross entropy. Rows compare like tuples.
    """
    correct = (logits.argmax(-1) == labels).sum(-1)
    target = labels.expand(logits.shape[:-1])[..., None]
    entropy = logits.double().log_softmax(-1).gather(-1, target)[..., 0].mean(-1)
    return torch.stack([correct.double(), entropy], -1)


def best_setting(scores: Tensor) -> int:
    """The index of the best row of `validation_scores`; of exact equals the first."""
    rows = scores.tolist()
    return max(range(len(rows)), key=rows.__getitem__)


def _checkpoint_name(name: str) -> str:
    return name.removeprefix("module.").removeprefix("prompt_learner.")
