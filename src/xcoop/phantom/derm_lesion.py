"""One skin lesion: its outline, where its parts lie, and what each checklist concept looks like on it.

A concept is drawn by one function, which gives a layer; it takes the lesion, the concept's value (never `absent`) and
the concept's own generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import Voronoi

from xcoop.phantom.drawing import (
    Canvas,
    Floats,
    Mask,
    arc,
    curve,
    fractal_noise,
    pixel_grid,
    smooth_noise,
    smooth_step,
    soften,
    warp,
)

SLOTS = ("veil", "regression", "vessels", "blotch", "cluster")
"""Places for what lies in one part of the lesion only, so that nothing hides another wholly."""


class Slot(NamedTuple):
    """A round place within the lesion: centre and radius as fractions of the image's side, direction in radians."""

    x: float
    y: float
    radius: float
    angle: float = 0.0


class Lesion:
    """Geometry of one lesion: smooth, more or less irregular, 50 to 80 % of the image wide.

    Attributes:
        size: side of the image in pixels.
        centre: (x, y), fractions of the side.
        radius: mean radius, fraction of the side.
        outline: (361,) distance of the border from the centre, by degree.
        rho: (size, size) distance from the centre over that of the border: 1 on the border.
        alpha: (size, size) 1 well inside, fading to 0 over the border.
        slots: see `SLOTS`.
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.size = size
        mean = rng.uniform(0.28, 0.38)
        order = np.arange(2, 9)  # harmonics of the border's distance
        spread = rng.uniform(0.04, 0.15) * np.array([1.0, 0.62, 0.42, 0.3, 0.22, 0.17, 0.13])
        amplitude = rng.normal(0, spread)
        phase = rng.uniform(0, 2 * np.pi, order.size)
        wave = (amplitude[:, None] * np.cos(order[:, None] * np.radians(np.arange(360)) + phase[:, None])).sum(0)
        outline = np.minimum(mean * np.exp(wave), 0.42)
        self.outline, self.radius = np.append(outline, outline[0]), float(outline.mean())

        room = max(0.0, 0.47 - float(outline.max()))
        self.centre = (0.5 + rng.uniform(-room, room) * 0.7, 0.5 + rng.uniform(-room, room) * 0.7)
        x, y = pixel_grid(size)
        dx, dy = x - self.centre[0], y - self.centre[1]
        self.rho: Floats = (np.hypot(dx, dy) / self.border(np.arctan2(dy, dx))).astype(np.float32)
        fade = rng.uniform(0.10, 0.34)
        wander = self.rho + 0.028 * smooth_noise(rng, size, 11) + 0.018 * smooth_noise(rng, size, 40)
        self.alpha = smooth_step(wander, 1.03 + fade / 2, 1.0 - fade / 2)

        self.slots: dict[str, Slot] = {}
        angles = rng.uniform(0, 2 * np.pi) + np.arange(len(SLOTS)) * 2 * np.pi / len(SLOTS)
        for name, angle in zip(rng.permutation(SLOTS), angles + rng.normal(0, 0.12, len(SLOTS)), strict=True):
            sx, sy = self.at(rng.uniform(0.46, 0.58), angle)
            radius = 0.36 * self.radius * rng.uniform(0.92, 1.1)
            self.slots[str(name)] = Slot(float(sx), float(sy), radius, float(angle))

    def border(self, theta: float | NDArray[np.floating]) -> NDArray[np.float64]:
        """The border's distance from the centre in directions `theta` (radians), of the same shape."""
        return np.asarray(np.interp(np.degrees(theta) % 360, np.arange(361), self.outline))

    def at(self, rho: float | NDArray[np.floating], theta: float | NDArray[np.floating]) -> NDArray[np.float64]:
        """The position at `rho` times the border's distance in direction `theta` (radians), (..., 2)."""
        reach = rho * self.border(theta)
        return np.stack([self.centre[0] + reach * np.cos(theta), self.centre[1] + reach * np.sin(theta)], -1)

    def blob(self, rng: np.random.Generator, slot: Slot, scale: float, ragged: float, soft: float) -> Floats:
        """A soft-edged area around a slot's centre, cut off at the lesion's border, (size, size) in 0..1.

        `scale` is the area's radius over the slot's; of it, the edge wanders by `ragged` and fades over `soft`.
        """
        x, y = pixel_grid(self.size)
        distance = np.hypot(x - slot.x, y - slot.y) / (slot.radius * scale)
        distance = distance + ragged * fractal_noise(rng, self.size, 6, 4, gain=0.6)
        return smooth_step(distance, 1 + soft / 2, 1 - soft / 2) * self.alpha

    def inside(self, points: NDArray[np.float64], limit: float = 1.0) -> NDArray[np.bool_]:
        """Which of `points` (n, 2) lie within `limit` times the border's distance, (n,)."""
        dx, dy = (points - np.asarray(self.centre)).T
        return np.asarray(np.hypot(dx, dy) < limit * self.border(np.arctan2(dy, dx)))


@dataclass(frozen=True)
class Layer:
    """What a concept adds to the image.

    Attributes:
        melanin: optical density of brown pigment that is added, (size, size).
        keep: the share of the pigment below that stays, (size, size); 1 leaves it.
        tints: colours (3,) in 0..1 laid over the pigment, each with its coverage (size, size).
        reach: gaps up to this fraction of the side belong to the mask.
    """

    melanin: Floats | float = 0.0
    keep: Floats | float = 1.0
    tints: Sequence[tuple[ArrayLike, Floats]] = ()
    reach: float = 0.015

    def mask(self) -> Mask:
        """Where the concept lies, (size, size), gaps between its parts filled."""
        effect = np.maximum(np.minimum(1.6 * self.melanin, 1), np.subtract(1, self.keep))
        for _, coverage in self.tints:
            effect = np.maximum(effect, coverage)
        width = max(3, 2 * round(self.reach * effect.shape[0] / 2) + 1)
        near = ndimage.uniform_filter(effect, width, mode="constant")
        return np.asarray((near > 0.12) | (effect > 0.3), dtype=bool)


def draw_network(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """Typical: an even honeycomb of thin lines that fades at the border. Atypical: dark, broken, unequal meshes."""
    melanin = _honeycomb(lesion, rng) if value == "typical" else _broken_meshes(lesion, rng)
    return Layer(melanin=melanin, reach=0.06)


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
    points = _lattice(rng, rng.uniform(0.062, 0.078), jitter=0.42)
    cells = Voronoi(points[lesion.inside(points, 1.35)])
    ridges = np.array([ends for ends in cells.ridge_vertices if -1 not in ends])
    lines = cells.vertices[ridges]  # (n, 2, 2)
    lines = lines[lesion.inside(lines.mean(1), 1.0)]
    dx, dy = (lines.mean(1) - lesion.centre).T
    lopsided = 0.5 + 0.5 * np.cos(np.arctan2(dy, dx) - rng.uniform(0, 2 * np.pi))
    widths = rng.uniform(0.008, 0.018, len(lines)) + 0.010 * lopsided
    drawn = rng.uniform(size=len(lines)) < 0.70 + 0.24 * lopsided
    canvas = Canvas(lesion.size)
    strengths = rng.uniform(0.6, 1.0, int(drawn.sum()))
    canvas.strokes(lines[drawn], widths[drawn, None], strengths)
    uneven = np.clip(1 + 0.3 * fractal_noise(rng, lesion.size, 4, 2), 0.3, 1.6)
    ends_abruptly = smooth_step(lesion.rho, 1.06, 0.98)
    meshes = warp(soften(canvas.coverage(), 0.0035 * lesion.size), rng, 16, 0.010)
    return meshes * uneven * ends_abruptly * np.float32(rng.uniform(1.0, 1.3))


def _lattice(rng: np.random.Generator, spacing: float, jitter: float) -> NDArray[np.float64]:
    """A hexagonal lattice over the image, turned, its points moved by `jitter` times the spacing, (n, 2)."""
    reach = int(np.ceil(0.75 / spacing))
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    lattice = np.stack([(i + 0.5 * (j % 2)).ravel(), (j * np.sqrt(0.75)).ravel()], 1) * spacing
    turn = rng.uniform(0, np.pi)
    turned = lattice @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(0.5 + turned + rng.normal(0, jitter * spacing / 1.5, turned.shape))


def draw_pigmentation(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """Structureless dark brown: all over or in one place, even or ragged."""
    size = lesion.size
    if value == "diffuse regular":
        noise = fractal_noise(rng, size, 5, 4, gain=0.6)
        where = smooth_step(lesion.rho + 0.03 * noise, 1.0, 0.6)
        melanin = where * (1 + 0.05 * noise) * np.float32(rng.uniform(0.75, 0.95))
    elif value == "diffuse irregular":
        noise = fractal_noise(rng, size, 5, 4, gain=0.6)
        patches = smooth_step(noise, -0.6, 0.5) * smooth_step(lesion.rho, 1.05, 0.9)
        melanin = patches * np.clip(1.2 + 0.4 * fractal_noise(rng, size, 6, 3), 0.6, 1.9)
    else:
        texture = 1 + 0.10 * fractal_noise(rng, size, 12, 3, gain=0.8)
        if value == "localized regular":
            x, y = lesion.at(rng.uniform(0, 0.08), rng.uniform(0, 2 * np.pi))
            middle = Slot(float(x), float(y), 0.42 * lesion.radius)
            blot, dark = lesion.blob(rng, middle, rng.uniform(0.9, 1.15), 0.06, 0.7), (1.0, 1.3)
        else:
            blot, dark = lesion.blob(rng, lesion.slots["blotch"], rng.uniform(1.05, 1.3), 0.3, 0.45), (1.5, 2.2)
        melanin = blot * texture * np.float32(rng.uniform(*dark))
    return Layer(melanin=melanin, reach=0.03)


def draw_dots(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """Regular: round, of one size, evenly spaced. Irregular: of many sizes, crowded to one side, darker."""
    canvas = Canvas(lesion.size)
    if value == "regular":
        spacing = rng.uniform(0.068, 0.082)
        radius = spacing * rng.uniform(0.23, 0.28)
        points = _lattice(rng, spacing, jitter=0.11)
        for x, y in points[lesion.inside(points, 0.93)]:
            canvas.disc(x, y, radius * rng.uniform(0.88, 1.12), rng.uniform(0.85, 1))
        strength = rng.uniform(1.15, 1.45)
    else:
        slot = lesion.slots["cluster"]
        count = int(rng.integers(24, 38))
        crowd = np.array([slot.x, slot.y]) + rng.normal(0, slot.radius * 0.6, (count, 2))
        strays = lesion.at(np.sqrt(rng.uniform(0, 0.9, count)), rng.uniform(0, 2 * np.pi, count))
        points = np.where(rng.uniform(size=(count, 1)) < 0.72, crowd, strays)
        for x, y in points[lesion.inside(points, 0.98)]:
            canvas.disc(x, y, 0.0095 + 0.022 * rng.beta(1.2, 2.2), rng.uniform(0.7, 1), rng.uniform(0.7, 1.4))
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
        spread, strength = 0.12, np.float32(1.05)
    else:
        count = int(rng.integers(8, 14))
        angles = rng.uniform(0, 2 * np.pi) + np.sort(rng.uniform(0, rng.uniform(1.3, 2.3), count))
        lengths = rng.uniform(0.05, 0.15, count)
        widths = rng.uniform(0.017, 0.032, count)
        spread, strength = 0.3, np.float32(1.4)
    club = rng.uniform(0.35, 1.1)  # pointed to bulbous ends
    for angle, length, width in zip(angles, lengths, widths, strict=True):
        tilt, bend = rng.normal(0, spread, 2)
        line = arc(lesion.at(0.84, angle), angle + tilt, length + 0.16 * lesion.radius, 0.9 * bend, points=8)
        canvas.stroke(line, width * np.linspace(1.25, club * 0.8, 8), strength=rng.uniform(0.8, 1))
    fade = smooth_step(lesion.rho, 0.74, 0.98) * (1 - 0.35 * smooth_step(lesion.rho, 1.05, 1.5))
    return Layer(melanin=soften(canvas.coverage(), 0.003 * lesion.size) * fade * strength, reach=0.03)


def draw_regression(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """White: scar-like areas paler than the skin. Blue: areas peppered with grey-blue grains. Combinations: both."""
    slot = lesion.slots["regression"]
    if value == "white areas":
        return _scar(lesion, slot, rng, rng.uniform(1.05, 1.3))
    if value == "blue areas":
        return _peppering(lesion, slot, rng, rng.uniform(1.1, 1.35))
    away = slot.angle + rng.choice([-1, 1]) * np.pi / 2
    step = 0.55 * slot.radius * np.array([np.cos(away), np.sin(away)])
    scar = _scar(lesion, Slot(slot.x + step[0], slot.y + step[1], slot.radius), rng, rng.uniform(0.85, 1.0))
    pepper = _peppering(lesion, Slot(slot.x - step[0], slot.y - step[1], slot.radius), rng, rng.uniform(0.85, 1.0))
    return Layer(keep=scar.keep * pepper.keep, tints=[*scar.tints, *pepper.tints], reach=0.03)


def _scar(lesion: Lesion, slot: Slot, rng: np.random.Generator, scale: float) -> Layer:
    area = lesion.blob(rng, slot, scale * 1.1, 0.24, 0.6)
    fibres = smooth_step(np.abs(fractal_noise(rng, lesion.size, 12, 2)), 0.7, 0.0)
    white = np.array([0.92, 0.86, 0.83]) + rng.normal(0, 0.015, 3)
    return Layer(keep=1 - np.float32(0.9) * area, tints=[(white, area * (0.5 + 0.32 * fibres))], reach=0.03)


def _peppering(lesion: Lesion, slot: Slot, rng: np.random.Generator, scale: float) -> Layer:
    area = lesion.blob(rng, slot, scale * 1.1, 0.24, 0.6)
    canvas = Canvas(lesion.size)
    radii = np.sqrt(rng.uniform(0, 1, 130)) * slot.radius * (scale * 1.25)
    for radius, angle in zip(radii, rng.uniform(0, 2 * np.pi, 130), strict=True):
        x, y = slot.x + radius * np.cos(angle), slot.y + radius * np.sin(angle)
        canvas.disc(x, y, rng.uniform(0.004, 0.0085), rng.uniform(0.5, 1))
    grains = soften(canvas.coverage(), 0.0025 * lesion.size) * smooth_step(area, 0.1, 0.5)
    ground = np.array([0.64, 0.62, 0.68]) + rng.normal(0, 0.015, 3)
    blue = np.array([0.30, 0.34, 0.45])
    peppered = grains * np.float32(rng.uniform(0.75, 0.9))
    tints = [(ground, area * np.float32(0.5)), (blue, peppered)]
    return Layer(keep=1 - np.float32(0.6) * area, tints=tints, reach=0.03)


def draw_veil(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """A confluent, structureless grey-blue area under a whitish ground-glass haze."""
    area = lesion.blob(rng, lesion.slots["veil"], rng.uniform(1.3, 1.6), 0.2, 0.75)
    blue = np.array([0.38, 0.44, 0.56]) + rng.normal(0, 0.02, 3)
    haze = smooth_step(fractal_noise(rng, lesion.size, 5, 4, gain=0.6), -0.6, 1.8) * area
    veil = (blue, area * np.float32(rng.uniform(0.74, 0.86)))
    return Layer(tints=[veil, (np.array([0.74, 0.78, 0.84]), haze * np.float32(0.6))], reach=0.02)


def draw_vessels(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """Red vessels of one pattern, in an area where the pigment is thinner, as they are seen in."""
    slot = lesion.slots["regression" if value == "within regression" else "vessels"]
    canvas, pale = Canvas(lesion.size), Canvas(lesion.size)
    if value == "arborizing":  # a thick stem from near the border that branches into ever finer ones
        start = lesion.at(0.95, slot.angle)
        inwards = np.arctan2(slot.y - start[1], slot.x - start[0])
        _branch(canvas, rng, start, inwards, 0.62 * lesion.radius, rng.uniform(0.022, 0.027), 3)
        scale = 1.5
    elif value == "comma":  # short, thick, curved, thinning to one end
        for point in _around(slot, rng, int(rng.integers(8, 12)), 1.15):
            angle, bend = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1]) * rng.uniform(1.6, 2.3)
            line = arc(point, angle, rng.uniform(0.058, 0.072), bend, points=9)
            canvas.stroke(line, np.linspace(0.022, 0.008, 9))
        scale = 1.4
    elif value == "hairpin":  # loops like a hairpin, each in a pale halo
        for point in _around(slot, rng, int(rng.integers(6, 9)), 1.1):
            angle, length, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.07), rng.uniform(0.010, 0.013)
            bow = np.linspace(-np.pi / 2, np.pi / 2, 7)
            along = np.concatenate([[-length / 2], length / 2 + gap * np.cos(bow), [-length / 2]])
            across = np.concatenate([[-gap], gap * np.sin(bow), [gap]])
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            canvas.stroke(point + np.stack([along, across], 1) @ turn, 0.0095)
            pale.stroke(point + np.array([[-length / 2, 0], [length / 2, 0]]) @ turn, 0.048)
        scale = 1.4
    elif value == "within regression":  # fine short lines and points mixed, where regression lies or would lie
        for i, point in enumerate(_around(slot, rng, int(rng.integers(14, 20)), 0.95)):
            if i % 3 == 0:
                canvas.disc(point[0], point[1], rng.uniform(0.007, 0.010))
            else:
                line = curve(rng, point, rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.06), 1.2, points=7)
                canvas.stroke(line, 0.009)
        scale = 1.25
    elif value == "wreath":  # a crown: short bent vessels that point at, but do not cross, a pale centre
        count = int(rng.integers(10, 14))
        pale.disc(slot.x, slot.y, slot.radius * 0.55)
        for angle in rng.uniform(0, 1) + np.arange(count) * 2 * np.pi / count:
            outer = np.array([slot.x, slot.y]) + 1.2 * slot.radius * np.array([np.cos(angle), np.sin(angle)])
            line = curve(rng, outer, angle + np.pi + rng.normal(0, 0.2), 0.55 * slot.radius, 0.7, points=8)
            canvas.stroke(line, np.linspace(0.015, 0.008, 8))
        scale = 1.45
    elif value == "dotted":  # many small red points close together
        for x, y in _around(slot, rng, int(rng.integers(26, 38)), 1.3):
            canvas.disc(x, y, rng.uniform(0.0085, 0.0115))
        scale = 1.5
    else:  # linear irregular: unbranched crooked lines of unequal length, width and direction
        for point in _around(slot, rng, int(rng.integers(5, 8)), 1.0):
            angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.09, 0.19)
            start = point - 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
            line = curve(rng, start, angle, length, 2.6, points=16)
            canvas.stroke(line, rng.uniform(0.009, 0.018) * (1 + 0.25 * np.sin(np.arange(16) * 1.3)))
        scale = 1.5
    area = lesion.blob(rng, slot, scale, 0.16, 0.9)
    red = np.array([0.70, 0.14, 0.18]) + rng.normal(0, 0.03, 3)
    pink, cream = np.array([0.90, 0.64, 0.58]), np.array([0.93, 0.82, 0.75])
    vessels = warp(soften(canvas.coverage(), 0.003 * lesion.size), rng, 24, 0.003) * np.float32(rng.uniform(0.72, 0.88))
    halos = soften(pale.coverage(), 0.008 * lesion.size) * 0.6
    tints = [(pink, area * 0.3), (cream, halos), (red, vessels)]
    return Layer(keep=1 - np.float32(0.55) * area, tints=tints, reach=0.02)


def _around(slot: Slot, rng: np.random.Generator, count: int, scale: float) -> NDArray[np.float64]:
    """Points spread evenly over a slot's disc (golden-angle spiral), a little moved, (count, 2)."""
    radius = np.sqrt((np.arange(count) + 0.5) / count) * slot.radius * scale
    angle = rng.uniform(0, 2 * np.pi) + np.arange(count) * 2.39996
    points = np.stack([slot.x + radius * np.cos(angle), slot.y + radius * np.sin(angle)], 1)
    return np.asarray(points + rng.normal(0, 0.08 * slot.radius, points.shape))


def _branch(
    canvas: Canvas, rng: np.random.Generator, start: ArrayLike, angle: float, length: float, width: float, depth: int
) -> None:
    line = curve(rng, start, angle, length, 0.7)
    canvas.stroke(line, np.linspace(width, width * 0.62, len(line)))
    if depth == 0:
        return
    for place, side in ((4, 1), (7, -1), (11, 1), (11, -1))[3 - depth :]:
        turn = side * rng.uniform(0.4, 0.95)
        _branch(canvas, rng, line[place], angle + turn, length * rng.uniform(0.42, 0.6), width * 0.6, depth - 1)


LAYERS: dict[str, Callable[[Lesion, str, np.random.Generator], Layer]] = {
    "pigment_network": draw_network,
    "pigmentation": draw_pigmentation,
    "dots_and_globules": draw_dots,
    "streaks": draw_streaks,
    "regression_structures": draw_regression,
    "blue_whitish_veil": draw_veil,
    "vascular_structures": draw_vessels,
}
"""From the deepest to the topmost."""
