"""Healthy skin around and below the lesion, and the pigment that every lesion has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xcoop.phantom.dermoscopy_lesion import Lesion
from xcoop.phantom.texture import Canvas, Floats, absorb, blend, curve, fractal_noise, smooth_noise, smooth_step, soften

MELANIN = np.array([0.60, 1.0, 1.28], dtype=np.float32)
"""How strongly melanin takes out red, green and blue, relative to green."""

BLOOD = np.array([0.15, 1.0, 0.8], dtype=np.float32)
"""The same of haemoglobin."""

_TONES = np.array(
    [
        [0.93, 0.78, 0.72],
        [0.92, 0.73, 0.66],
        [0.89, 0.70, 0.58],
        [0.83, 0.62, 0.49],
        [0.72, 0.51, 0.39],
        [0.55, 0.38, 0.29],
    ]
)
"""Skin colours from fair to dark, sRGB in 0..1."""


def skin_colour(rng: np.random.Generator) -> NDArray[np.float64]:
    """A skin colour (3,) in 0..1; fair skin is the most frequent, as in the real set."""
    place = min(rng.beta(1.1, 2.4) * 5, 4.999)
    low = int(place)
    tone = _TONES[low] + (place - low) * (_TONES[low + 1] - _TONES[low])
    flush = rng.normal(0, 0.02)
    return np.clip(tone + np.array([flush, -flush / 2, rng.normal(0, 0.02)]), 0.1, 0.97)


def draw_skin(rng: np.random.Generator, size: int) -> Floats:
    """Skin with uneven tone, furrows, pores and a few faint vessels, (3, size, size) in 0..1."""
    density = 0.035 * fractal_noise(rng, size, 4, 4, gain=0.7) + 0.016 * smooth_noise(rng, size, 80)
    density += rng.uniform(0.03, 0.10) * furrows(rng, size)
    colour = skin_colour(rng)
    skin = absorb(np.asarray(colour, dtype=np.float32).reshape(3, 1, 1), density, MELANIN)
    redness = rng.uniform(0.01, 0.035) * fractal_noise(rng, size, 5, 4, gain=0.8)
    skin = absorb(skin, redness, BLOOD)
    skin = blend(skin, colour * 0.82, _pores(rng, size))
    return blend(skin, colour * [0.85, 0.55, 0.57], _faint_vessels(rng, size))


def furrows(rng: np.random.Generator, size: int) -> Floats:
    """The crossing fine lines of the skin's surface, (size, size), about 0..1."""
    ridges = [1 - np.abs(smooth_noise(rng, size, cells)) * 1.6 for cells in (14, 24, 38)]
    return np.clip(np.maximum(ridges[0], np.maximum(ridges[1], ridges[2])), 0, 1) ** 3


def base_pigment(rng: np.random.Generator, lesion: Lesion) -> Floats:
    """Optical density of the light to medium brown that fills every lesion, uneven at several scales, (size, size)."""
    size = lesion.size
    level = rng.uniform(0.28, 0.62)
    uneven = rng.uniform(0.12, 0.28) * fractal_noise(rng, size, 3, 5, gain=0.72)
    towards_centre = rng.uniform(-0.15, 0.28) * (1 - np.minimum(lesion.rho, 1) ** 2)
    grain = rng.uniform(0.01, 0.04) * smooth_noise(rng, size, 90)
    return np.clip(level * (1 + uneven + towards_centre) + grain, 0.12, 1.1) * lesion.alpha


def pigment_colour(rng: np.random.Generator) -> Floats:
    """How strongly this lesion's pigment takes out red, green and blue, (3,): from yellowish to reddish brown."""
    return MELANIN * np.array([rng.uniform(0.85, 1.2), 1.0, rng.uniform(0.88, 1.1)], dtype=np.float32)


def _pores(rng: np.random.Generator, size: int) -> Floats:
    canvas = Canvas(size)
    for x, y in rng.uniform(0, 1, (int(rng.integers(0, 40)), 2)):
        canvas.disc(x, y, rng.uniform(0.003, 0.006), strength=rng.uniform(0.2, 0.6))
    return soften(canvas.coverage(), 0.004 * size)


def _faint_vessels(rng: np.random.Generator, size: int) -> Floats:
    """A few blurred pinkish lines: what a vessel of the lesion is not."""
    canvas = Canvas(size)
    for _ in range(int(rng.integers(0, 5))):
        line = curve(rng, rng.uniform(0, 1, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.35), 1.6)
        canvas.stroke(line, np.linspace(0.007, 0.003, len(line)))
    return soften(canvas.coverage(), 0.006 * size) * np.float32(rng.uniform(0.1, 0.35))


def halo(lesion: Lesion, rng: np.random.Generator) -> Floats:
    """Redness around the border, in some pictures, (size, size) in 0..0.2."""
    strength = max(0.0, rng.uniform(-0.15, 0.16))
    return smooth_step(lesion.rho, 1.45, 1.0) * np.float32(strength)
