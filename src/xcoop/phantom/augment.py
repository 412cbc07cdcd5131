"""Cheap changes of pictures while training, so that features do not hang on one camera or one exposure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Largest shift (of the side), change of scale, and turn (radians) of the frame.
_SHIFT, _SCALE, _TURN = 0.06, 0.12, 0.15


def augment(kind: str, pixels: Tensor, places: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Changes pictures at random, without changing what a caption says of them.

    Skin has no up or down, so it is flipped and turned; a chest has a left and a right, so it is not.

    Args:
        kind: "derm" or "chest".
        pixels: (B, 3, S, S) in [0, 1].
        places: (B, concepts, G, G) in [0, 1], where the concepts lie; they go where the pixels go.
        generator: of the random numbers, on the CPU.

    Returns:
        Both, of the same shapes and ranges.
    """
    if kind == "derm":
        pixels, places = _turned(pixels, places, generator)
    lot = float(torch.rand((), generator=generator))
    if lot < 0.15:  # some batches each: seeing comes first, and robustness costs steps
        pixels, places = _moved(pixels, places, generator)
    elif lot < 0.45:
        pixels = _exposed(pixels, generator, colour=0.08 if kind == "derm" else 0.0)
    elif lot < 0.6:
        pixels = _softened(pixels, generator)
    return pixels.clamp(0, 1), places


def _turned(pixels: Tensor, places: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All of a batch by one of the eight symmetries of the square: batches differ, which is enough."""
    turns, flip = (int(n) for n in torch.randint(0, 4, (2,), generator=generator))
    pixels, places = pixels.rot90(turns, (2, 3)), places.rot90(turns, (2, 3))
    return (pixels.flip(3), places.flip(3)) if flip % 2 else (pixels, places)


def _moved(pixels: Tensor, places: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shifts, scales and turns each picture a little; the rim is mirrored."""
    draws = torch.rand(len(pixels), 4, generator=generator) * 2 - 1
    angle, scale = draws[:, 0] * _TURN, 1 + draws[:, 1] * _SCALE
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack([cosine, -sine, 2 * _SHIFT * draws[:, 2], sine, cosine, 2 * _SHIFT * draws[:, 3]], dim=1)
    return _warped(pixels, rows.view(-1, 2, 3)), _warped(places, rows.view(-1, 2, 3))


def _warped(images: Tensor, rows: Tensor) -> Tensor:
    grid = F.affine_grid(rows.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _exposed(pixels: Tensor, generator: torch.Generator, colour: float) -> Tensor:
    """Brightness, contrast, and for skin the balance of the colours; for a quarter of these batches, a gamma."""
    draws = (torch.rand(len(pixels), 5, 1, 1, generator=generator) * 2 - 1).to(pixels)
    if float(torch.rand((), generator=generator)) < 0.25:
        pixels = pixels.clamp(min=1e-3) ** float(0.75 + 0.6 * torch.rand((), generator=generator))
    contrast, brightness = 1 + 0.25 * draws[:, :1], 0.1 * draws[:, 1:2]
    middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
    gain = contrast * (1 + colour * draws[:, 2:])
    return pixels * gain + (brightness + middle * (1 - contrast))


def _softened(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the batches is blurred a little, the other half gets grain."""
    if float(torch.rand((), generator=generator)) < 0.5:
        return 0.4 * pixels + 0.6 * F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    return pixels + torch.randn(pixels.shape, generator=generator).to(pixels) * 0.03
