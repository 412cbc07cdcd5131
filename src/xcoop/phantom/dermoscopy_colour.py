"""Areas that change colour: blue-whitish veil and regression.

Each function takes the lesion, the concept's value (never `absent`) and a generator, and gives a layer.
"""

from __future__ import annotations

import numpy as np

from xcoop.phantom.dermoscopy_lesion import Layer, Lesion, Slot
from xcoop.phantom.texture import Canvas, Floats, fractal_noise, smooth_noise, smooth_step, soften


def draw_veil(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """A confluent, structureless grey-blue area under a whitish ground-glass haze."""
    slot = lesion.slots["veil"]
    area = lesion.blob(rng, slot, rng.uniform(1.25, 1.5), 0.13, 0.4)
    blue = np.array([0.36, 0.43, 0.60]) + rng.normal(0, 0.025, 3)
    haze = smooth_step(fractal_noise(rng, lesion.size, 5, 3), -0.3, 1.5) * area
    return Layer(
        tints=[(blue, area * np.float32(rng.uniform(0.74, 0.86))), ((0.80, 0.83, 0.90), haze * 0.6)], reach=0.02
    )


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
    assert scar.keep is not None and pepper.keep is not None  # noqa: S101  (for the type checker)
    return Layer(keep=scar.keep * pepper.keep, tints=[*scar.tints, *pepper.tints], reach=0.03)


def _scar(lesion: Lesion, slot: Slot, rng: np.random.Generator, scale: float) -> Layer:
    area = lesion.blob(rng, slot, scale, 0.16, 0.3)
    fibres = smooth_step(np.abs(smooth_noise(rng, lesion.size, 14)), 0.5, 0.0)
    white = np.array([0.93, 0.87, 0.84]) + rng.normal(0, 0.015, 3)
    return Layer(keep=1 - 0.85 * area, tints=[(white, area * (0.62 + 0.25 * fibres).astype(np.float32))], reach=0.03)


def _peppering(lesion: Lesion, slot: Slot, rng: np.random.Generator, scale: float) -> Layer:
    area = lesion.blob(rng, slot, scale, 0.18, 0.4)
    grains = _grains(lesion, slot, rng, scale) * smooth_step(area, 0.15, 0.5)
    ground = np.array([0.66, 0.64, 0.70]) + rng.normal(0, 0.015, 3)
    return Layer(
        keep=1 - 0.6 * area,
        tints=[(ground, area * 0.5), ((0.30, 0.34, 0.46), grains * np.float32(rng.uniform(0.75, 0.9)))],
        reach=0.03,
    )


def _grains(lesion: Lesion, slot: Slot, rng: np.random.Generator, scale: float) -> Floats:
    canvas = Canvas(lesion.size)
    reach = slot.radius * scale
    for radius, angle in zip(np.sqrt(rng.uniform(0, 1, 90)) * reach, rng.uniform(0, 2 * np.pi, 90), strict=True):
        canvas.disc(slot.x + radius * np.cos(angle), slot.y + radius * np.sin(angle), rng.uniform(0.005, 0.0085))
    return soften(canvas.coverage(), 0.002 * lesion.size)
