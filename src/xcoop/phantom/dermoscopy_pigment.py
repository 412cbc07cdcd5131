"""Brown structures: pigment network, blotches of pigment, dots and globules, streaks.

Each function takes the lesion, the concept's value (never `absent`) and a generator, and gives a layer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Voronoi

from xcoop.phantom.dermoscopy_lesion import Layer, Lesion, Slot
from xcoop.phantom.texture import Canvas, Floats, fractal_noise, pixel_grid, smooth_noise, smooth_step, soften


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
        strength = rng.uniform(0.95, 1.2)
    else:
        _crowded_globules(canvas, lesion, rng)
        strength = rng.uniform(1.5, 2.0)
    return Layer(melanin=canvas.coverage() * np.float32(strength), reach=0.06)


def draw_streaks(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """Projections beyond the border. Regular: even, all round. Irregular: unequal, on one side."""
    canvas = Canvas(lesion.size)
    if value == "regular":
        count = int(rng.integers(26, 36))
        angles = np.arange(count) * 2 * np.pi / count + rng.uniform(0, 1) + rng.normal(0, 0.02, count)
        lengths = rng.uniform(0.055, 0.075) * rng.uniform(0.9, 1.1, count)
        widths = np.full(count, rng.uniform(0.015, 0.018))
        tilts = rng.normal(0, 0.06, count)
    else:
        count = int(rng.integers(8, 14))
        span = rng.uniform(1.2, 2.2)
        angles = rng.uniform(0, 2 * np.pi) + np.sort(rng.uniform(0, span, count))
        lengths = rng.uniform(0.05, 0.15, count)
        widths = rng.uniform(0.015, 0.030, count)
        tilts = rng.normal(0, 0.28, count)
    club = rng.uniform(0.5, 1.3)  # pointed to bulbous ends
    for angle, length, width, tilt in zip(angles, lengths, widths, tilts, strict=True):
        foot = lesion.at(0.86, angle)
        way = np.array([np.cos(angle + tilt), np.sin(angle + tilt)])
        line = foot + np.linspace(0, 1, 8)[:, None] * way * (length + 0.14 * lesion.radius)
        canvas.stroke(line, width * np.linspace(1.1, club * 0.8, 8))
    strength = 1.0 if value == "regular" else 1.35
    fade_in = smooth_step(lesion.rho, 0.78, 0.92)
    return Layer(melanin=canvas.coverage() * fade_in * np.float32(strength), reach=0.03)


def _honeycomb(lesion: Lesion, rng: np.random.Generator) -> Floats:
    """Three crossed cosine waves: their sum is high in the holes and low along the edges of a honeycomb."""
    x, y = pixel_grid(lesion.size)
    bend = 0.010
    x = x + bend * smooth_noise(rng, lesion.size, 5)
    y = y + bend * smooth_noise(rng, lesion.size, 5)
    period, turn = rng.uniform(0.043, 0.054), rng.uniform(0, np.pi)
    waves = np.zeros_like(x)
    for angle in turn + np.arange(3) * np.pi / 3:
        waves = waves + np.cos(2 * np.pi / period / 0.866 * 0.866 * (x * np.cos(angle) + y * np.sin(angle)))
    lines = smooth_step(waves, 0.1, -0.95)
    where = smooth_step(lesion.rho, 1.04, 0.70)
    uneven = 1 + 0.18 * fractal_noise(rng, lesion.size, 4, 2)
    return lines * where * uneven * np.float32(rng.uniform(0.62, 0.82))


def _broken_meshes(lesion: Lesion, rng: np.random.Generator) -> Floats:
    """Edges of the cells around scattered points, each edge with a width of its own, some left out."""
    spacing = rng.uniform(0.062, 0.078)
    points = _scatter(rng, spacing, jitter=0.42)
    cells = Voronoi(points)
    canvas = Canvas(lesion.size)
    patchy = rng.uniform(0, 2 * np.pi)
    for ends in cells.ridge_vertices:
        if -1 in ends:
            continue
        line = cells.vertices[ends]
        middle = line.mean(0)
        offset = middle - np.asarray(lesion.centre)
        lopsided = 0.5 + 0.5 * np.cos(np.arctan2(offset[1], offset[0]) - patchy)
        width, drawn = rng.uniform(0.009, 0.020) + 0.010 * lopsided, rng.uniform() < 0.66 + 0.26 * lopsided
        if drawn and lesion.inside(middle[None], 1.02)[0]:
            canvas.stroke(line, width, strength=rng.uniform(0.6, 1.0))
    uneven = np.clip(1 + 0.3 * fractal_noise(rng, lesion.size, 4, 2), 0.3, 1.6)
    ends_abruptly = smooth_step(lesion.rho, 1.06, 1.0)
    lines = soften(canvas.coverage(), 0.0025 * lesion.size)
    return lines * uneven * ends_abruptly * np.float32(rng.uniform(1.1, 1.5))


def _diffuse(lesion: Lesion, regular: bool, rng: np.random.Generator) -> Floats:
    noise = fractal_noise(rng, lesion.size, 5, 3)
    if regular:
        where = smooth_step(lesion.rho + 0.02 * noise, 0.98, 0.62)
        return where * np.float32(rng.uniform(0.75, 0.95))
    patches = smooth_step(noise, -0.25, 0.25) * smooth_step(lesion.rho, 1.05, 0.92)
    return patches * np.clip(1.2 + 0.35 * smooth_noise(rng, lesion.size, 6), 0.7, 1.8)


def _localized(lesion: Lesion, regular: bool, rng: np.random.Generator) -> Floats:
    if regular:
        x, y = lesion.at(rng.uniform(0, 0.08), rng.uniform(0, 2 * np.pi))
        slot = Slot(float(x), float(y), 0.42 * lesion.radius, 0.0)
        return lesion.blob(rng, slot, rng.uniform(0.9, 1.1), 0.02, 0.35) * np.float32(rng.uniform(1.0, 1.3))
    blot = lesion.blob(rng, lesion.slots["blotch"], rng.uniform(1.0, 1.25), 0.28, 0.22)
    return blot * np.float32(rng.uniform(1.7, 2.3))


def _even_globules(canvas: Canvas, lesion: Lesion, rng: np.random.Generator) -> None:
    spacing = rng.uniform(0.060, 0.072)
    radius = spacing * rng.uniform(0.24, 0.29)
    points = _scatter(rng, spacing, jitter=0.05)
    for x, y in points[lesion.inside(points, 0.93)]:
        canvas.disc(x, y, radius * rng.uniform(0.94, 1.06))


def _crowded_globules(canvas: Canvas, lesion: Lesion, rng: np.random.Generator) -> None:
    slot = lesion.slots["cluster"]
    for _ in range(int(rng.integers(22, 36))):
        if rng.uniform() < 0.72:
            x, y = np.array([slot.x, slot.y]) + rng.normal(0, slot.radius * 0.55, 2)
        else:
            x, y = lesion.at(np.sqrt(rng.uniform(0, 0.9)), rng.uniform(0, 2 * np.pi))
        if lesion.inside(np.array([[x, y]]), 0.99)[0]:
            canvas.disc(x, y, 0.008 + 0.022 * rng.beta(1.2, 2.2), rng.uniform(0.75, 1), rng.uniform(0.75, 1.3))


def _scatter(rng: np.random.Generator, spacing: float, jitter: float) -> NDArray[np.float64]:
    """A hexagonal lattice over the picture, turned at random, its points moved by `jitter` times the spacing, (n, 2)."""
    reach = int(np.ceil(0.75 / spacing))
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    lattice = np.stack([(i + 0.5 * (j % 2)).ravel(), (j * np.sqrt(0.75)).ravel()], 1) * spacing
    turn = rng.uniform(0, np.pi)
    turned = lattice @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(0.5 + turned + rng.normal(0, jitter * spacing / 1.5, turned.shape))
