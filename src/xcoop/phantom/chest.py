"""Draws one chest radiograph of the phantom from its concepts: the findings, what the beam meets, the film's answer.

A finding gives `fill`, the fraction of the air that it replaces (0 to 1), `lines`, a density added on top (it may be
negative), and `mask`, where it lies. Each function takes the patient, the values of all concepts, the places, and a
generator of its own, so switching one finding on or off leaves the others as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from xcoop.phantom.chest_anatomy import (
    LEFT,
    RIGHT,
    Anatomy,
    Frame,
    Ink,
    air,
    body,
    bump,
    edge,
    skeleton,
    smooth_noise,
    trachea,
    vessels,
)
from xcoop.phantom.drawing import Drawing, children
from xcoop.phantom.tables import ABSENT, CHEST_TABLE

Values = Mapping[str, str]


@dataclass(frozen=True)
class Finding:
    """One drawn concept, or a part of one; arrays (size, size)."""

    fill: np.ndarray | float
    lines: np.ndarray | float
    mask: np.ndarray


_CENTRES = {
    "right upper": (-0.36, -0.34),
    "left upper": (0.36, -0.32),
    "right lower": (-0.42, 0.24),
    "left lower": (0.54, 0.24),
}


class Places:
    """What several findings of a patient have to agree on, decided whether or not they are present.

    Attributes:
        effusion_side: where an effusion would lie; a lost diaphragm border then lies on the other side.
        cardiac_side: on which side the heart border would be lost.
        patch: centre of the consolidation (or of the patch that shows air bronchograms alone).
    """

    def __init__(self, anatomy: Anatomy, consolidation: str, rng: np.random.Generator) -> None:
        self.effusion_side, self.cardiac_side = (int(side) for side in rng.integers(0, 2, size=2))
        wobble = rng.uniform(-1, 1, size=2) * (0.08, 0.07)
        alone = list(_CENTRES)[int(rng.integers(0, 4))]
        x, y = _CENTRES.get(consolidation, _CENTRES[alone])
        side, sign = (RIGHT, -1.0) if x < 0 else (LEFT, 1.0)
        y = float(min(y + wobble[1], anatomy.dome[side] - 0.14))
        beside_heart, before_wall = float(anatomy.heart[side](y)) + 0.11, float(anatomy.lateral(y)) - 0.1
        out = min(max(sign * (x * anatomy.spread + wobble[0]), beside_heart), before_wall)
        self.patch = (sign * float(out), y)


def consolidation(anatomy: Anatomy, values: Values, places: Places, rng: np.random.Generator) -> Finding:
    """Confluent white opacity with soft edges, in one zone or in patches on both sides."""
    size, value = anatomy.frame.size, values["consolidation"]
    noise = smooth_noise(rng, 9, size) * 0.22 + smooth_noise(rng, 20, size) * 0.1
    spots = []  # x, y, half-width, half-height
    if value == "patchy":
        for i in range(int(rng.integers(5, 9))):
            x = rng.uniform(0.27, 0.58) * (-1, 1)[i % 2] * anatomy.spread
            spots.append((x, rng.uniform(-0.4, 0.36), rng.uniform(0.08, 0.15), rng.uniform(0.07, 0.14)))
    else:
        tall = rng.uniform(0.2, 0.36) if value.endswith("upper") else rng.uniform(0.18, 0.34)
        spots.append((*places.patch, rng.uniform(0.2, 0.36), tall))
    shape = np.zeros_like(anatomy.t)
    for x, y, width, height in spots:
        radius = np.hypot((anatomy.across - x) * (1 / width), (anatomy.frame.y - y) * (1 / height))
        shape = np.maximum(shape, edge(1.0 - radius + noise, 0.42))
    if value.endswith("upper") and rng.random() < 0.5:  # it stops at the fissure
        shape = shape * edge(rng.uniform(-0.2, -0.08) + 0.1 * (anatomy.t - 0.4) - anatomy.frame.y, 0.025)
    if values["obscured_border"] == ABSENT:  # a thin rim of air keeps the borders of heart and diaphragm visible
        shape = shape * edge(anatomy.to_heart - 0.024, 0.03) * edge(anatomy.to_dome - 0.03, 0.035)
    fill = shape * rng.uniform(0.72, 0.95)
    return Finding(fill, 0.0, (fill > 0.25) & (anatomy.lung > 0.5))


def air_bronchograms(anatomy: Anatomy, values: Values, places: Places, rng: np.random.Generator) -> Finding:
    """Dark branching tubes within an opacity; a hazy patch of their own makes sure that there is one."""
    x, y = places.patch
    sign = -1.0 if x < 0 else 1.0
    hilum = anatomy.hila[RIGHT if x < 0 else LEFT]
    heading = float(np.arctan2(y - hilum[1], (x - hilum[0]) * sign + 1e-6))
    ink = Ink(anatomy.frame)
    start = (x - 0.17 * np.cos(heading) * sign, y - 0.17 * np.sin(heading))
    trunk = _tube(ink, rng, start, heading, sign, 0.038, 6)
    turn = float(rng.choice([-1.0, 1.0]))
    for i, at in enumerate((1, 2, 3, 4)[: int(rng.integers(3, 5))]):
        _tube(ink, rng, trunk[at], heading + turn * (-1) ** i * rng.uniform(0.5, 0.9), sign, 0.032, 3)
    tubes = ndimage.gaussian_filter(ink.field(), 0.005 * anatomy.frame.size) * (anatomy.lung > 0.5)
    gap = np.hypot(anatomy.across - x, anatomy.frame.y - y)
    sleeve = edge(0.22 - gap + 0.035 * smooth_noise(rng, 10, anatomy.frame.size), 0.09)
    near = ndimage.grey_dilation(tubes, size=(3, 3)) > 0.3
    return Finding(0.74 * sleeve, -0.24 * tubes, near)


def _tube(
    ink: Ink, rng: np.random.Generator, start: ArrayLike, heading: float, sign: float, width: float, steps: int
) -> np.ndarray:
    """Draws one winding bronchus that gets thinner; returns its points (steps + 1, 2)."""
    angles = heading + np.cumsum(rng.normal(0, 0.16, size=steps))
    moves = np.stack([sign * (np.cos(angles) * 0.055).cumsum(), (np.sin(angles) * 0.055).cumsum()], axis=1)
    points = start + np.concatenate([np.zeros((1, 2)), moves])
    for i in range(steps):
        ink.line(points[i : i + 2], width * (1 - 0.4 * i / steps), 1.0 - 0.4 * i / steps)
    return points


def pleural_effusion(anatomy: Anatomy, values: Values, places: Places, rng: np.random.Generator) -> Finding:
    """Homogeneous opacity at the base whose upper edge rises to the chest wall and blunts the angle."""
    side = places.effusion_side
    here = anatomy.right if side == RIGHT else ~anatomy.right
    top = anatomy.dome[side]
    if values["pleural_effusion"] == "large":
        level, rise, stripe = top - rng.uniform(0.18, 0.42), rng.uniform(0.22, 0.34), 0.06
    else:
        level, rise, stripe = top + rng.uniform(0.02, 0.1), rng.uniform(0.26, 0.36), 0.03
    outward = np.clip((anatomy.tn - 0.35) * (1 / 0.65), 0, 1)
    fluid = edge(anatomy.frame.y - (level - rise * outward * outward * outward), 0.035)
    wall = edge(stripe - anatomy.to_wall, 0.015) * edge(anatomy.frame.y - (level - rise - 0.25), 0.12)
    fill = np.maximum(fluid, 0.85 * wall) * here * 0.98
    shade = 0.04 * fill * anatomy.lung
    return Finding(fill, shade, (fill > 0.3) & (anatomy.lung > 0.5))


def interstitial_opacity(anatomy: Anatomy, values: Values, places: Places, rng: np.random.Generator) -> Finding:
    """A net of fine lines over both lungs with a little haze, denser towards the hila."""
    size = anatomy.frame.size
    net = np.zeros_like(anatomy.t)
    for cells, weight in ((21, 1.0), (34, 0.7)):
        broken = np.clip(0.6 + 0.7 * smooth_noise(rng, cells // 2, size), 0, 1.4)
        net += weight * broken * bump(smooth_noise(rng, cells, size), 0.28)  # lines where smooth noise crosses zero
    patchy = np.clip(0.85 + 0.22 * smooth_noise(rng, 5, size), 0.4, 1.2)
    weight = patchy * (0.65 + 0.5 * bump(anatomy.to_heart, 0.3)) * anatomy.lung
    haze = rng.uniform(0.24, 0.42)
    strength = rng.uniform(0.14, 0.2)
    return Finding(haze * weight, strength * (net - 0.45) * weight, anatomy.lung > 0.5)


def obscured_border(anatomy: Anatomy, values: Values, places: Places, rng: np.random.Generator) -> Finding:
    """Airless lung that touches the heart or the diaphragm and so takes away its outline."""
    noise = smooth_noise(rng, 10, anatomy.frame.size)
    if values["obscured_border"] == "cardiac":
        here = anatomy.right if places.cardiac_side == RIGHT else ~anatomy.right
        depth, gap = rng.uniform(0.13, 0.2), anatomy.to_heart
        extent = edge(anatomy.frame.y - rng.uniform(-0.16, -0.02), 0.1) * edge(anatomy.to_dome - 0.03, 0.04)
    else:
        here = ~anatomy.right if places.effusion_side == RIGHT else anatomy.right
        depth, gap = rng.uniform(0.17, 0.27), anatomy.to_dome
        extent = edge(0.86 - anatomy.tn + 0.04 * noise, 0.08)
    fill = edge(depth - gap + 0.035 * noise, 0.12) * extent * here
    return Finding(0.97 * fill, 0.0, (fill > 0.25) & (anatomy.lung > 0.5))


def peribronchial_thickening(anatomy: Anatomy, values: Values, places: Places, rng: np.random.Generator) -> Finding:
    """Thick bronchial walls around the hila: rings seen end on, tram lines seen from the side, and haze."""
    ink = Ink(anatomy.frame)
    for side, sign in ((RIGHT, -1.0), (LEFT, 1.0)):
        x0, y0 = anatomy.hila[side]
        x0 += sign * (0.07 if side == RIGHT else 0.12)
        for angle in rng.uniform(-1.2, 1.3, size=6):
            length, half = rng.uniform(0.1, 0.24), rng.uniform(0.014, 0.022)
            along = np.array((np.cos(float(angle)) * sign, np.sin(float(angle))))
            beside = np.array((-along[1], along[0])) * half
            start = np.array((x0, y0)) + along * 0.04
            for shift in (beside, -beside):
                ink.line([start + shift, start + shift * 0.7 + along * length], 0.014, 0.75)
        for _ in range(int(rng.integers(2, 4))):
            angle, far = rng.uniform(-1.2, 1.3), rng.uniform(0.05, 0.26)
            centre = (x0 + sign * far * np.cos(angle), y0 + far * np.sin(angle))
            ink.disc(centre, 0.04, 0.0)
            ink.ring(centre, rng.uniform(0.03, 0.044), 0.016, rng.uniform(0.6, 1.0))
    walls = ndimage.gaussian_filter(ink.field(), 0.003 * anatomy.frame.size) * anatomy.lung
    cuff = 0.3 * bump(anatomy.to_heart, 0.2) * edge(0.32 - np.abs(anatomy.frame.y - anatomy.hila[RIGHT][1]), 0.12)
    mask = ndimage.binary_dilation(walls > 0.2, iterations=1 + anatomy.frame.size // 96)
    return Finding(cuff, 0.2 * walls, mask)


def support_device(anatomy: Anatomy, values: Values, places: Places, rng: np.random.Generator) -> Finding:
    """ECG leads with their electrodes, or a tube down the trachea or to the stomach."""
    ink = Ink(anatomy.frame)
    if values["support_device"] == "tube":
        kind = int(rng.integers(0, 3))  # 0: in the trachea, 1: to the stomach, 2: both
        sway = rng.normal(0, 0.015, size=9)
        if kind != 1:
            ys = np.linspace(-1.1, rng.uniform(-0.42, -0.28), 9)
            ink.line(np.stack([sway * 0.6 + 0.015, ys], axis=1), 0.036, 0.9)
        if kind != 0:
            ys = np.linspace(-1.1, rng.uniform(0.72, 0.85), 9)
            xs = 0.03 + sway + 0.2 * np.clip((ys - 0.3) / 0.5, 0, 1) ** 2
            ink.line(np.stack([xs, ys], axis=1), 0.028, 0.9)
            ink.line([(xs[-1], ys[-1]), (xs[-1] + 0.12, ys[-1] + 0.03)], 0.03, 1.0)
    else:
        for _ in range(int(rng.integers(2, 4))):  # a wire each, from an electrode on the chest to the image's edge
            end = np.array((rng.uniform(-0.75, 0.75), rng.uniform(-0.6, 0.6)))
            outside = np.array((rng.choice([-1.15, 1.15]), rng.uniform(-1.0, 1.1)))
            p, q, r, s = np.stack([end, end + rng.normal(0, 0.45, 2), outside + rng.normal(0, 0.35, 2), outside])
            u = np.linspace(0, 1, 24)[:, None]
            curve = (1 - u) ** 3 * p + 3 * u * (1 - u) ** 2 * q + 3 * u * u * (1 - u) * r + u**3 * s  # Bezier's
            ink.line(curve, 0.022, 0.8)
            ink.disc(end, rng.uniform(0.045, 0.065), 0.95)
    drawn = ndimage.gaussian_filter(ink.field(), 0.0025 * anatomy.frame.size)
    return Finding(0.0, rng.uniform(0.3, 0.42) * drawn, drawn > 0.2)


FINDINGS: dict[str, Callable[[Anatomy, Values, Places, np.random.Generator], Finding]] = {
    "consolidation": consolidation,
    "interstitial_opacity": interstitial_opacity,
    "air_bronchograms": air_bronchograms,
    "pleural_effusion": pleural_effusion,
    "obscured_border": obscured_border,
    "peribronchial_thickening": peribronchial_thickening,
    "support_device": support_device,
}
"""The concepts that are drawn onto the anatomy; hyperinflation and cardiomegaly are part of it."""

# Each part of the image has a generator of its own, so that switching a concept leaves the rest as it was.
_PATIENT = ("shape", "body", "bones", "vessels")
_PARTS = (*_PATIENT, "frame", "places", "film", "marks", *CHEST_TABLE.values)


def draw_chest(
    profile: Mapping[str, str],
    rng: np.random.Generator,
    size: int = 192,
    patient: np.random.Generator | None = None,
) -> Drawing:
    """Draws one child's chest, seen from the front; every concept has a mask, empty if it is absent.

    Args:
        profile: the value of each concept of `CHEST_TABLE`; concepts left out are absent.
        rng: decides all that the concepts leave open. Each part of the image has a generator of its own, so two
            calls with equal generators and profiles that differ in one concept differ in that concept only.
        size: side in pixels; 96 to 256 works well.
        patient: decides the body instead of `rng`, for several images of one patient.

    Raises:
        ValueError: an unknown concept or value, or a size under 48.
    """
    values = CHEST_TABLE.complete(profile)
    if size < 48:
        raise ValueError(f"a chest of {size} pixels shows nothing; 96 to 256 works well")
    parts = children(rng, _PARTS)
    if patient is not None:
        parts |= children(patient, _PATIENT)
    present = [concept for concept, value in values.items() if value != ABSENT]
    flatten = parts["hyperinflation"].uniform(0.75, 1.0) if "hyperinflation" in present else 0.0
    enlarge = parts["cardiomegaly"].uniform(1.3, 1.5) if "cardiomegaly" in present else 1.0
    anatomy = Anatomy(Frame(size, parts["frame"]), parts["shape"], flatten, enlarge)
    places = Places(anatomy, values["consolidation"], parts["places"])
    drawn = [concept for concept in present if concept in FINDINGS]
    found = {concept: FINDINGS[concept](anatomy, values, places, parts[concept]) for concept in drawn}
    film = finish(expose(_density(anatomy, found, parts), parts["film"]), parts["marks"])

    lung = anatomy.lung > 0.5
    masks = {concept: np.zeros(lung.shape, dtype=bool) for concept in CHEST_TABLE.values}
    for concept, finding in found.items():
        masks[concept] = finding.mask if finding.mask.any() else lung  # one that is hidden to the last pixel
    if "hyperinflation" in present:
        masks["hyperinflation"] = lung | (np.abs(anatomy.to_dome) < 0.12) & (anatomy.to_wall > 0)
    if "cardiomegaly" in present:
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
    """The film's answer to densities (0 is air, about 0.8 the spine before the heart): scatter, tone curve and noise.

    Gives grey levels in [0, 1]. Nothing is measured on the image, so a change in one place stays there.
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
