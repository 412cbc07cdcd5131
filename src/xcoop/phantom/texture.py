"""What every drawn picture is made of: smooth noise, soft edges, and anti-aliased strokes.

Positions and widths are fractions of the picture's side, so that one drawing looks alike at every size.
Random numbers are drawn on grids whose size does not depend on the picture's.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


def pixel_grid(size: int) -> tuple[Floats, Floats]:
    """The x and y of the pixel centres as fractions of the side, each (size, size)."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(line, (size, size)), np.broadcast_to(line[:, None], (size, size))


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """Noise of about zero mean and unit spread whose bumps are 1 / `cells` of the side wide, (size, size)."""
    knots = rng.standard_normal((cells + 4, cells + 4), dtype=np.float32) * 1.35
    box = (1.5, 1.5, cells + 1.5, cells + 1.5)
    return np.asarray(Image.fromarray(knots).resize((size, size), Image.Resampling.BICUBIC, box=box))


def fractal_noise(rng: np.random.Generator, size: int, cells: int, octaves: int, gain: float = 0.5) -> Floats:
    """Noise with bumps at `octaves` scales, each half as wide as the last and `gain` times as strong."""
    weights = gain ** np.arange(octaves)
    layers = [w * smooth_noise(rng, size, cells << i) for i, w in enumerate(weights)]
    return np.asarray(sum(layers) / np.sqrt((weights**2).sum()), dtype=np.float32)


def smooth_step(value: NDArray[np.floating], low: float, high: float) -> Floats:
    """0 where `value` is at `low` or beyond, 1 at `high` or beyond, without kinks between; `low` may be above `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def blend(image: Floats, colour: ArrayLike, coverage: Floats) -> Floats:
    """Lays a colour (3,) or picture (H, W, 3) over `image` (H, W, 3), as opaque as `coverage` (H, W)."""
    return np.asarray(image + (np.asarray(colour, dtype=np.float32) - image) * coverage[..., None], dtype=np.float32)


def soften(image: Floats, sigma: float) -> Floats:
    """Gaussian blur over the first two axes, `sigma` in pixels; a very small one does nothing."""
    if sigma < 0.2:
        return image
    sigmas = (sigma, sigma) + (0,) * (image.ndim - 2)
    return np.asarray(ndimage.gaussian_filter(image, sigmas, truncate=2.5), dtype=np.float32)


def neighbourhood(coverage: Floats, reach: float) -> Mask:
    """Where something is drawn, gaps up to about `reach` (fraction of the side) between its parts filled."""
    width = max(3, 2 * round(reach * coverage.shape[0] / 2) + 1)
    near = ndimage.uniform_filter(coverage, width, mode="constant")
    return np.asarray((near > 0.12) | (coverage > 0.3), dtype=bool)


def children(rng: np.random.Generator, names: Iterable[str]) -> dict[str, np.random.Generator]:
    """One generator a name, so that what one part draws does not move what another draws."""
    names = tuple(names)
    seeds = rng.integers(1 << 63, size=len(names))
    return {name: np.random.default_rng(seed) for name, seed in zip(names, seeds, strict=True)}


class Canvas:
    """Gathers strokes and discs, and gives their anti-aliased coverage.

    Args:
        size: the side of the picture in pixels. Drawing happens on a finer raster, which is then averaged down.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._fine = max(2, round(384 / size))
        self._side = size * self._fine
        self._image = Image.new("L", (self._side, self._side), 0)
        self._draw = ImageDraw.Draw(self._image)

    def disc(self, x: float, y: float, radius: float, strength: float = 1.0, stretch: float = 1.0) -> None:
        """Draws a filled disc, `stretch` times as wide as it is high."""
        s = self._side
        box = [s * (x - radius * stretch), s * (y - radius), s * (x + radius * stretch), s * (y + radius)]
        self._draw.ellipse(box, fill=round(255 * strength))

    def stroke(self, points: NDArray[np.floating], widths: ArrayLike, strength: float = 1.0) -> None:
        """Draws a line through `points` (n, 2) with the given width at each point, and round ends."""
        points = np.asarray(points, dtype=np.float64) * self._side
        half = np.broadcast_to(np.asarray(widths, dtype=np.float64), (len(points),)) * self._side / 2
        along = np.gradient(points, axis=0)
        length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)
        normal = np.stack([-along[:, 1], along[:, 0]], 1) / length[:, None] * half[:, None]
        outline = np.concatenate([points + normal, (points - normal)[::-1]])
        fill = round(255 * strength)
        self._draw.polygon(outline.ravel().tolist(), fill=fill)
        for (x, y), r in ((points[0], half[0]), (points[-1], half[-1])):
            self._draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    def coverage(self) -> Floats:
        """How much of each pixel is covered, (size, size) in 0..1."""
        return np.asarray(self._image.reduce(self._fine), dtype=np.float32) / 255


def curve(
    rng: np.random.Generator, start: ArrayLike, angle: float, length: float, bend: float, points: int = 12
) -> NDArray[np.float64]:
    """A wandering line: from `start` in direction `angle`, turning by random amounts of spread `bend` (radians in all).

    Returns:
        (points, 2) positions, `length` along the line from the first to the last.
    """
    turns = np.cumsum(rng.normal(0, bend / np.sqrt(points), points - 1))
    steps = np.stack([np.cos(angle + turns), np.sin(angle + turns)], 1) * (length / (points - 1))
    return np.asarray(start, dtype=np.float64) + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])
