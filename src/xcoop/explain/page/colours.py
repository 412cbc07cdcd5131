"""The colour scale of the heat maps: dark violet over teal to pale yellow, in steps that look equally large.

It is a helix in OKLab (B. Ottosson, "A perceptual color space for image processing", 2020): lightness and hue run
evenly at one chroma, so that each step is as far from the next. Who sees no hue still sees the lightness rise.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

STEPS = 256
LIGHTNESS = (0.28, 0.96)
HUE = (320.0, 105.0)  # degrees
CHROMA = 0.10  # about the most that all colours on the way have in sRGB

_LMS = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]])
_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@cache
def scale() -> NDArray[np.uint8]:
    """The colours from lowest to highest, sRGB, (STEPS, 3)."""
    lightness, hue = np.linspace(*LIGHTNESS, STEPS), np.radians(np.linspace(*HUE, STEPS))
    oklab = np.stack([lightness, CHROMA * np.cos(hue), CHROMA * np.sin(hue)], axis=1)  # (STEPS, 3)
    linear = np.clip((oklab @ _LMS.T) ** 3 @ _RGB.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours = np.rint(255 * srgb).astype(np.uint8)
    colours.setflags(write=False)
    return colours


def css_gradient(stops: int = 16) -> str:
    """The scale as a CSS gradient from left to right."""
    picked = scale()[np.linspace(0, STEPS - 1, stops).round().astype(int)]
    return f"linear-gradient(to right,{','.join('#' + bytes(colour).hex() for colour in picked)})"
