"""Draws dermoscopic images of skin lesions from concept profiles: skin, lesion, light and camera.

The pigment is summed as optical density and taken out of the skin's colour by Beer's law, so that brown structures
darken each other instead of hiding each other; veil, regression and vessels are then laid over it, half transparent.
Every concept has a random generator of its own: changing one concept's value changes the image where that
concept lies and nowhere else. Drawings carry nothing of the diagnosis but the concepts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from xcoop.phantom.derm_lesion import LAYERS, Lesion
from xcoop.phantom.drawing import (
    Canvas,
    Drawing,
    Floats,
    Mask,
    absorb,
    arc,
    blend,
    children,
    curve,
    fractal_noise,
    pixel_grid,
    smooth_noise,
    smooth_step,
    soften,
)
from xcoop.phantom.tables import ABSENT, DERM_TABLE

_PARTS = ("lesion", "skin", "base", "hairs", "bubbles", "ruler", "light", "camera", "clinic")

# How strongly melanin and haemoglobin take out red, green and blue, relative to green.
_MELANIN = np.array([0.60, 1.0, 1.28], dtype=np.float32)
_BLOOD = np.array([0.15, 1.0, 0.8], dtype=np.float32)

# Skin colours from fair to dark, sRGB in 0..1.
_TONES = np.array(
    [
        [0.93, 0.78, 0.72],
        [0.92, 0.73, 0.66],
        [0.89, 0.70, 0.58],
        [0.83, 0.62, 0.49],
        [0.72, 0.51, 0.39],
        [0.55, 0.38, 0.29],
    ]
)


def draw_dermoscopy(profile: Mapping[str, str], rng: np.random.Generator, size: int = 192) -> Drawing:
    """Draws a lesion with the given concepts as a dermatoscope shows it.

    Args:
        profile: the value of each checklist concept by column name; a column left out counts as absent.
        rng: everything that the profile leaves open. The same state gives the same image.
        size: side in pixels; made for 96 to 256.

    Raises:
        ValueError: a column or value that the checklist does not have.
    """
    parts = children(rng, (*_PARTS, *LAYERS))
    _, painted, lesion, masks = _paint(profile, parts, size)
    image = add_ruler(add_bubbles(add_hairs(painted, parts["hairs"]), parts["bubbles"]), parts["ruler"])
    photo = take_photo(add_light(image, parts["light"]), parts["camera"])
    return Drawing(photo, masks, lesion.alpha > 0.5)


def draw_clinical(profile: Mapping[str, str], rng: np.random.Generator, size: int = 128) -> NDArray[np.uint8]:
    """Draws the same lesion as the naked eye sees it, smaller and without fine structures, (size, size, 3).

    The same generator state as for `draw_dermoscopy` gives the same lesion.
    """
    parts = children(rng, (*_PARTS, *LAYERS))
    near = max(32, int(size * 0.42))
    same_skin = deepcopy(parts["skin"])
    skin, painted, _, _ = _paint(profile, parts, near)
    own = parts["clinic"]
    image = draw_skin(same_skin, size)
    top, left = own.integers(size // 8, size - near - size // 8, 2)
    window = image[:, top : top + near, left : left + near]
    window *= np.clip(painted / np.maximum(skin, 0.05), 0, 1.3)
    return take_photo(add_light(add_hairs(image, own), own, rim=False), own)


def _paint(
    profile: Mapping[str, str], parts: Mapping[str, np.random.Generator], size: int
) -> tuple[Floats, Floats, Lesion, dict[str, Mask]]:
    """The bare skin, the skin with the lesion (both (3, size, size) in 0..1), the lesion, and the concepts' masks."""
    values = DERM_TABLE.complete(profile)
    lesion = Lesion(parts["lesion"], size)
    present = [concept for concept in LAYERS if values[concept] != ABSENT]
    layers = {concept: LAYERS[concept](lesion, values[concept], parts[concept]) for concept in present}
    base = parts["base"]

    # Every lesion is filled with a light to medium brown, uneven at several scales.
    level = base.uniform(0.28, 0.62)
    uneven = base.uniform(0.12, 0.28) * fractal_noise(base, size, 3, 5, gain=0.72)
    towards_centre = base.uniform(-0.15, 0.28) * (1 - np.minimum(lesion.rho, 1) ** 2)
    grain = base.uniform(0.01, 0.04) * smooth_noise(base, size, 90)
    density = np.clip(level * (1 + uneven + towards_centre) + grain, 0.12, 1.1) * lesion.alpha  # optical
    for layer in layers.values():
        density = density * layer.keep + layer.melanin

    skin = draw_skin(parts["skin"], size)
    redness = np.float32(max(0.0, base.uniform(-0.15, 0.16)))  # around the border, in some images
    image = absorb(skin, smooth_step(lesion.rho, 1.45, 1.0) * redness, _BLOOD)
    pigment = np.array([base.uniform(0.85, 1.2), 1.0, base.uniform(0.88, 1.1)], dtype=np.float32)  # yellowish to red
    image = absorb(image, density, _MELANIN * pigment)
    light = (skin.mean((1, 2)) / 0.78) ** 0.5  # what is laid over the pigment lies within the same skin
    for layer in layers.values():
        for colour, coverage in layer.tints:
            image = blend(image, colour * light, coverage)
    return skin, image, lesion, {concept: layer.mask() for concept, layer in layers.items()}


def draw_skin(rng: np.random.Generator, size: int) -> Floats:
    """Skin with uneven tone, furrows, pores and a few faint vessels, (3, size, size) in 0..1."""
    density = 0.035 * fractal_noise(rng, size, 4, 4, gain=0.7) + 0.016 * smooth_noise(rng, size, 80)
    deep = rng.uniform(0.03, 0.10)
    furrows = [1 - np.abs(smooth_noise(rng, size, cells)) * 1.6 for cells in (14, 24, 38)]  # crossing fine lines
    density += deep * np.clip(np.maximum(furrows[0], np.maximum(furrows[1], furrows[2])), 0, 1) ** 3

    place = min(rng.beta(1.1, 2.4) * 5, 4.999)  # fair skin is the most frequent, as in the real set
    low = int(place)
    tone = _TONES[low] + (place - low) * (_TONES[low + 1] - _TONES[low])
    flush = rng.normal(0, 0.02)
    colour = np.clip(tone + np.array([flush, -flush / 2, rng.normal(0, 0.02)]), 0.1, 0.97)
    skin = absorb(np.asarray(colour, dtype=np.float32).reshape(3, 1, 1), density, _MELANIN)
    redness = rng.uniform(0.01, 0.035) * fractal_noise(rng, size, 5, 4, gain=0.8)
    skin = absorb(skin, redness, _BLOOD)

    pores = Canvas(size)
    for x, y in rng.uniform(0, 1, (int(rng.integers(0, 40)), 2)):
        pores.disc(x, y, rng.uniform(0.003, 0.006), strength=rng.uniform(0.2, 0.6))
    skin = blend(skin, colour * 0.82, soften(pores.coverage(), 0.004 * size))
    vessels = Canvas(size)  # a few blurred pinkish lines: what a vessel of the lesion is not
    for _ in range(int(rng.integers(0, 5))):
        line = curve(rng, rng.uniform(0, 1, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.35), 1.6)
        vessels.stroke(line, np.linspace(0.007, 0.003, len(line)))
    faint = soften(vessels.coverage(), 0.006 * size) * np.float32(rng.uniform(0.1, 0.35))
    return blend(skin, colour * [0.85, 0.55, 0.57], faint)


def add_hairs(image: Floats, rng: np.random.Generator) -> Floats:
    """None to several long, curved, tapering hairs, with a soft shadow, over an (3, H, W) image in 0..1."""
    size = image.shape[-1]
    count = int(rng.choice([0, 1, 2, 3, 5, 8], p=[0.5, 0.14, 0.13, 0.11, 0.08, 0.04]))
    if not count:
        return image
    canvas = Canvas(size)
    mean_angle = rng.uniform(0, 2 * np.pi)  # neighbouring hairs lean the same way
    for _ in range(count):
        angle = mean_angle + rng.normal(0, 0.5)
        start = rng.uniform(-0.05, 1.05, 2) - 0.3 * np.array([np.cos(angle), np.sin(angle)])
        line = arc(start, angle, rng.uniform(0.4, 1.0), rng.normal(0, 0.7), points=20)
        canvas.stroke(line, rng.uniform(0.005, 0.0095) * np.linspace(1, 0.35, 20))
    coverage = canvas.coverage()
    shadow = np.roll(soften(coverage, 0.006 * size), round(0.006 * size), (0, 1))
    colour = np.array([0.16, 0.11, 0.09]) + rng.uniform(0, 0.22) * np.array([1.0, 0.72, 0.5])
    return blend(blend(image, image.mean((1, 2)) * 0.5, shadow * 0.25), colour, coverage * 0.85)


def add_bubbles(image: Floats, rng: np.random.Generator) -> Floats:
    """In some images, bubbles in the contact gel (bright rims) and specular glints."""
    if rng.uniform() > 0.3:
        return image
    size = image.shape[-1]
    x, y = pixel_grid(size)
    for cx, cy in rng.uniform(0, 1, (int(rng.integers(1, 5)), 2)).tolist():
        radius = rng.uniform(0.012, 0.04)
        distance = np.hypot(x - cx, y - cy) / radius
        rim = np.exp(-(((distance - 1) * 6) ** 2)) * (0.6 + 0.4 * np.sign(x - cx))
        image = blend(image, 1.0, (rim * rng.uniform(0.15, 0.4)).astype(np.float32))
    glints = Canvas(size)
    for cx, cy in rng.uniform(0.1, 0.9, (int(rng.integers(0, 8)), 2)):
        glints.disc(cx, cy, rng.uniform(0.002, 0.005), stretch=rng.uniform(1, 2))
    return blend(image, 1.0, soften(glints.coverage(), 0.002 * size) * 0.8)


def add_ruler(image: Floats, rng: np.random.Generator) -> Floats:
    """In some images, the ticks of a ruler along one side."""
    if rng.uniform() > 0.15:
        return image
    canvas = Canvas(image.shape[-1])
    step, edge = rng.uniform(0.035, 0.055), rng.uniform(0.005, 0.03)
    for i, place in enumerate(np.arange(rng.uniform(0, step), 1, step)):
        length = 0.05 if i % 5 == 0 else 0.028
        canvas.stroke(np.array([[place, edge], [place, edge + length]]), 0.0055)
    marks = np.ascontiguousarray(np.rot90(canvas.coverage(), int(rng.integers(4))))
    return blend(image, rng.uniform(0.05, 0.3), marks * 0.75)


def add_light(image: Floats, rng: np.random.Generator, rim: bool = True) -> Floats:
    """A slope of light, darker corners, and, if `rim`, in some images the dark rim of the dermatoscope."""
    x, y = pixel_grid(image.shape[-1])
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.16)
    light = 1 + slope * ((x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle))
    far = np.hypot(x - 0.5 - rng.normal(0, 0.02), y - 0.5 - rng.normal(0, 0.02))
    light = light * (1 - max(0.0, rng.uniform(-0.2, 0.5)) * far**2)
    radius = rng.uniform(0.52, 0.64)
    if rng.uniform() < 0.2 and rim:
        light = light * (0.04 + 0.96 * smooth_step(far, radius + 0.02, radius - 0.01))
    return image * light.astype(np.float32)


def take_photo(image: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Focus, exposure, colour balance, contrast and sensor noise of a camera: (3, H, W) to (H, W, 3) in 0..255."""
    size = image.shape[-1]
    image = soften(image, rng.uniform(0, 0.0042) * size)
    gain = rng.uniform(0.88, 1.1) * (1 + rng.normal(0, [0.018, 0.018, 0.026]))
    response = np.linspace(0, 1, 1024, dtype=np.float32) ** np.float32(rng.uniform(0.88, 1.15))
    image = response[(np.clip(image * gain.astype(np.float32)[:, None, None], 0, 1) * 1023).astype(np.int16)]
    noise = rng.standard_normal((size, size), dtype=np.float32) * np.float32(rng.uniform(0.003, 0.014))
    noise = noise * (0.6 + 0.4 * image) + 0.004 * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.asarray(np.clip(image + noise, 0, 1), dtype=np.float32)
    return np.ascontiguousarray((image * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
