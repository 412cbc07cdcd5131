"""Draws one chest radiograph of the phantom from its concepts: what the beam meets, and the film's answer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from xcoop.phantom.chest_anatomy import LEFT, Anatomy, air, body, skeleton, trachea, vessels
from xcoop.phantom.chest_findings import FINDINGS, Finding, Places
from xcoop.phantom.chest_frame import Frame, edge, smooth_noise
from xcoop.phantom.tables import ABSENT, CHEST_TABLE
from xcoop.phantom.texture import Drawing, children

# Each part of the image has a generator of its own, so that switching a concept leaves the rest as it was.
_PATIENT = ("shape", "body", "bones", "vessels")
_PARTS = (*_PATIENT, "frame", "places", "film", "marks", *CHEST_TABLE.concepts)


def draw_chest(
    profile: Mapping[str, str],
    rng: np.random.Generator,
    size: int = 192,
    patient: np.random.Generator | None = None,
) -> Drawing:
    """Draws one child's chest, seen from the front, as a square image.

    Args:
        profile: the value of each concept of `CHEST_TABLE`; concepts left out are absent.
        rng: decides all that the concepts leave open. One number of it seeds each part of the image, so two
            calls with equal generators and profiles that differ in one concept differ in that concept only.
        size: side in pixels; 96 to 256 works well.
        patient: decides the body instead of `rng`, for several images of one patient.

    Returns:
        The image (size, size, 3) uint8 with three equal channels, a mask for each concept (empty if absent), and the
        lung fields as `lesion`.

    Raises:
        ValueError: an unknown concept or value, or a size under 48.
    """
    values = CHEST_TABLE.complete(profile)
    if size < 48:
        raise ValueError(f"a chest of {size} pixels shows nothing; 96 to 256 works well")
    parts = children(rng, _PARTS)
    if patient is not None:
        parts |= children(patient, _PATIENT)
    flatten = parts["hyperinflation"].uniform(0.75, 1.0) if values["hyperinflation"] != ABSENT else 0.0
    enlarge = parts["cardiomegaly"].uniform(1.3, 1.5) if values["cardiomegaly"] != ABSENT else 1.0
    anatomy = Anatomy(Frame(size, parts["frame"]), parts["shape"], flatten, enlarge)
    places = Places(anatomy, values["consolidation"], parts["places"])
    present = [concept for concept in CHEST_TABLE.concepts if values[concept] != ABSENT and concept in FINDINGS]
    found = {concept: FINDINGS[concept](anatomy, values, places, parts[concept]) for concept in present}
    film = finish(expose(_density(anatomy, found, parts), parts["film"]), parts["marks"])

    lung = anatomy.lung > 0.5
    masks = {concept: np.zeros(lung.shape, dtype=bool) for concept in CHEST_TABLE.concepts}
    for concept, finding in found.items():
        masks[concept] = finding.mask if finding.mask.any() else lung  # one that is hidden to the last pixel
    if values["hyperinflation"] != ABSENT:
        masks["hyperinflation"] = lung | (np.abs(anatomy.to_dome) < 0.12) & (anatomy.to_wall > 0)
    if values["cardiomegaly"] != ABSENT:
        low = max(anatomy.dome) + 0.12
        masks["cardiomegaly"] = (anatomy.to_heart < 0.03) & (anatomy.frame.y > -0.15) & (anatomy.frame.y < low)
    return Drawing(np.repeat(film[:, :, None], 3, axis=2), masks, lung)


def _density(anatomy: Anatomy, found: Mapping[str, Finding], parts: Mapping[str, np.random.Generator]) -> np.ndarray:
    """Adds up what the beam meets: tissue, less the air that is left in the lungs, bones, vessels, lines."""
    rng, size = parts["body"], anatomy.frame.size
    tissue = body(anatomy, rng)
    inside = np.minimum(tissue * 3, 1)
    left = np.ones_like(tissue)
    for finding in found.values():
        left = left * (1 - finding.fill)
    lungs = air(anatomy) * left
    grain = smooth_noise(rng, 26, size) * 0.6 + smooth_noise(rng, 48, size) * 0.4
    texture = rng.uniform(0.012, 0.03) * grain
    trunk = parts["vessels"].uniform(0.06, 0.12) * vessels(anatomy, parts["vessels"])
    density = tissue + (0.015 * smooth_noise(rng, 6, size) + 0.3 * texture) * inside
    density = density - rng.uniform(0.23, 0.36) * lungs + (trunk + texture) * lungs
    density = density + skeleton(anatomy, parts["bones"]) * inside
    density = density - rng.uniform(0.05, 0.1) * trachea(anatomy, rng)
    # Gas in the stomach and the bowel below the left dome.
    gas = np.zeros_like(tissue)
    low = anatomy.dome[LEFT] - 0.14 * anatomy.flat  # where the dome would be in a normal chest
    for _ in range(int(rng.integers(0, 5))):
        cx, cy = rng.uniform(0.12, 0.62), low + rng.uniform(0.22, 0.5)
        rx, ry = rng.uniform(0.07, 0.2), rng.uniform(0.05, 0.12)
        radius = np.hypot((anatomy.across - cx) * (1 / rx), (anatomy.frame.y - cy) * (1 / ry))
        gas = np.maximum(gas, edge(1 - radius, 0.25) * rng.uniform(0.3, 0.9))
    rough = 1 + 0.2 * smooth_noise(rng, 14, size)
    density = density - 0.16 * (gas * rough * edge(-anatomy.to_dome - 0.02, 0.03))
    for finding in found.values():
        density = density + finding.lines
    return np.maximum(density, 0).astype(np.float32)


def expose(density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The film's answer to a density map: scatter, tone curve and noise.

    Args:
        density: (size, size) float32; 0 is air, about 0.8 the spine before the heart.
        rng: decides exposure; nothing is measured on the image, so a change in one place stays there.

    Returns:
        (size, size) float32 grey levels in [0, 1].
    """
    size = density.shape[0]
    portable = rng.random() < 0.45  # bedside images are greyer
    scatter = rng.uniform(0.1, 0.3) if portable else rng.uniform(0.02, 0.15)
    # A wide blur, done on a small copy.
    small = np.asarray(Image.fromarray(density).resize((32, 32), Image.Resampling.BOX))
    veil = Image.fromarray(ndimage.gaussian_filter(small, 32 * 0.09)).resize((size, size), Image.Resampling.BILINEAR)
    blurred = ndimage.gaussian_filter(density, size * rng.uniform(0.0005, 0.004))
    film = (1 - scatter) * blurred + scatter * np.asarray(veil)
    middle, slope = rng.uniform(0.32, 0.43), (rng.uniform(3.8, 6.0) if portable else rng.uniform(6.0, 8.4))
    tone = 1 / (1 + np.exp(-slope * (film - middle)))
    floor = 1 / (1 + math.exp(slope * middle))
    tone = (tone - floor) * (1 / (1 - floor))
    low, high = (rng.uniform(0.02, 0.16), rng.uniform(0.8, 0.98)) if portable else (0.0, rng.uniform(0.88, 1.04))
    grain = rng.standard_normal((size, size), dtype=np.float32) * np.float32(rng.uniform(0.004, 0.022))
    if rng.random() < 0.5:
        grain = ndimage.gaussian_filter(grain, 0.6) * 1.8
    return low + (high - low) * tone + grain * np.sqrt(np.clip(tone, 0, 1) + 0.05)


def finish(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds the collimator's edges and the letters to grey levels in [0, 1], and rounds to 8 bits, (size, size)."""
    grey = grey.copy()
    for side in range(4):  # black borders that the collimator leaves, and now and then the white edge of a cassette
        chance, wide = rng.random(), 1 + int(rng.uniform(0.005, 0.05) * len(grey))
        shade = rng.uniform(0, 0.03) if chance < 0.12 else rng.uniform(0.85, 1.0)
        if chance < 0.15:
            np.rot90(grey, side)[:wide] = shade  # a view: it writes into `grey`
    image = Image.fromarray((np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8))
    size, pen = image.width, ImageDraw.Draw(image)
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
    return np.array(image)


def _font(height: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(max(6.0, height))
    except (TypeError, ImportError, OSError):  # Pillow before 10.1, or built without FreeType
        return ImageFont.load_default()
