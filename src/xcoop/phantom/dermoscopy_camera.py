"""What lies between the skin and the file: hairs, gel bubbles, a ruler, light, lens and sensor."""

from __future__ import annotations

import math

import numpy as np

from xcoop.phantom.texture import Canvas, Floats, arc, blend, pixel_grid, smooth_step, soften


def add_hairs(image: Floats, rng: np.random.Generator) -> Floats:
    """None to several long, curved, tapering hairs, with a soft shadow, over an (3, H, W) picture in 0..1."""
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
    """In some pictures, bubbles in the contact gel (bright rims) and specular glints."""
    if rng.uniform() > 0.3:
        return image
    size = image.shape[-1]
    x, y = pixel_grid(size)
    for cx, cy in rng.uniform(0, 1, (int(rng.integers(1, 5)), 2)).tolist():
        radius = rng.uniform(0.012, 0.04)
        distance = np.hypot(x - cx, y - cy) / radius
        rim = np.exp(-(((distance - 1) * 6) ** 2)) * (0.6 + 0.4 * np.sign(x - cx))
        image = blend(image, 1.0, (rim * rng.uniform(0.15, 0.4)).astype(np.float32))
    canvas = Canvas(size)
    for cx, cy in rng.uniform(0.1, 0.9, (int(rng.integers(0, 8)), 2)):
        canvas.disc(cx, cy, rng.uniform(0.002, 0.005), stretch=rng.uniform(1, 2))
    return blend(image, 1.0, soften(canvas.coverage(), 0.002 * size) * 0.8)


def add_ruler(image: Floats, rng: np.random.Generator) -> Floats:
    """In some pictures, the ticks of a ruler along one side."""
    if rng.uniform() > 0.15:
        return image
    size = image.shape[-1]
    canvas = Canvas(size)
    step, edge = rng.uniform(0.035, 0.055), rng.uniform(0.005, 0.03)
    for i, place in enumerate(np.arange(rng.uniform(0, step), 1, step)):
        length = 0.05 if i % 5 == 0 else 0.028
        canvas.stroke(np.array([[place, edge], [place, edge + length]]), 0.0055)
    marks = np.ascontiguousarray(np.rot90(canvas.coverage(), int(rng.integers(4))))
    return blend(image, rng.uniform(0.05, 0.3), marks * 0.75)


def add_light(image: Floats, rng: np.random.Generator, rim: bool = True) -> Floats:
    """A slope of light, darker corners, and, if `rim`, in some pictures the dark rim of the dermatoscope."""
    size = image.shape[-1]
    x, y = pixel_grid(size)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.16)
    light = 1 + slope * ((x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle))
    far = np.hypot(x - 0.5 - rng.normal(0, 0.02), y - 0.5 - rng.normal(0, 0.02))
    light = light * (1 - max(0.0, rng.uniform(-0.2, 0.5)) * far**2)
    radius = rng.uniform(0.52, 0.64)
    if rng.uniform() < 0.2 and rim:
        light = light * (0.04 + 0.96 * smooth_step(far, radius + 0.02, radius - 0.01))
    return image * light.astype(np.float32)


def take_picture(image: Floats, rng: np.random.Generator) -> Floats:
    """Focus, exposure, colour balance, contrast and sensor noise of a camera."""
    size = image.shape[-1]
    image = soften(image, rng.uniform(0, 0.0042) * size)
    gain = rng.uniform(0.88, 1.1) * (1 + rng.normal(0, [0.018, 0.018, 0.026]))
    curve = np.linspace(0, 1, 1024, dtype=np.float32) ** np.float32(rng.uniform(0.88, 1.15))
    image = curve[(np.clip(image * gain.astype(np.float32)[:, None, None], 0, 1) * 1023).astype(np.int16)]
    noise = rng.standard_normal((size, size), dtype=np.float32) * np.float32(rng.uniform(0.003, 0.014))
    noise = noise * (0.6 + 0.4 * image) + 0.004 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(np.clip(image + noise, 0, 1), dtype=np.float32)
