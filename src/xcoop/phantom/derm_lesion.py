"""The lesion's outline and where its parts lie, and what a layer on it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from xcoop.phantom.texture import Floats, Mask, fractal_noise, pixel_grid, smooth_noise, smooth_step

SLOTS = ("veil", "regression", "vessels", "blotch", "cluster")
"""Places for what lies in one part of the lesion only, so that nothing hides another wholly."""


@dataclass(frozen=True)
class Slot:
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
        outline: (360,) distance of the border from the centre, by degree.
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
        self.outline, self.radius = outline, float(outline.mean())

        room = max(0.0, 0.47 - float(outline.max()))
        self.centre = (0.5 + rng.uniform(-room, room) * 0.7, 0.5 + rng.uniform(-room, room) * 0.7)
        x, y = pixel_grid(size)
        dx, dy = x - self.centre[0], y - self.centre[1]
        degrees = np.degrees(np.arctan2(dy, dx)) % 360
        border = np.interp(degrees.ravel(), np.arange(361), np.append(outline, outline[0])).reshape(size, size)
        self.rho: Floats = (np.hypot(dx, dy) / border).astype(np.float32)
        fade = rng.uniform(0.10, 0.34)
        wander = self.rho + 0.028 * smooth_noise(rng, size, 11) + 0.018 * smooth_noise(rng, size, 40)
        self.alpha = smooth_step(wander, 1.03 + fade / 2, 1.0 - fade / 2)

        self.slots: dict[str, Slot] = {}
        angles = rng.uniform(0, 2 * np.pi) + np.arange(len(SLOTS)) * 2 * np.pi / len(SLOTS)
        for name, angle in zip(rng.permutation(SLOTS), angles + rng.normal(0, 0.12, len(SLOTS)), strict=True):
            sx, sy = self.at(rng.uniform(0.46, 0.58), angle)
            radius = 0.36 * self.radius * rng.uniform(0.92, 1.1)
            self.slots[str(name)] = Slot(float(sx), float(sy), radius, float(angle))

    def at(self, rho: ArrayLike, theta: ArrayLike) -> NDArray[np.float64]:
        """The position at `rho` times the border's distance in direction `theta` (radians), (..., 2)."""
        rho, theta = np.broadcast_arrays(np.asarray(rho, dtype=float), np.asarray(theta, dtype=float))
        reach = rho * np.interp(np.degrees(theta) % 360, np.arange(360), self.outline, period=360)
        return np.stack([self.centre[0] + reach * np.cos(theta), self.centre[1] + reach * np.sin(theta)], -1)

    def blob(self, rng: np.random.Generator, slot: Slot, scale: float, ragged: float, soft: float) -> Floats:
        """A soft-edged area around a slot's centre, cut off at the lesion's border, (size, size) in 0..1.

        Args:
            rng: moves the edge.
            slot: where.
            scale: the area's radius over the slot's.
            ragged: how far the edge wanders, as a fraction of the radius.
            soft: how wide the edge fades, as a fraction of the radius.
        """
        x, y = pixel_grid(self.size)
        distance = np.hypot(x - slot.x, y - slot.y) / (slot.radius * scale)
        distance = distance + ragged * fractal_noise(rng, self.size, 6, 4, gain=0.6)
        return smooth_step(distance, 1 + soft / 2, 1 - soft / 2) * self.alpha

    def inside(self, points: NDArray[np.float64], limit: float = 1.0) -> NDArray[np.bool_]:
        """Which of `points` (n, 2) lie within `limit` times the border's distance, (n,)."""
        offset = points - np.asarray(self.centre)
        theta = np.degrees(np.arctan2(offset[:, 1], offset[:, 0])) % 360
        border = np.interp(theta, np.arange(360), self.outline, period=360)
        return np.asarray(np.hypot(offset[:, 0], offset[:, 1]) < limit * border)


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
