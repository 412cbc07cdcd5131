"""What every drawn image is made of: its truth, random streams, smooth noise, soft edges, and anti-aliased strokes.

And the drawing of many of them at once, with every core.

Positions and widths are fractions of the image's side, so that one drawing looks alike at every size.
Random numbers are drawn on grids whose size does not depend on the image's. Images in the making are (3, H, W),
float32, sRGB in 0..1; in that order numpy works on them several times as fast as with the channels last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Starting a process costs about a second: fewer images than this are drawn at home.
_WORTH_A_POOL = 400


@dataclass(frozen=True)
class Drawing:
    """One phantom image with its truth.

    Attributes:
        image: (size, size, 3) uint8 sRGB; greys have three equal channels.
        masks: concept -> (size, size), where it lies. A concept that is absent has an empty mask, or none.
        lesion: (size, size), the skin lesion or the lung fields.
    """

    image: NDArray[np.uint8]
    masks: dict[str, Mask]
    lesion: Mask


def children(rng: np.random.Generator, names: Iterable[str]) -> dict[str, np.random.Generator]:
    """One generator a name, so that what one part draws does not move what another draws."""
    names = tuple(names)
    seeds = rng.integers(1 << 63, size=len(names))
    return {name: np.random.default_rng(seed) for name, seed in zip(names, seeds, strict=True)}


def pixel_grid(size: int) -> tuple[Floats, Floats]:
    """The x and y of the pixel centres as fractions of the side, each (size, size)."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(line, (size, size)), np.broadcast_to(line[:, None], (size, size))


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """Noise of about zero mean and unit spread whose bumps are 1 / `cells` of the side wide, (size, size)."""
    return _stretch(rng.standard_normal((cells + 4, cells + 4), dtype=np.float32) * np.float32(1.35), size, cells)


def fractal_noise(rng: np.random.Generator, size: int, cells: int, octaves: int, gain: float = 0.5) -> Floats:
    """Noise with bumps at `octaves` scales, each half as wide as the last and `gain` times as strong."""
    finest = cells << (octaves - 1)
    weights = gain ** np.arange(octaves)
    weights /= np.sqrt((weights**2).sum())
    # The scales are summed on the finest one's own grid, which is far smaller than most images.
    total = rng.standard_normal((finest + 4, finest + 4), dtype=np.float32) * np.float32(1.35 * weights[-1])
    for i, weight in enumerate(weights[:-1]):
        total += np.float32(weight) * smooth_noise(rng, finest + 4, cells << i)
    return _stretch(total, size, finest)


def _stretch(knots: Floats, size: int, cells: int) -> Floats:
    """Interpolates (cells + 4, cells + 4) knots to (size, size), leaving out the edges, which lack neighbours."""
    box = (1.5, 1.5, cells + 1.5, cells + 1.5)
    # Raw bytes in and out: Pillow's array interface costs more than the interpolation.
    image = Image.frombytes("F", (cells + 4, cells + 4), knots.tobytes())
    stretched = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.frombuffer(stretched.tobytes(), dtype=np.float32).reshape(size, size)


def smooth_step(value: NDArray[np.floating], low: float, high: float) -> Floats:
    """0 where `value` is at `low` or beyond, 1 at `high` or beyond, smooth between; `low` may be above `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def blend(image: Floats, colour: ArrayLike, coverage: Floats) -> Floats:
    """Lays a colour (3,), or one grey, over `image` (3, H, W), as opaque as `coverage` (H, W)."""
    over = np.asarray(colour, dtype=np.float32).reshape(-1, 1, 1)
    return np.asarray(image + (over - image) * coverage, dtype=np.float32)


def absorb(image: Floats, density: Floats, colour: ArrayLike) -> Floats:
    """Takes light out of `image` (3, H, W) by Beer's law: optical density (H, W), times `colour` (3,) by channel."""
    strength = np.asarray(colour, dtype=np.float32).reshape(3, 1, 1)
    return np.asarray(image * np.exp(-strength * density.astype(np.float32)), dtype=np.float32)


def soften(image: Floats, sigma: float) -> Floats:
    """Gaussian blur of (..., H, W), `sigma` in pixels; a very small one does nothing."""
    if sigma < 0.2:
        return image
    sigmas = (0,) * (image.ndim - 2) + (sigma, sigma)
    return np.asarray(ndimage.gaussian_filter(image, sigmas, truncate=2.5), dtype=np.float32)


def warp(image: Floats, rng: np.random.Generator, cells: int, shift: float) -> Floats:
    """Bends (H, W) by smooth noise: bumps 1 / `cells` wide, moved by about `shift` (fraction of the side)."""
    size = image.shape[0]
    rows, columns = np.indices(image.shape, dtype=np.float32)
    rows += smooth_noise(rng, size, cells) * np.float32(shift * size)
    columns += smooth_noise(rng, size, cells) * np.float32(shift * size)
    return np.asarray(ndimage.map_coordinates(image, [rows, columns], order=1, mode="nearest"), dtype=np.float32)


class Canvas:
    """Gathers strokes and discs, drawn on a finer raster, and gives their anti-aliased coverage."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._fine = max(2, round(384 / size))
        self._side = size * self._fine
        self._image = Image.new("L", (self._side, self._side), 0)
        self._draw = ImageDraw.Draw(self._image)

    def disc(self, x: float, y: float, radius: float, strength: float = 1.0, stretch: float = 1.0) -> None:
        """Draws a filled disc, `stretch` times as wide as it is high."""
        s = self._side
        box = (s * (x - radius * stretch), s * (y - radius), s * (x + radius * stretch), s * (y + radius))
        self._draw.ellipse(box, fill=int(255 * strength))

    def stroke(self, points: NDArray[np.floating], widths: ArrayLike, strength: float = 1.0) -> None:
        """Draws a line through `points` (n, 2), `widths` (n,) or one number wide, with round ends."""
        self.strokes(points[None], widths, [strength])

    def strokes(self, lines: NDArray[np.floating], widths: ArrayLike, strengths: Iterable[float]) -> None:
        """Draws many lines (m, n, 2), of `widths` that broadcast to (m, n)."""
        lines = lines * self._side
        half = np.broadcast_to(widths, lines.shape[:2]) * (self._side / 2)
        wider = np.concatenate([lines[:, :1], lines, lines[:, -1:]], 1)
        along = wider[:, 2:] - wider[:, :-2]
        scale = half / np.maximum(np.sqrt((along * along).sum(2)), 1e-6)
        normal = along[..., ::-1] * scale[..., None] * (-1.0, 1.0)
        outlines = np.concatenate([lines + normal, (lines - normal)[:, ::-1]], 1).reshape(len(lines), -1)
        caps = np.concatenate([lines - half[..., None], lines + half[..., None]], 2)[:, [0, -1]]
        for outline, (start, end), strength in zip(outlines.tolist(), caps.tolist(), strengths, strict=True):
            fill = int(255 * strength)
            self._draw.polygon(outline, fill=fill)
            self._draw.ellipse(start, fill=fill)
            self._draw.ellipse(end, fill=fill)

    def coverage(self) -> Floats:
        """How much of each pixel is covered, (size, size) in 0..1."""
        covered = np.frombuffer(self._image.reduce(self._fine).tobytes(), dtype=np.uint8)
        return (covered * np.float32(1 / 255)).reshape(self.size, self.size)


def curve(
    rng: np.random.Generator, start: ArrayLike, angle: float, length: float, bend: float, points: int = 12
) -> NDArray[np.float64]:
    """A wandering line: from `start` in direction `angle`, turning by random amounts of spread `bend` (radians in all).

    Returns:
        (points, 2) positions, `length` along the line from the first to the last.
    """
    return _line(start, angle + np.cumsum(rng.standard_normal(points) * (bend / np.sqrt(points))), length)


def arc(start: ArrayLike, angle: float, length: float, bend: float, points: int = 12) -> NDArray[np.float64]:
    """A line that turns evenly by `bend` radians in all; otherwise as `curve`."""
    return _line(start, angle + np.linspace(0, bend, points), length)


def _line(start: ArrayLike, headings: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    line = np.stack([np.cos(headings), np.sin(headings)], 1).cumsum(0) * (length / len(headings))
    return np.asarray(line - line[0] + start)


def draw_cases(
    function: Callable[[Job], Result], jobs: Sequence[Job], label: str = "drawing", workers: int | None = None
) -> list[Result]:
    """Calls `function` once for every job, behind a bar with a label; the results are in the order of the jobs.

    `workers` is the number of processes; None: one for each core, and none at all for small sets. The results don't
    depend on it as long as every job carries its own seed.
    """
    from joblib import Parallel, cpu_count, delayed

    if workers is None:
        workers = min(32, cpu_count()) if len(jobs) >= _WORTH_A_POOL else 1
    drawn = Parallel(workers, return_as="generator")(delayed(function)(job) for job in jobs)
    return list(tqdm(drawn, desc=label, total=len(jobs), unit="image", disable=None))
