"""The bones and air tubes of the chest phantom: ribs, spine, clavicles, shoulders, trachea."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from xcoop.phantom.chest_anatomy import Anatomy
from xcoop.phantom.chest_frame import Ink, bump, edge


def ribs(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Density of the ribs: posterior arcs, fainter anterior ones, and the bright rim where they turn."""
    y, tn = anatomy.frame.y, anatomy.tn
    spacing, first = rng.uniform(0.132, 0.162), rng.uniform(0, 0.14)
    fall = rng.uniform(0.22, 0.34) * (1 - 0.35 * anatomy.flat)
    jitter = rng.normal(0, 0.006, size=64).astype(np.float32)
    half = rng.uniform(0.03, 0.042)
    side = np.where(anatomy.right, np.float32(0), np.float32(rng.normal(0, 0.02)))
    reach = np.minimum(tn, 1.15)
    arc = fall * reach * reach * np.sqrt(reach) * (1 + 0.35 * y) - 0.04 * np.sin(np.pi * np.minimum(reach, 1))
    back = _bars(y - arc - first + side, spacing, half, jitter, anatomy.frame.pixel)
    back *= edge(anatomy.to_wall + 0.035, 0.02) * edge(anatomy.t - 0.07, 0.03)
    back *= 0.5 + 0.5 * edge(anatomy.to_heart + 0.02, 0.06)
    front_arc = fall * (1 + 0.35 * y) + 0.34 * (1.0 - reach)
    front = _bars(y - front_arc - first + side, spacing * 1.04, half * 1.25, jitter, anatomy.frame.pixel)
    front *= edge(anatomy.to_wall + 0.02, 0.03) * edge(tn - rng.uniform(0.42, 0.55), 0.12) * edge(y + 0.45, 0.1)
    rim = bump(anatomy.to_wall + 0.012, 0.022) * (0.35 + 0.65 * back)
    strength = rng.uniform(0.08, 0.16)
    whole = strength * back + rng.uniform(0.05, 0.35) * strength * front + rng.uniform(0.1, 0.24) * rim
    return whole * edge(y - (rng.uniform(-0.8, -0.7)), 0.05) * (0.3 + 0.7 * edge(anatomy.to_dome + 0.04, 0.14))


def _bars(phase: np.ndarray, spacing: float, half: float, jitter: np.ndarray, pixel: float) -> np.ndarray:
    """Parallel bars with bright edges (the cortex), the lower one stronger; `phase` runs across them."""
    index = np.rint(phase * (1 / spacing))
    across = phase - index * spacing + jitter[index.astype(np.int32) & 63]
    crisp = max(0.013, 0.8 * pixel)
    bar = edge(half - np.abs(across), crisp)
    return bar * (0.75 + 0.15 * bump(across + 0.75 * half, 0.013) + 0.3 * bump(across - 0.75 * half, 0.013))


def spine(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Density of the vertebral column, with bodies, discs and pedicles."""
    y, t = anatomy.frame.y, anatomy.t
    half, spacing = rng.uniform(0.07, 0.09), rng.uniform(0.105, 0.125)
    wave = np.cos((y + rng.uniform(0, spacing)) * (2 * np.pi / spacing))
    column = edge(half - t + 0.008 * wave, rng.uniform(0.02, 0.045))
    pedicles = bump(t - 0.62 * half, 0.018) * np.clip(wave, 0, 1)
    process = bump(t, 0.015) * np.clip(-wave, 0, 1)
    plain = rng.uniform(0.07, 0.13)
    shade = plain * (1 + 0.22 * rng.uniform(0.3, 1.2) * wave)
    return column * (shade + rng.uniform(0.02, 0.05) * (pedicles + process))


def clavicles(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Density of both clavicles, S-shaped and rising to the shoulder."""
    y, t = anatomy.frame.y, anatomy.t
    low, rise, sway = rng.uniform(-0.66, -0.54), rng.uniform(0.02, 0.3), rng.uniform(0.01, 0.03)
    tilt = np.where(anatomy.right, np.float32(rng.normal(0, 0.02)), np.float32(rng.normal(0, 0.02)))
    along = (t - 0.08) * (1 / 0.5)
    middle = low - rise * along + sway * np.sin(along * 2 * np.pi) + tilt
    across = y - middle
    half = rng.uniform(0.018, 0.026)
    bar = edge(half + 0.012 * bump(along, 0.2) - np.abs(across), max(0.009, 0.7 * anatomy.frame.pixel))
    cortex = 0.7 + 0.5 * bump(np.abs(across) - 0.8 * half, 0.01)
    ends = edge(t - 0.085, 0.02) * edge(rng.uniform(0.52, 0.62) - t, 0.03)
    return rng.uniform(0.1, 0.18) * bar * cortex * ends


def shoulders(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Density of the scapulae and humeri."""
    ink = Ink(anatomy.frame)
    raised = anatomy.raised
    for sign in (-1.0, 1.0):
        out, up = rng.normal(0, 0.03), rng.normal(0, 0.04)
        blade = np.array([(0.45, -0.66), (0.7, -0.62), (0.78, -0.5), (0.74, -0.1), (0.66, 0.02), (0.6, -0.2)])
        blade = (blade + np.array([0.04 + out, up])) * np.array([sign, 1.0])
        ink.polygon(blade, 0.22)
        ink.line(blade[[2, 3, 4]], 0.018, 0.6)
        ink.line(blade[[0, 1]], 0.03, 0.7)
        elbow = (1.3, -1.1 + up) if raised else (1.12 + out, 0.7)
        start = np.array((0.82 + out, -0.66 + up))
        shaft = np.array([start, elbow]) * np.array([sign, 1.0])
        ink.line(shaft, 0.1, 0.85)
        ink.line(shaft, 0.055, 0.5)
        ink.disc((float(shaft[0, 0]), float(shaft[0, 1])), 0.075, 0.75)
    return rng.uniform(0.07, 0.14) * ndimage.gaussian_filter(ink.field(), 0.006 * anatomy.frame.size)


def trachea(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """How much air the trachea and the main bronchi hold, (size, size) in [0, 1]."""
    y, across = anatomy.frame.y, anatomy.across
    middle, carina = rng.normal(-0.008, 0.012), rng.uniform(-0.28, -0.2)
    half = rng.uniform(0.028, 0.04)
    below = np.clip(y - carina, 0, None)
    split = np.abs(across - middle) - below * rng.uniform(0.8, 1.1)
    tube = edge(half - 0.25 * half * np.sign(below) - np.abs(split), 0.018)
    return tube * edge(carina + 0.17 - y, 0.06)
