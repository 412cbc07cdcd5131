"""Areas that change colour: blue-whitish veil and regression.

Each function takes the lesion, the concept's value (never `absent`) and a generator, and gives a layer.
"""

from __future__ import annotations

import numpy as np

from xcoop.phantom.dermoscopy_lesion import Layer, Lesion, Slot
from xcoop.phantom.texture import Canvas, Floats, fractal_noise, smooth_step, soften


def draw_veil(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """A confluent, structureless grey-blue area under a whitish ground-glass haze."""
    slot = lesion.slots["veil"]
    area = lesion.blob(rng, slot, rng.uniform(1.3, 1.6), 0.2, 0.75)
    blue = np.array([0.38, 0.44, 0.56]) + rng.normal(0, 0.02, 3)
    haze = smooth_step(fractal_noise(rng, lesion.size, 5, 4, gain=0.6), -0.6, 1.8) * area
    veil = (blue, area * np.float32(rng.uniform(0.74, 0.86)))
    return Layer(tints=[veil, (np.array([0.74, 0.78, 0.84]), haze * np.float32(0.6))], reach=0.02)


def draw_regression(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """White: scar-like areas paler than the skin. Blue: areas peppered with grey-blue grains. Combinations: both."""
    slot = lesion.slots["regression"]
    if value == "white areas":
        return _scar(lesion, slot, rng, rng.uniform(1.05, 1.3))
    if value == "blue areas":
        return _peppering(lesion, slot, rng, rng.uniform(1.1, 1.35))
    away = slot.angle + rng.choice([-1, 1]) * np.pi / 2
    step = 0.55 * slot.radius * np.array([np.cos(away), np.sin(away)])
    scar = _scar(lesion, Slot(slot.x + step[0], slot.y + step[1], slot.radius, 0), rng, rng.uniform(0.85, 1.0))
    pepper = _peppering(lesion, Slot(slot.x - step[0], slot.y - step[1], slot.radius, 0), rng, rng.uniform(0.85, 1.0))
    return Layer(keep=scar.keep * pepper.keep, tints=[*scar.tints, *pepper.tints], reach=0.03)


def _scar(lesion: Lesion, slot: Slot, rng: np.random.Generator, scale: float) -> Layer:
    area = lesion.blob(rng, slot, scale * 1.1, 0.24, 0.6)
    fibres = smooth_step(np.abs(fractal_noise(rng, lesion.size, 12, 2)), 0.7, 0.0)
    white = np.array([0.92, 0.86, 0.83]) + rng.normal(0, 0.015, 3)
    return Layer(keep=1 - np.float32(0.9) * area, tints=[(white, area * (0.5 + 0.32 * fibres))], reach=0.03)


def _peppering(lesion: Lesion, slot: Slot, rng: np.random.Generator, scale: float) -> Layer:
    area = lesion.blob(rng, slot, scale * 1.1, 0.24, 0.6)
    grains = _grains(lesion, slot, rng, scale * 1.25) * smooth_step(area, 0.1, 0.5)
    ground = np.array([0.64, 0.62, 0.68]) + rng.normal(0, 0.015, 3)
    blue = np.array([0.30, 0.34, 0.45])
    return Layer(
        keep=1 - np.float32(0.6) * area,
        tints=[(ground, area * np.float32(0.5)), (blue, grains * np.float32(rng.uniform(0.75, 0.9)))],
        reach=0.03,
    )


def _grains(lesion: Lesion, slot: Slot, rng: np.random.Generator, scale: float) -> Floats:
    canvas = Canvas(lesion.size)
    radii = np.sqrt(rng.uniform(0, 1, 130)) * slot.radius * scale
    for radius, angle in zip(radii, rng.uniform(0, 2 * np.pi, 130), strict=True):
        x, y = slot.x + radius * np.cos(angle), slot.y + radius * np.sin(angle)
        canvas.disc(x, y, rng.uniform(0.004, 0.0085), rng.uniform(0.5, 1))
    return soften(canvas.coverage(), 0.0025 * lesion.size)
