"""Brown structures: pigment network, blotches of pigment, dots and globules, streaks.

Each function takes the lesion, the concept's value (never `absent`) and a generator, and gives a layer.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Voronoi

from xcoop.phantom.dermoscopy_lesion import Layer, Lesion, Slot
from xcoop.phantom.texture import (
    Canvas,
    Floats,
    arc,
    fractal_noise,
    pixel_grid,
    smooth_noise,
    smooth_step,
    soften,
    warp,
)


def draw_network(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """Typical: an even honeycomb of thin lines that fades at the border. Atypical: dark, broken, unequal meshes."""
    melanin = _honeycomb(lesion, rng) if value == "typical" else _broken_meshes(lesion, rng)
    return Layer(melanin=melanin, reach=0.06)


def draw_pigmentation(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """Structureless dark brown: all over or in one place, even or ragged."""
    extent, kind = value.split()
    draw = {"diffuse": _diffuse, "localized": _localized}[extent]
    return Layer(melanin=draw(lesion, kind == "regular", rng), reach=0.03)


def draw_dots(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """Regular: round, of one size, evenly spaced. Irregular: of many sizes, crowded to one side, darker."""
    canvas = Canvas(lesion.size)
    if value == "regular":
        _even_globules(canvas, lesion, rng)
        strength = rng.uniform(1.15, 1.45)
    else:
        _crowded_globules(canvas, lesion, rng)
        strength = rng.uniform(1.9, 2.5)
    spots = warp(soften(canvas.coverage(), 0.0035 * lesion.size), rng, 30, 0.0025)
    return Layer(melanin=spots * np.float32(strength), reach=0.06)


def draw_streaks(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """Projections beyond the border. Regular: even, all round. Irregular: unequal, on one side."""
    canvas = Canvas(lesion.size)
    if value == "regular":
        count = int(rng.integers(26, 36))
        angles = (np.arange(count) + rng.uniform()) * 2 * np.pi / count + rng.normal(0, 0.03, count)
        lengths = rng.uniform(0.055, 0.075) * rng.uniform(0.8, 1.2, count)
        widths = rng.uniform(0.016, 0.019) * rng.uniform(0.85, 1.15, count)
        spread = 0.12
    else:
        count = int(rng.integers(8, 14))
        angles = rng.uniform(0, 2 * np.pi) + np.sort(rng.uniform(0, rng.uniform(1.3, 2.3), count))
        lengths = rng.uniform(0.05, 0.15, count)
        widths = rng.uniform(0.017, 0.032, count)
        spread = 0.3
    club = rng.uniform(0.35, 1.1)  # pointed to bulbous ends
    for angle, length, width in zip(angles, lengths, widths, strict=True):
        tilt, bend = rng.normal(0, spread, 2)
        line = arc(lesion.at(0.84, angle), angle + tilt, length + 0.16 * lesion.radius, 0.9 * bend, points=8)
        canvas.stroke(line, width * np.linspace(1.25, club * 0.8, 8), strength=rng.uniform(0.8, 1))
    strength = np.float32(1.05 if value == "regular" else 1.4)
    fade = smooth_step(lesion.rho, 0.74, 0.98) * (1 - 0.35 * smooth_step(lesion.rho, 1.05, 1.5))
    return Layer(melanin=soften(canvas.coverage(), 0.003 * lesion.size) * fade * strength, reach=0.03)


def _honeycomb(lesion: Lesion, rng: np.random.Generator) -> Floats:
    """Three crossed cosine waves: their sum is high in the holes and low along the edges of a honeycomb."""
    x, y = pixel_grid(lesion.size)
    bend, ripple = 0.011, 0.004
    x = x + bend * smooth_noise(rng, lesion.size, 5) + ripple * smooth_noise(rng, lesion.size, 20)
    y = y + bend * smooth_noise(rng, lesion.size, 5) + ripple * smooth_noise(rng, lesion.size, 20)
    period, turn = rng.uniform(0.041, 0.052), rng.uniform(0, np.pi)
    waves = np.zeros_like(x)
    for k in range(3):
        along = x * math.cos(turn + k * math.pi / 3) + y * math.sin(turn + k * math.pi / 3)
        waves += np.cos(along * (2 * math.pi / period))
    lines = smooth_step(waves, 0.0, -1.1)
    where = smooth_step(lesion.rho, 1.08, 0.66)
    uneven = np.clip(1 + 0.25 * fractal_noise(rng, lesion.size, 5, 4, gain=0.8), 0.4, 1.6)
    return lines * where * uneven * np.float32(rng.uniform(0.62, 0.85))


def _broken_meshes(lesion: Lesion, rng: np.random.Generator) -> Floats:
    """Edges of the cells around scattered points, each edge with a width of its own, some left out."""
    spacing = rng.uniform(0.062, 0.078)
    points = _scatter(rng, spacing, jitter=0.42)
    cells = Voronoi(points[lesion.inside(points, 1.35)])
    ridges = np.array([ends for ends in cells.ridge_vertices if -1 not in ends])
    lines = cells.vertices[ridges]  # (n, 2, 2)
    lines = lines[lesion.inside(lines.mean(1), 1.0)]
    offset = lines.mean(1) - lesion.centre
    lopsided = 0.5 + 0.5 * np.cos(np.arctan2(offset[:, 1], offset[:, 0]) - rng.uniform(0, 2 * np.pi))
    widths = rng.uniform(0.008, 0.018, len(lines)) + 0.010 * lopsided
    drawn = rng.uniform(size=len(lines)) < 0.70 + 0.24 * lopsided
    canvas = Canvas(lesion.size)
    canvas.strokes(lines[drawn], np.repeat(widths[drawn, None], 2, 1), rng.uniform(0.6, 1.0, int(drawn.sum())).tolist())
    uneven = np.clip(1 + 0.3 * fractal_noise(rng, lesion.size, 4, 2), 0.3, 1.6)
    ends_abruptly = smooth_step(lesion.rho, 1.06, 0.98)
    lines = warp(soften(canvas.coverage(), 0.0035 * lesion.size), rng, 16, 0.010)
    return lines * uneven * ends_abruptly * np.float32(rng.uniform(1.0, 1.3))


def _diffuse(lesion: Lesion, regular: bool, rng: np.random.Generator) -> Floats:
    noise = fractal_noise(rng, lesion.size, 5, 4, gain=0.6)
    if regular:
        where = smooth_step(lesion.rho + 0.03 * noise, 1.0, 0.6)
        return where * (1 + 0.05 * noise) * np.float32(rng.uniform(0.75, 0.95))
    patches = smooth_step(noise, -0.6, 0.5) * smooth_step(lesion.rho, 1.05, 0.9)
    return patches * np.clip(1.2 + 0.4 * fractal_noise(rng, lesion.size, 6, 3), 0.6, 1.9)


def _localized(lesion: Lesion, regular: bool, rng: np.random.Generator) -> Floats:
    texture = 1 + 0.10 * fractal_noise(rng, lesion.size, 12, 3, gain=0.8)
    if regular:
        x, y = lesion.at(rng.uniform(0, 0.08), rng.uniform(0, 2 * np.pi))
        slot = Slot(float(x), float(y), 0.42 * lesion.radius, 0.0)
        return lesion.blob(rng, slot, rng.uniform(0.9, 1.15), 0.06, 0.7) * texture * np.float32(rng.uniform(1.0, 1.3))
    blot = lesion.blob(rng, lesion.slots["blotch"], rng.uniform(1.05, 1.3), 0.3, 0.45)
    return blot * texture * np.float32(rng.uniform(1.5, 2.2))


def _even_globules(canvas: Canvas, lesion: Lesion, rng: np.random.Generator) -> None:
    spacing = rng.uniform(0.068, 0.082)
    radius = spacing * rng.uniform(0.23, 0.28)
    points = _scatter(rng, spacing, jitter=0.11)
    for x, y in points[lesion.inside(points, 0.93)]:
        canvas.disc(x, y, radius * rng.uniform(0.88, 1.12), rng.uniform(0.85, 1))


def _crowded_globules(canvas: Canvas, lesion: Lesion, rng: np.random.Generator) -> None:
    slot = lesion.slots["cluster"]
    count = int(rng.integers(24, 38))
    crowd = np.array([slot.x, slot.y]) + rng.normal(0, slot.radius * 0.6, (count, 2))
    strays = lesion.at(np.sqrt(rng.uniform(0, 0.9, count)), rng.uniform(0, 2 * np.pi, count))
    points = np.where(rng.uniform(size=(count, 1)) < 0.72, crowd, strays)
    for x, y in points[lesion.inside(points, 0.98)]:
        canvas.disc(x, y, 0.0095 + 0.022 * rng.beta(1.2, 2.2), rng.uniform(0.7, 1), rng.uniform(0.7, 1.4))


def _scatter(rng: np.random.Generator, spacing: float, jitter: float) -> NDArray[np.float64]:
    """A hexagonal lattice over the picture, turned, its points moved by `jitter` times the spacing, (n, 2)."""
    reach = int(np.ceil(0.75 / spacing))
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    lattice = np.stack([(i + 0.5 * (j % 2)).ravel(), (j * np.sqrt(0.75)).ravel()], 1) * spacing
    turn = rng.uniform(0, np.pi)
    turned = lattice @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(0.5 + turned + rng.normal(0, jitter * spacing / 1.5, turned.shape))
