"""The drawing board of the chest phantom: coordinates, soft edges, smooth noise and ink.

Everything is drawn in the coordinates of a standard patient: x runs from -1 (left of the image, the patient's
right) to 1, y from -1 (top) to 1, and a frame says where each pixel of an image lies in them. Position, size,
rotation and a gentle warp of the patient are therefore all in the frame, and lines and areas keep their sharpness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Points = Sequence[tuple[float, float]] | Sequence[np.ndarray] | np.ndarray


class Frame:
    """Where each pixel of an image lies in the coordinates of a patient, who is placed a little differently each time.

    Attributes:
        size: side of the image in pixels.
        x: (size, size) float32 patient coordinate of each pixel.
        y: (size, size) float32 likewise.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        angle = float(np.clip(rng.normal(0.0, 0.05), -0.15, 0.15))
        zoom = rng.uniform(0.9, 1.08, size=2) * rng.uniform(0.82, 1.06)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.diag(zoom)
        shift = np.array([np.clip(rng.normal(0.0, 0.05), -0.12, 0.12), np.clip(rng.normal(0.0, 0.08), -0.16, 0.16)])
        shift[1] = max(shift[1], 0.84 - zoom[1])  # the diaphragm stays in the image
        # Amplitude and phase of the warp of x (row 0) and of y (row 1).
        self._warp = np.stack([rng.uniform(-0.03, 0.03, size=2), rng.uniform(0, 2 * np.pi, size=2)], axis=1)
        grid = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
        px, py = np.meshgrid(grid, grid)  # (S, S), in [-1, 1]
        dx, dy = self._moved(px, py)
        x = matrix[0, 0] * px + matrix[0, 1] * py + shift[0] + dx
        y = matrix[1, 0] * px + matrix[1, 1] * py + shift[1] + dy
        self.x, self.y = x.astype(np.float32), y.astype(np.float32)
        self._inverse, self._shift = np.linalg.inv(matrix).T, shift  # for rows, once the shift is taken off

    def _moved(self, px: np.ndarray, py: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far the warp moves x and y."""
        (ax, phase_x), (ay, phase_y) = self._warp
        return ax * np.sin(2.4 * py + phase_x), ay * np.sin(2.4 * px + phase_y)

    @property
    def pixel(self) -> float:
        """The side of a pixel in the patient's coordinates, without the patient's scale."""
        return 2.0 / self.size

    def to_pixels(self, points: Points) -> np.ndarray:
        """Patient coordinates (N, 2) to pixel coordinates (N, 2); the warp is undone to first order."""
        target = np.asarray(points, dtype=np.float64).reshape(-1, 2) - self._shift
        flat = target @ self._inverse
        bend = np.stack(self._moved(flat[:, 0], flat[:, 1]), axis=1)
        return ((target - bend) @ self._inverse + 1.0) * (self.size / 2.0)


def edge(distance: np.ndarray, softness: float) -> np.ndarray:
    """A soft step: 0 where `distance` is below -`softness`, 1 above `softness`, smooth between."""
    ramp = np.clip(distance * (0.5 / softness) + 0.5, 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def bump(distance: np.ndarray, width: float) -> np.ndarray:
    """A bell of height 1 at distance 0; it reaches 1/4 at `width` (a cheap stand-in for a Gaussian)."""
    scaled = distance * (1.0 / width)
    bell = 1.0 / (1.0 + scaled * scaled)
    return bell * bell


def smooth_noise(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise (size, size) float32 of mean 0 and about unit spread, with `cells` hills along each side."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    # Bicubic interpolation of white noise loses variance; 1.35 about restores it.
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)) * np.float32(1.35)


class Profile:
    """A smooth function of one coordinate, given by a few points and looked up for whole images."""

    _low, _high, _count = -1.6, 1.6, 512

    def __init__(self, at: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> None:
        grid = np.linspace(self._low, self._high, self._count)
        table = np.interp(grid, at, values)
        kernel = np.hanning(27)
        padded = np.pad(table, 13, mode="edge")
        self.table = np.convolve(padded, kernel / kernel.sum(), mode="valid").astype(np.float32)

    def __call__(self, coordinate: np.ndarray) -> np.ndarray:
        """The values at `coordinate` (any shape), held constant outside [-1.6, 1.6]."""
        scale = (self._count - 1) / (self._high - self._low)
        index = ((coordinate - self._low) * scale).astype(np.int32)
        return self.table[np.clip(index, 0, self._count - 1)]

    def at(self, coordinate: float) -> float:
        """The value at one point."""
        return float(self(np.array([coordinate]))[0])


class Ink:
    """A sheet for lines, rings and areas, drawn at twice the size and reduced (that smooths the edges)."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.sheet = Image.new("L", (2 * frame.size, 2 * frame.size), 0)
        self.pen = ImageDraw.Draw(self.sheet)

    def line(self, points: Points, width: float, value: float = 1.0) -> None:
        """A line through `points` (patient coordinates), `width` in the same units, of brightness 0 to 1."""
        pixels = self.frame.to_pixels(points) * 2.0
        thick = max(1, round(width * self.frame.size))
        self.pen.line([tuple(p) for p in pixels.tolist()], fill=round(255 * value), width=thick)

    def strokes(self, starts: np.ndarray, ends: np.ndarray, widths: np.ndarray, values: np.ndarray) -> None:
        """Many straight strokes at once: from (N, 2) to (N, 2), with (N,) widths and brightness."""
        ends_in_pixels = np.concatenate([self.frame.to_pixels(starts), self.frame.to_pixels(ends)], axis=1) * 2.0
        thick = np.maximum(1, np.rint(widths * self.frame.size)).astype(int).tolist()
        shades = np.rint(255 * values).astype(int).tolist()
        for where, width, fill in zip(ends_in_pixels.tolist(), thick, shades, strict=True):
            self.pen.line(where, fill=fill, width=width)

    def polygon(self, points: Points, value: float = 1.0) -> None:
        """A filled area."""
        pixels = self.frame.to_pixels(points) * 2.0
        self.pen.polygon([tuple(p) for p in pixels.tolist()], fill=round(255 * value))

    def disc(self, centre: tuple[float, float], radius: float, value: float = 1.0) -> None:
        """A filled circle."""
        (cx, cy), r = (self.frame.to_pixels([centre])[0] * 2.0).tolist(), radius * self.frame.size
        self.pen.ellipse([cx - r, cy - r, cx + r, cy + r], fill=round(255 * value))

    def ring(self, centre: tuple[float, float], radius: float, wall: float, value: float = 1.0) -> None:
        """A circle with a dark inside."""
        (cx, cy), r = (self.frame.to_pixels([centre])[0] * 2.0).tolist(), radius * self.frame.size
        thick = max(1, round(wall * self.frame.size))
        self.pen.ellipse([cx - r, cy - r, cx + r, cy + r], outline=round(255 * value), width=thick)

    def field(self) -> np.ndarray:
        """What was drawn, (size, size) float32 in [0, 1]."""
        return np.asarray(self.sheet.reduce(2), dtype=np.float32) * np.float32(1 / 255)
