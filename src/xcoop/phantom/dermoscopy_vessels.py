"""Vascular structures: seven patterns of red vessels in a pinkish area."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xcoop.phantom.dermoscopy_lesion import Layer, Lesion, Slot
from xcoop.phantom.texture import Canvas, arc, curve, soften, warp

Points = NDArray[np.float64]


def draw_vessels(lesion: Lesion, value: str, rng: np.random.Generator) -> Layer:
    """Red vessels of one pattern, in an area where the pigment is thinner, as they are seen in."""
    slot = lesion.slots["regression" if value == "within regression" else "vessels"]
    canvas, pale = Canvas(lesion.size), Canvas(lesion.size)
    scale = _PATTERNS[value](canvas, pale, lesion, slot, rng)
    area = lesion.blob(rng, slot, scale, 0.16, 0.9)
    red = np.array([0.70, 0.14, 0.18]) + rng.normal(0, 0.03, 3)
    pink, cream = np.array([0.90, 0.64, 0.58]), np.array([0.93, 0.82, 0.75])
    vessels = warp(soften(canvas.coverage(), 0.003 * lesion.size), rng, 24, 0.003) * np.float32(rng.uniform(0.72, 0.88))
    return Layer(
        keep=1 - np.float32(0.55) * area,
        tints=[
            (pink, area * 0.3),
            (cream, soften(pale.coverage(), 0.008 * lesion.size) * 0.6),
            (red, vessels),
        ],
        reach=0.02,
    )


def _around(slot: Slot, rng: np.random.Generator, count: int, scale: float) -> Points:
    """Points spread evenly over a slot's disc (golden-angle spiral), a little moved, (count, 2)."""
    radius = np.sqrt((np.arange(count) + 0.5) / count) * slot.radius * scale
    angle = rng.uniform(0, 2 * np.pi) + np.arange(count) * 2.39996
    points = np.stack([slot.x + radius * np.cos(angle), slot.y + radius * np.sin(angle)], 1)
    return np.asarray(points + rng.normal(0, 0.08 * slot.radius, points.shape))


def _arborizing(canvas: Canvas, pale: Canvas, lesion: Lesion, slot: Slot, rng: np.random.Generator) -> float:
    """A thick stem from near the border that branches into ever finer ones."""
    start = lesion.at(0.95, slot.angle)
    inwards = np.arctan2(slot.y - start[1], slot.x - start[0])
    _branch(canvas, rng, start, inwards, 0.62 * lesion.radius, rng.uniform(0.022, 0.027), 3)
    return 1.5


def _branch(
    canvas: Canvas, rng: np.random.Generator, start: Points, angle: float, length: float, width: float, depth: int
) -> None:
    line = curve(rng, start, angle, length, 0.7)
    canvas.stroke(line, np.linspace(width, width * 0.62, len(line)))
    if depth == 0:
        return
    for place, side in ((4, 1), (7, -1), (11, 1), (11, -1))[3 - depth :]:
        turn = side * rng.uniform(0.4, 0.95)
        _branch(canvas, rng, line[place], angle + turn, length * rng.uniform(0.42, 0.6), width * 0.6, depth - 1)


def _comma(canvas: Canvas, pale: Canvas, lesion: Lesion, slot: Slot, rng: np.random.Generator) -> float:
    """Short, thick, curved, thinning to one end."""
    for point in _around(slot, rng, int(rng.integers(8, 12)), 1.15):
        angle, bend = rng.uniform(0, 2 * np.pi), rng.choice([-1, 1]) * rng.uniform(1.6, 2.3)
        line = arc(point, angle, rng.uniform(0.058, 0.072), bend, points=9)
        canvas.stroke(line, np.linspace(0.022, 0.008, 9))
    return 1.4


def _hairpin(canvas: Canvas, pale: Canvas, lesion: Lesion, slot: Slot, rng: np.random.Generator) -> float:
    """Loops like a hairpin, each in a pale halo."""
    for point in _around(slot, rng, int(rng.integers(6, 9)), 1.1):
        angle, length, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.07), rng.uniform(0.010, 0.013)
        arc = np.linspace(-np.pi / 2, np.pi / 2, 7)
        along = np.concatenate([[-length / 2], length / 2 + gap * np.cos(arc), [-length / 2]])
        across = np.concatenate([[-gap], gap * np.sin(arc), [gap]])
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        canvas.stroke(point + np.stack([along, across], 1) @ turn, 0.0095)
        pale.stroke(point + np.array([[-length / 2, 0], [length / 2, 0]]) @ turn, 0.048)
    return 1.4


def _dotted(canvas: Canvas, pale: Canvas, lesion: Lesion, slot: Slot, rng: np.random.Generator) -> float:
    """Many small red points close together."""
    for x, y in _around(slot, rng, int(rng.integers(26, 38)), 1.3):
        canvas.disc(x, y, rng.uniform(0.0085, 0.0115))
    return 1.5


def _linear_irregular(canvas: Canvas, pale: Canvas, lesion: Lesion, slot: Slot, rng: np.random.Generator) -> float:
    """Unbranched crooked lines of unequal length, width and direction."""
    for point in _around(slot, rng, int(rng.integers(5, 8)), 1.0):
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.09, 0.19)
        start = point - 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
        line = curve(rng, start, angle, length, 2.6, points=16)
        canvas.stroke(line, rng.uniform(0.009, 0.018) * (1 + 0.25 * np.sin(np.arange(16) * 1.3)))
    return 1.5


def _wreath(canvas: Canvas, pale: Canvas, lesion: Lesion, slot: Slot, rng: np.random.Generator) -> float:
    """A crown: short bent vessels that point at, but do not cross, a pale centre."""
    count = int(rng.integers(10, 14))
    pale.disc(slot.x, slot.y, slot.radius * 0.55)
    for angle in rng.uniform(0, 1) + np.arange(count) * 2 * np.pi / count:
        outer = np.array([slot.x, slot.y]) + 1.2 * slot.radius * np.array([np.cos(angle), np.sin(angle)])
        line = curve(rng, outer, angle + np.pi + rng.normal(0, 0.2), 0.55 * slot.radius, 0.7, points=8)
        canvas.stroke(line, np.linspace(0.015, 0.008, 8))
    return 1.45


def _within_regression(canvas: Canvas, pale: Canvas, lesion: Lesion, slot: Slot, rng: np.random.Generator) -> float:
    """Fine short lines and points mixed, where regression lies or would lie."""
    for i, point in enumerate(_around(slot, rng, int(rng.integers(14, 20)), 0.95)):
        if i % 3 == 0:
            canvas.disc(point[0], point[1], rng.uniform(0.007, 0.010))
        else:
            line = curve(rng, point, rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.06), 1.2, points=7)
            canvas.stroke(line, 0.009)
    return 1.25


_PATTERNS: dict[str, Callable[[Canvas, Canvas, Lesion, Slot, np.random.Generator], float]] = {
    "arborizing": _arborizing,
    "comma": _comma,
    "hairpin": _hairpin,
    "within regression": _within_regression,
    "wreath": _wreath,
    "dotted": _dotted,
    "linear irregular": _linear_irregular,
}
"""Each draws its vessels (and pale spots) and tells how large the pinkish area is, in radii of the slot."""
