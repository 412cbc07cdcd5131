"""From density to a film: stomach gas, exposure, scatter, noise, letters and the edges of the picture."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from xcoop.phantom.chest_anatomy import LEFT, Anatomy
from xcoop.phantom.chest_frame import edge, smooth_noise


def bowel_gas(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Gas in the stomach and the bowel below the left dome, (size, size) in [0, 1]."""
    x, y = anatomy.across, anatomy.frame.y
    gas = np.zeros_like(y)
    low = anatomy.dome[LEFT] - 0.14 * anatomy.flat  # where the dome would be in a normal chest
    for _ in range(int(rng.integers(0, 5))):
        cx, cy = rng.uniform(0.12, 0.62), low + rng.uniform(0.22, 0.5)
        rx, ry = rng.uniform(0.07, 0.2), rng.uniform(0.05, 0.12)
        gas = np.maximum(
            gas, edge(1 - np.hypot((x - cx) * (1 / rx), (y - cy) * (1 / ry)), 0.25) * rng.uniform(0.3, 0.9)
        )
    rough = 1 + 0.2 * smooth_noise(rng, 14, anatomy.frame.size)
    return gas * rough * edge(-anatomy.to_dome - 0.02, 0.03)


def expose(density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The film's answer to a density map: scatter, tone curve and noise.

    Args:
        density: (size, size) float32; 0 is air, about 0.8 the spine before the heart.
        rng: decides exposure; nothing is measured on the picture, so a change in one place stays there.

    Returns:
        (size, size) float32 grey levels in [0, 1].
    """
    size = density.shape[0]
    portable = rng.random() < 0.45  # bedside pictures are greyer
    scatter = rng.uniform(0.1, 0.3) if portable else rng.uniform(0.02, 0.15)
    veil = _blur(density, 0.09)
    blurred = ndimage.gaussian_filter(density, size * rng.uniform(0.0005, 0.004))
    film = (1 - scatter) * blurred + scatter * veil
    middle, slope = rng.uniform(0.32, 0.43), (rng.uniform(3.8, 6.0) if portable else rng.uniform(6.0, 8.4))
    tone = 1 / (1 + np.exp(-slope * (film - middle)))
    floor = 1 / (1 + math.exp(slope * middle))
    tone = (tone - floor) * (1 / (1 - floor))
    low, high = (rng.uniform(0.02, 0.16), rng.uniform(0.8, 0.98)) if portable else (0.0, rng.uniform(0.88, 1.04))
    grain = rng.standard_normal((size, size), dtype=np.float32) * np.float32(rng.uniform(0.004, 0.022))
    if rng.random() < 0.5:
        grain = ndimage.gaussian_filter(grain, 0.6) * 1.8
    return low + (high - low) * tone + grain * np.sqrt(np.clip(tone, 0, 1) + 0.05)


def _blur(field: np.ndarray, width: float) -> np.ndarray:
    """A wide Gaussian blur, done on a small copy."""
    size = field.shape[0]
    small = np.asarray(Image.fromarray(field).resize((32, 32), Image.Resampling.BOX))
    soft = ndimage.gaussian_filter(small, 32 * width)
    return np.asarray(Image.fromarray(soft).resize((size, size), Image.Resampling.BILINEAR))


def finish(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds the collimator's edges and the letters, and rounds to 8 bits.

    Args:
        grey: (size, size) float32 in [0, 1].
        rng: decides what is added.

    Returns:
        (size, size) uint8.
    """
    grey = _collimate(grey, rng)
    picture = Image.fromarray((np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8))
    size, pen = picture.width, ImageDraw.Draw(picture)
    bright = int(rng.integers(190, 256))
    if rng.random() < 0.85:
        upright = rng.random() < 0.5
        place = (rng.uniform(0.01, 0.12), rng.uniform(0.02, 0.5)) if upright else (rng.uniform(0.02, 0.3), 0.02)
        pen.text((place[0] * size, place[1] * size), "R", fill=bright, font=_font(size * rng.uniform(0.05, 0.1)))
    if rng.random() < 0.12:
        pen.text((0.86 * size, 0.94 * size), f"KV{rng.integers(55, 90)}", fill=bright, font=_font(size * 0.045))
    if rng.random() < 0.06:
        words = ("A-P", "AP SUPINE", "PORTABLE", "10:42:07")
        pen.text((0.02 * size, 0.005 * size), words[int(rng.integers(0, 4))], fill=bright, font=_font(size * 0.045))
    return np.array(picture)


def _font(height: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(max(6.0, height))
    except (TypeError, ImportError, OSError):  # Pillow before 10.1, or built without FreeType
        return ImageFont.load_default()


def _collimate(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black borders that the collimator leaves, and now and then the white edge of a cassette."""
    size = grey.shape[0]
    grey = grey.copy()
    for side in range(4):
        chance, wide = rng.random(), 1 + int(rng.uniform(0.005, 0.05) * size)
        shade = rng.uniform(0, 0.03) if chance < 0.12 else rng.uniform(0.85, 1.0)
        if chance < 0.15:
            np.rot90(grey, side)[:wide] = shade  # a view: it writes into `grey`
    return grey
