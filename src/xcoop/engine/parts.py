"""What a config chooses by name: transforms of images, precision, the optimiser and its learning rates, the evaluator.

A schedule is in closed form: what it must remember is the epoch, and nothing else. With e the number of finished
epochs, T = MAX_EPOCH, W = WARMUP_EPOCH (0 without warm-up), the rate of a group of base rate b is

    e <  W:  WARMUP_CONS_LR                            (constant)
             WARMUP_MIN_LR at e = 0, then b e / W      (linear)
    e >= W:  b s(e - W)       WARMUP_RECOUNT: the schedule begins after the warm-up
             b s(e) / s(W)    otherwise: the warm-up takes the place of its first part

with s(e) = (1 + cos(pi e / T)) / 2 for `cosine`, and s(e) = GAMMA^(number of steps up to e) for the others.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchvision import transforms as T
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode
from yacs.config import CfgNode

from xcoop.engine.imports import needs_dassl
from xcoop.engine.tools import Registry
from xcoop.utils import files
from xcoop.utils.console import unknown

logger = logging.getLogger(__name__)

EVALUATOR_REGISTRY = Registry("EVALUATOR")

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}
_POLICIES = {
    "imagenet_policy": T.AutoAugmentPolicy.IMAGENET,
    "cifar10_policy": T.AutoAugmentPolicy.CIFAR10,
    "svhn_policy": T.AutoAugmentPolicy.SVHN,
}
OFFERED = (
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",  # accepted for old configs; the test transform crops in any case
    "cutout",
    *_POLICIES,
    "randaugment",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
)
REFUSED = ("randaugment_fixmatch", "randaugment2")  # Dassl's own two


def random_translation(image: Image, size: list[int], interpolation: InterpolationMode) -> Image:
    """Half of the images enlarged by an eighth and cropped at random; the others only resized to (H, W)."""
    if torch.rand(()).item() >= 0.5:
        return F.resize(image, size, interpolation)
    height, width = size
    larger = F.resize(image, [round(height * 1.125), round(width * 1.125)], interpolation)
    top, left, _, _ = T.RandomCrop.get_params(larger, (height, width))
    return F.crop(larger, top, left, height, width)


def cutout(image: Tensor, n_holes: int, length: int) -> Tensor:
    """A copy of an image (3, H, W) with black squares of `length` pixels at random; at the border they are cut off."""
    image = image.clone()
    height, width = image.shape[-2:]
    for _ in range(n_holes):
        top = int(torch.randint(height, ())) - length // 2
        left = int(torch.randint(width, ())) - length // 2
        image[:, max(top, 0) : max(top + length, 0), max(left, 0) : max(left + length, 0)] = 0
    return image


def gaussian_noise(image: Tensor, mean: float, std: float) -> Tensor:
    """Half of the images (3, H, W) with normal noise added."""
    if torch.rand(()).item() >= 0.5:
        return image
    return image + torch.randn_like(image) * std + mean


def instance_norm(image: Tensor) -> Tensor:
    """An image (3, H, W) whose channels have mean 0 and standard deviation 1 each."""
    flat = image.flatten(1)  # (3, H * W)
    mean, std = flat.mean(1)[:, None, None], flat.std(1)[:, None, None]
    return (image - mean) / (std + 1e-8)


def build_transform(
    cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None
) -> Callable[[Image], Tensor] | None:
    """The transform of an image, as the config describes it. The order of the steps is not that of the names.

    Args:
        cfg: the node INPUT says all.
        is_train: with augmentation; otherwise resized, cropped at the centre and normalised.
        choices: names in place of INPUT.TRANSFORMS.

    Returns:
        PIL image -> tensor (3, H, W); None with INPUT.NO_TRANSFORM.

    Raises:
        AssertionError: a name is unknown, or of a policy that this engine does not have.
        ValueError: INPUT.INTERPOLATION is unknown.
    """
    node = cfg.INPUT
    if node.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    names = list(node.TRANSFORMS if choices is None else choices)
    for name in names:
        if name in REFUSED:
            offered = f"Offered are: {', '.join(OFFERED)}"
            raise AssertionError(f"INPUT.TRANSFORMS: {needs_dassl(f'the policy {name!r}')}. {offered}.")
        if name not in OFFERED:
            raise AssertionError(f"INPUT.TRANSFORMS: {unknown('transform', name, OFFERED)}")
    if node.INTERPOLATION not in INTERPOLATION_MODES:
        raise ValueError(
            f"INPUT.INTERPOLATION: {unknown('interpolation', str(node.INTERPOLATION), INTERPOLATION_MODES)}"
        )
    size, how = list(node.SIZE), INTERPOLATION_MODES[node.INTERPOLATION]
    by = "x".join(map(str, size))
    mean, std = list(node.PIXEL_MEAN), list(node.PIXEL_STD)

    steps: list[tuple[str, str, Callable[[Any], Any]]] = []  # the name ("": always done), what is printed, what is done
    to_tensor = ("", "to torch tensor of range [0, 1]", T.ToTensor())
    normalise = ("normalize", f"normalization (mean={mean}, std={std})", T.Normalize(mean, std))
    if is_train:
        translate = partial(random_translation, size=size, interpolation=how)
        scale, n, m = tuple(node.RRCROP_SCALE), node.RANDAUGMENT_N, node.RANDAUGMENT_M
        resized_crop = T.RandomResizedCrop(size, scale=scale, interpolation=how)
        jitter = (node.COLORJITTER_B, node.COLORJITTER_C, node.COLORJITTER_S, node.COLORJITTER_H)
        jitter_text = "color jitter (brightness={}, contrast={}, saturation={}, hue={})".format(*jitter)
        blur = T.RandomApply([T.GaussianBlur(node.GB_K)], p=node.GB_P)
        cut = partial(cutout, n_holes=node.CUTOUT_N, length=node.CUTOUT_LEN)
        cut_text = f"cutout (n_holes={node.CUTOUT_N}, length={node.CUTOUT_LEN})"
        noise = partial(gaussian_noise, mean=node.GN_MEAN, std=node.GN_STD)
        if not {"random_crop", "random_resized_crop"} & set(names):
            steps.append(("", f"resize to {by}", T.Resize(size, how)))
        steps += [
            ("random_translation", "random translation", translate),
            ("random_crop", f"random crop (padding = {node.CROP_PADDING})", T.RandomCrop(size, node.CROP_PADDING)),
            ("random_resized_crop", f"random resized crop (size={by}, scale={scale})", resized_crop),
            ("random_flip", "random flip", T.RandomHorizontalFlip()),
            *((name, name, T.AutoAugment(policy)) for name, policy in _POLICIES.items()),
            ("randaugment", f"randaugment (n={n}, m={m})", T.RandAugment(num_ops=n, magnitude=m)),
            ("colorjitter", jitter_text, T.ColorJitter(*jitter)),
            ("randomgrayscale", f"random gray scale (p={node.RGS_P})", T.RandomGrayscale(p=node.RGS_P)),
            ("gaussian_blur", f"gaussian blur (kernel={node.GB_K}, p={node.GB_P})", blur),
            to_tensor,
            ("cutout", cut_text, cut),
            normalise,
            ("gaussian_noise", f"gaussian noise (mean={node.GN_MEAN}, std={node.GN_STD})", noise),
        ]
    else:
        steps.append(("", f"resize the smaller edge to {max(size)}", T.Resize(max(size), how)))
        steps += [("", f"{by} center crop", T.CenterCrop(size)), to_tensor, normalise]
    steps.append(("instance_norm", "instance normalization", instance_norm))

    chosen = [(text, step) for name, text, step in steps if not name or name in names]
    print(f"Building transform_{'train' if is_train else 'test'}")
    for text, _ in chosen:
        print(f"+ {text}")
    return T.Compose([step for _, step in chosen])


# What a training step computes in.

PRECISIONS = ("fp32", "amp", "fp16", "bf16", "auto")
FORMATS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}  # by name; None: nothing beside 32 bit


def computed_in(name: str, device: str, has_bf16: bool) -> str:
    """Which of `FORMATS` a PREC means on a kind of device.

    `amp` and `fp16` are fp16 on a GPU; `auto` is bf16 there, which needs no scaling of the loss, if the hardware has
    it, and fp16 if not. On a CPU all three are fp32. `bf16` and `fp32` are themselves everywhere.

    Args:
        name: PREC, one of `PRECISIONS`.
        device: "cpu", "cuda", ...
        has_bf16: whether the hardware computes in bf16 itself.
    """
    if name in ("fp32", "bf16"):
        return name
    if device != "cuda":
        return "fp32"
    return "bf16" if name == "auto" and has_bf16 else "fp16"


def number_formats(name: str, device: torch.device) -> tuple[torch.dtype | None, Any]:
    """What a training step computes in beside fp32, if anything, and its gradient scaler, which may be off.

    See `computed_in`. The loss is scaled for fp16 alone; what is trained stays in 32 bit, also with PREC `fp16` (CoOp
    keeps it in 16, where small updates are lost).

    Args:
        name: PREC, one of `PRECISIONS`.
        device: where the step runs.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    used = computed_in(name, device.type, has_bf16)
    if name in ("amp", "fp16") and used == "fp32":
        logger.info("PREC %s needs a GPU: this run on the CPU computes in fp32", name)
    return FORMATS[used], torch.amp.GradScaler("cuda", enabled=used == "fp16")


# Optimisers and learning rates.


def build_optimizer(
    model: nn.Module | Iterable[Any] | None, optim_cfg: CfgNode, param_groups: list[dict[str, Any]] | None = None
) -> Optimizer:
    """The optimiser that `optim_cfg.NAME` names, over all parameters (those without a gradient never move).

    Args:
        model: a module, or parameters or parameter groups.
        optim_cfg: the config's node OPTIM.
        param_groups: groups in place of the model's parameters.

    Raises:
        ValueError: the name is unknown.
        TypeError: STAGED_LR needs a module.
    """
    node = optim_cfg
    parameters: Any = param_groups
    if param_groups is None:
        if node.STAGED_LR:
            parameters = _staged_groups(model, node)
        else:
            parameters = list(model.parameters() if isinstance(model, nn.Module) else model or ())
    betas = {"betas": (node.ADAM_BETA1, node.ADAM_BETA2)}
    momentum = {"momentum": node.MOMENTUM}
    optimisers: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "sgd": (torch.optim.SGD, momentum | {"dampening": node.SGD_DAMPNING, "nesterov": node.SGD_NESTEROV}),
        "rmsprop": (torch.optim.RMSprop, momentum | {"alpha": node.RMSPROP_ALPHA}),
        "adam": (torch.optim.Adam, betas),
        "amsgrad": (torch.optim.Adam, betas | {"amsgrad": True}),
        "radam": (torch.optim.RAdam, betas),
        "adamw": (torch.optim.AdamW, betas),
    }
    if node.NAME not in optimisers:
        raise ValueError(f"OPTIM.NAME: {unknown('optimiser', node.NAME, optimisers)}")
    kind, options = optimisers[node.NAME]
    optimiser: Optimizer = kind(parameters, lr=node.LR, weight_decay=node.WEIGHT_DECAY, **options)
    return optimiser


def _staged_groups(model: Any, node: CfgNode) -> list[dict[str, Any]]:
    """Two groups: the layers of NEW_LAYERS at the full rate, the others at a part of it."""
    if not isinstance(model, nn.Module):
        raise TypeError("OPTIM.STAGED_LR names layers, so it needs a module, not bare parameters")
    inner = model.module if isinstance(model, nn.DataParallel) else model
    children = dict(inner.named_children())
    new = [node.NEW_LAYERS] if isinstance(node.NEW_LAYERS, str) else list(node.NEW_LAYERS)
    for name in new:
        if name not in children:
            raise ValueError(f"OPTIM.NEW_LAYERS: {unknown('layer', name, children)}")
    fresh = [p for name, child in children.items() if name in new for p in child.parameters()]
    base = [p for name, child in children.items() if name not in new for p in child.parameters()]
    return [{"params": base, "lr": node.LR * node.BASE_LR_MULT}, {"params": fresh}]


class Schedule(LRScheduler):
    """A schedule with an optional warm-up; see above.

    Args:
        optimizer: whose rates it sets, at each `step` (once an epoch).
        shape: s(e), the share of the base rate.
        warmup: the rate of a group before epoch W: (e, base rate) -> rate.
        warmup_epochs: W.
        recount: count the epochs of `shape` from W on.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        shape: Callable[[int], float],
        warmup: Callable[[int, float], float],
        warmup_epochs: int,
        recount: bool,
    ) -> None:
        self._shape = shape
        self._warmup = warmup
        self._warmup_epochs = warmup_epochs
        self._recount = recount
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rate of each group at the present epoch."""
        epoch, first = self.last_epoch, self._warmup_epochs
        bases = [float(base) for base in self.base_lrs]
        if epoch < first:
            return [self._warmup(epoch, base) for base in bases]
        share = self._shape(epoch - first) if self._recount else self._shape(epoch) / self._shape(first)
        return [base * share for base in bases]

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the present rates: plain numbers."""
        return {
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
            "_last_lr": [float(group["lr"]) for group in self.optimizer.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the epoch of a state, also of one that Dassl wrote; its shape stays as it was built."""
        epoch, successor = int(state_dict["last_epoch"]), state_dict.get("successor")
        if successor is not None and epoch >= self._warmup_epochs:  # Dassl's warm-up ends at W; this counts on
            counted = successor if isinstance(successor, dict) else vars(successor)
            epoch = int(counted["last_epoch"]) + (self._warmup_epochs if self._recount else 0)
        self.last_epoch = epoch
        self._step_count = epoch + 1
        rates = self.get_lr()
        self._last_lr = [*rates]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    """The schedule that the config's node OPTIM describes.

    Raises:
        ValueError: LR_SCHEDULER or WARMUP_TYPE is unknown.
    """
    node = optim_cfg
    total, gamma = node.MAX_EPOCH, node.GAMMA
    steps = node.STEPSIZE if isinstance(node.STEPSIZE, (tuple, list)) else [node.STEPSIZE]
    step = steps[-1] if steps[-1] > 0 else total
    shapes: dict[str, Callable[[int], float]] = {
        "single_step": lambda e: float(gamma ** (e // step)),
        "multi_step": lambda e: float(gamma ** sum(at <= e for at in steps)),
        "cosine": lambda e: (1 + math.cos(math.pi * e / total)) / 2,
    }
    warmups: dict[str, Callable[[int, float], float]] = {
        "constant": lambda _, base: float(node.WARMUP_CONS_LR),
        "linear": lambda e, base: float(node.WARMUP_MIN_LR if e == 0 else base * e / node.WARMUP_EPOCH),
    }
    if node.LR_SCHEDULER not in shapes:
        raise ValueError(f"OPTIM.LR_SCHEDULER: {unknown('schedule', node.LR_SCHEDULER, shapes)}")
    if node.WARMUP_TYPE not in warmups:
        raise ValueError(f"OPTIM.WARMUP_TYPE: {unknown('warm-up', node.WARMUP_TYPE, warmups)}")
    shape, warmup = shapes[node.LR_SCHEDULER], warmups[node.WARMUP_TYPE]
    first = max(node.WARMUP_EPOCH, 0)
    return Schedule(optimizer, shape, warmup, first, recount=node.WARMUP_RECOUNT or not first)


# Accuracy and the evaluator.


def compute_accuracy(output: Any, target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
    """Top-k accuracy in percent: for each k, a tensor of one number.

    Args:
        output: logits (B, C), or a tuple whose first item they are.
        target: labels (B,).
        topk: the values of k.
    """
    logits = output[0] if isinstance(output, (tuple, list)) else output
    ranked = logits.topk(max(topk), dim=1).indices  # (B, max k)
    hits = ranked == target.view(-1, 1)  # (B, max k)
    return [hits[:, :k].sum().float().view(1) * (100.0 / target.shape[0]) for k in topk]


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> Any:
    """The evaluator that `cfg.TEST.EVALUATOR` names; ValueError if it is not registered."""
    return EVALUATOR_REGISTRY.build(cfg.TEST.EVALUATOR, cfg, **kwargs)


class EvaluatorBase:
    """Base of evaluators, for other programmes, too: `reset`, `process` for each batch, `evaluate`."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        """Forgets what was processed."""
        raise NotImplementedError(f"{type(self).__name__} has no reset()")

    def process(self, mo: Any, gt: Any) -> None:
        """Takes in a batch: the model's output and the labels."""
        raise NotImplementedError(f"{type(self).__name__} has no process()")

    def evaluate(self) -> OrderedDict[str, float]:
        """The metrics by name; by the first, models are selected."""
        raise NotImplementedError(f"{type(self).__name__} has no evaluate()")


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1, in percent; `lab2cname` gives the names for the result of each class."""

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **_: Any) -> None:
        super().__init__(cfg)
        self._lab2cname = lab2cname or {}
        self.reset()

    def reset(self) -> None:
        """Forgets what was processed."""
        self._true: list[Tensor] = []
        self._predicted: list[Tensor] = []

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Takes in a batch: logits (B, C) and labels (B,)."""
        self._predicted.append(mo.detach().argmax(dim=1).cpu())
        self._true.append(gt.detach().long().cpu())

    def evaluate(self) -> OrderedDict[str, float]:
        """Prints the metrics, as log parsers read them, and returns them.

        Raises:
            ValueError: nothing was processed.
        """
        if not self._true:
            raise ValueError("nothing to evaluate: not one batch was processed")
        true, predicted = torch.cat(self._true), torch.cat(self._predicted)  # (N,)
        classes = int(torch.cat([true, predicted]).max()) + 1
        # How often each class (row) was taken for each (column).
        counts = torch.bincount(true * classes + predicted, minlength=classes**2).view(classes, classes)
        hits, occurs = counts.diagonal().double(), counts.sum(1)
        total, correct = len(true), int(counts.trace())
        accuracy = 100.0 * correct / total
        # The mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that occur in the ground truth.
        f1 = (2 * hits / (occurs + counts.sum(0)).clamp(min=1))[occurs > 0]
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * float(f1.mean()))
        print(
            "=> result\n"
            f"* total: {total:,}\n"
            f"* correct: {correct:,}\n"
            f"* accuracy: {accuracy:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {results['macro_f1']:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            print("=> per-class result")
            accuracies = []
            for label in occurs.nonzero().flatten().tolist():
                of_class, right = int(occurs[label]), int(hits[label])
                accuracies.append(100.0 * right / of_class)
                print(
                    f"* class: {label} ({self._lab2cname.get(label, label)})\t"
                    f"total: {of_class:,}\tcorrect: {right:,}\tacc: {accuracies[-1]:.1f}%"
                )
            results["perclass_accuracy"] = sum(accuracies) / len(accuracies)
            print(f"* average: {results['perclass_accuracy']:.1f}%")
        if self.cfg.TEST.COMPUTE_CMAT:  # shares of each row as a tensor, raw counts as JSON
            path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
            with files.atomic_path(path) as temporary:
                torch.save(counts.double() / counts.sum(1, keepdim=True).clamp(min=1), temporary)
            files.atomic_write_text(os.path.join(self.cfg.OUTPUT_DIR, "cmat.json"), json.dumps(counts.tolist()))
            print(f"Confusion matrix is saved to {path}")
        return results
