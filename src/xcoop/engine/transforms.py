"""The image transforms that a config names, in their fixed order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode
from yacs.config import CfgNode

from xcoop.engine.imports import needs_dassl
from xcoop.utils.console import unknown

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
    normalisation = (f"normalization (mean={mean}, std={std})", T.Normalize(mean, std))
    to_tensor = ("to torch tensor of range [0, 1]", T.ToTensor())

    steps: list[tuple[str, Callable[[Any], Any]]] = []  # what is printed, what is done
    if not is_train:
        steps.append((f"resize the smaller edge to {max(size)}", T.Resize(max(size), how)))
        steps.append((f"{by} center crop", T.CenterCrop(size)))
        steps.append(to_tensor)
        if "normalize" in names:
            steps.append(normalisation)
    else:
        if not {"random_crop", "random_resized_crop"} & set(names):
            steps.append((f"resize to {by}", T.Resize(size, how)))
        if "random_translation" in names:
            steps.append(("random translation", partial(random_translation, size=size, interpolation=how)))
        if "random_crop" in names:
            steps.append((f"random crop (padding = {node.CROP_PADDING})", T.RandomCrop(size, node.CROP_PADDING)))
        if "random_resized_crop" in names:
            scale = tuple(node.RRCROP_SCALE)
            crop = T.RandomResizedCrop(size, scale=scale, interpolation=how)
            steps.append((f"random resized crop (size={by}, scale={scale})", crop))
        if "random_flip" in names:
            steps.append(("random flip", T.RandomHorizontalFlip()))
        steps += [(name, T.AutoAugment(policy)) for name, policy in _POLICIES.items() if name in names]
        if "randaugment" in names:
            n, m = node.RANDAUGMENT_N, node.RANDAUGMENT_M
            steps.append((f"randaugment (n={n}, m={m})", T.RandAugment(num_ops=n, magnitude=m)))
        if "colorjitter" in names:
            strengths = (node.COLORJITTER_B, node.COLORJITTER_C, node.COLORJITTER_S, node.COLORJITTER_H)
            text = "color jitter (brightness={}, contrast={}, saturation={}, hue={})".format(*strengths)
            steps.append((text, T.ColorJitter(*strengths)))
        if "randomgrayscale" in names:
            steps.append((f"random gray scale (p={node.RGS_P})", T.RandomGrayscale(p=node.RGS_P)))
        if "gaussian_blur" in names:
            blur = T.RandomApply([T.GaussianBlur(node.GB_K)], p=node.GB_P)
            steps.append((f"gaussian blur (kernel={node.GB_K}, p={node.GB_P})", blur))
        steps.append(to_tensor)
        if "cutout" in names:
            holes, length = node.CUTOUT_N, node.CUTOUT_LEN
            text = f"cutout (n_holes={holes}, length={length})"
            steps.append((text, partial(cutout, n_holes=holes, length=length)))
        if "normalize" in names:
            steps.append(normalisation)
        if "gaussian_noise" in names:
            text = f"gaussian noise (mean={node.GN_MEAN}, std={node.GN_STD})"
            steps.append((text, partial(gaussian_noise, mean=node.GN_MEAN, std=node.GN_STD)))
    if "instance_norm" in names:
        steps.append(("instance normalization", instance_norm))
    print(f"Building transform_{'train' if is_train else 'test'}")
    for text, _ in steps:
        print(f"+ {text}")
    return T.Compose([step for _, step in steps])
