"""The image transforms that a config names, in their fixed order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

from xcoop.utils.suggest import unknown

if TYPE_CHECKING:
    from PIL.Image import Image
    from yacs.config import CfgNode

Step = tuple[str, Callable[[Any], Any]]  # what is printed, what is done

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
_REFUSED = ("randaugment_fixmatch", "randaugment2")


class RandomTranslation:
    """Shifts half of the images: enlarged by an eighth and cropped at random; the others are only resized.

    Args:
        size: height and width of the result.
        interpolation: how pixels are interpolated.
        p: the share of images that are shifted.
    """

    def __init__(self, size: Sequence[int], interpolation: InterpolationMode, p: float = 0.5) -> None:
        self.size = list(size)
        self.interpolation = interpolation
        self.p = p

    def __call__(self, image: Image) -> Image:
        """One image."""
        if torch.rand(()).item() >= self.p:
            return F.resize(image, self.size, self.interpolation)
        height, width = self.size
        larger = F.resize(image, [round(height * 1.125), round(width * 1.125)], self.interpolation)
        top, left, _, _ = T.RandomCrop.get_params(larger, (height, width))
        return F.crop(larger, top, left, height, width)


class Cutout:
    """Blackens random squares.

    Args:
        n_holes: how many.
        length: their side in pixels; at the border they are cut off.
    """

    def __init__(self, n_holes: int, length: int) -> None:
        self.n_holes = n_holes
        self.length = length

    def __call__(self, image: Tensor) -> Tensor:
        """One image (3, H, W), which is not changed."""
        image = image.clone()
        height, width = image.shape[-2:]
        for _ in range(self.n_holes):
            top = int(torch.randint(height, ())) - self.length // 2
            left = int(torch.randint(width, ())) - self.length // 2
            image[:, max(top, 0) : max(top + self.length, 0), max(left, 0) : max(left + self.length, 0)] = 0
        return image


class GaussianNoise:
    """Adds normal noise to a share of the images.

    Args:
        mean: of the noise.
        std: of the noise.
        p: the share of images.
    """

    def __init__(self, mean: float, std: float, p: float = 0.5) -> None:
        self.mean = mean
        self.std = std
        self.p = p

    def __call__(self, image: Tensor) -> Tensor:
        """One image (3, H, W)."""
        if torch.rand(()).item() >= self.p:
            return image
        return image + torch.randn_like(image) * self.std + self.mean


class InstanceNormalization:
    """Gives each channel of an image mean 0 and standard deviation 1.

    Args:
        eps: added to the standard deviation.
    """

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def __call__(self, image: Tensor) -> Tensor:
        """One image (3, H, W)."""
        flat = image.flatten(1)  # (3, H * W)
        mean, std = flat.mean(1)[:, None, None], flat.std(1)[:, None, None]
        return (image - mean) / (std + self.eps)


def build_transform(
    cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None
) -> Callable[[Image], Tensor] | None:
    """The transform of an image, as the config describes it.

    Args:
        cfg: the node INPUT says all.
        is_train: with augmentation; otherwise resized, cropped at the centre and normalised.
        choices: names in place of INPUT.TRANSFORMS.

    Returns:
        PIL image -> tensor (3, H, W); None with INPUT.NO_TRANSFORM.

    Raises:
        AssertionError: a name is unknown, or of a policy that this engine does not have.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    names = list(cfg.INPUT.TRANSFORMS if choices is None else choices)
    _check(names)
    steps = _train_steps(cfg.INPUT, names) if is_train else _test_steps(cfg.INPUT, names)
    print(f"Building transform_{'train' if is_train else 'test'}")
    for text, _ in steps:
        print(f"+ {text}")
    return T.Compose([step for _, step in steps])


def _check(names: Sequence[str]) -> None:
    for name in names:
        if name in _REFUSED:
            raise AssertionError(
                f"INPUT.TRANSFORMS: {name!r} is a policy of Dassl that this engine does not have. "
                f"Offered are: {', '.join(OFFERED)}."
            )
        if name not in OFFERED:
            raise AssertionError(f"INPUT.TRANSFORMS: {unknown('transform', name, OFFERED)}")


def _train_steps(node: CfgNode, names: Sequence[str]) -> list[Step]:
    """The chosen steps. Their order is fixed and does not depend on that of the names."""
    steps = _geometry(node, names) + _policies(node, names) + _colour(node, names)
    steps.append(("to torch tensor of range [0, 1]", T.ToTensor()))
    if "cutout" in names:
        text = f"cutout (n_holes={node.CUTOUT_N}, length={node.CUTOUT_LEN})"
        steps.append((text, Cutout(node.CUTOUT_N, node.CUTOUT_LEN)))
    steps += _normalisation(node, names)
    if "gaussian_noise" in names:
        text = f"gaussian noise (mean={node.GN_MEAN}, std={node.GN_STD})"
        steps.append((text, GaussianNoise(node.GN_MEAN, node.GN_STD)))
    return steps + _instance_norm(names)


def _test_steps(node: CfgNode, names: Sequence[str]) -> list[Step]:
    shorter = max(node.SIZE)
    steps: list[Step] = [
        (f"resize the smaller edge to {shorter}", T.Resize(shorter, _interpolation(node))),
        (f"{_by(node.SIZE)} center crop", T.CenterCrop(list(node.SIZE))),
        ("to torch tensor of range [0, 1]", T.ToTensor()),
    ]
    return steps + _normalisation(node, names) + _instance_norm(names)


def _geometry(node: CfgNode, names: Sequence[str]) -> list[Step]:
    size, how = list(node.SIZE), _interpolation(node)
    steps: list[Step] = []
    if not {"random_crop", "random_resized_crop"} & set(names):
        steps.append((f"resize to {_by(size)}", T.Resize(size, how)))
    if "random_translation" in names:
        steps.append(("random translation", RandomTranslation(size, how)))
    if "random_crop" in names:
        steps.append((f"random crop (padding = {node.CROP_PADDING})", T.RandomCrop(size, node.CROP_PADDING)))
    if "random_resized_crop" in names:
        text = f"random resized crop (size={_by(size)}, scale={tuple(node.RRCROP_SCALE)})"
        steps.append((text, T.RandomResizedCrop(size, scale=tuple(node.RRCROP_SCALE), interpolation=how)))
    if "random_flip" in names:
        steps.append(("random flip", T.RandomHorizontalFlip()))
    return steps


def _policies(node: CfgNode, names: Sequence[str]) -> list[Step]:
    steps: list[Step] = [(name, T.AutoAugment(policy)) for name, policy in _POLICIES.items() if name in names]
    if "randaugment" in names:
        n, m = node.RANDAUGMENT_N, node.RANDAUGMENT_M
        steps.append((f"randaugment (n={n}, m={m})", T.RandAugment(num_ops=n, magnitude=m)))
    return steps


def _colour(node: CfgNode, names: Sequence[str]) -> list[Step]:
    steps: list[Step] = []
    if "colorjitter" in names:
        strengths = (node.COLORJITTER_B, node.COLORJITTER_C, node.COLORJITTER_S, node.COLORJITTER_H)
        text = "color jitter (brightness={}, contrast={}, saturation={}, hue={})".format(*strengths)
        steps.append((text, T.ColorJitter(*strengths)))
    if "randomgrayscale" in names:
        steps.append((f"random gray scale (p={node.RGS_P})", T.RandomGrayscale(p=node.RGS_P)))
    if "gaussian_blur" in names:
        blur = T.RandomApply([T.GaussianBlur(node.GB_K)], p=node.GB_P)
        steps.append((f"gaussian blur (kernel={node.GB_K}, p={node.GB_P})", blur))
    return steps


def _normalisation(node: CfgNode, names: Sequence[str]) -> list[Step]:
    if "normalize" not in names:
        return []
    mean, std = list(node.PIXEL_MEAN), list(node.PIXEL_STD)
    return [(f"normalization (mean={mean}, std={std})", T.Normalize(mean, std))]


def _instance_norm(names: Sequence[str]) -> list[Step]:
    return [("instance normalization", InstanceNormalization())] if "instance_norm" in names else []


def _interpolation(node: CfgNode) -> InterpolationMode:
    if node.INTERPOLATION not in INTERPOLATION_MODES:
        raise ValueError(
            f"INPUT.INTERPOLATION: {unknown('interpolation', str(node.INTERPOLATION), INTERPOLATION_MODES)}"
        )
    return INTERPOLATION_MODES[node.INTERPOLATION]


def _by(size: Sequence[int]) -> str:
    return "x".join(str(side) for side in size)
