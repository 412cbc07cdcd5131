"""The healthy chest of the phantom: lungs, heart, diaphragm, body, bones and vessels.

A radiograph adds up what the beam meets, so each part gives a map of density (0 air, about 1 bone over soft tissue),
and the picture is their sum before the film's tone curve. Left and right are the patient's: his right side is on
the left of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xcoop.phantom.chest_frame import Frame, Ink, Profile, bump, edge

RIGHT, LEFT = 0, 1


@dataclass(frozen=True)
class Anatomy:
    """The shape of one patient; every array is (size, size) float32, lengths are in patient coordinates.

    Attributes:
        frame: where each pixel lies.
        across: distance from the midline, negative on the patient's right.
        t: its absolute value.
        right: bool, the patient's right half.
        lateral: Profile of the half-width of the rib cage over y.
        to_wall: distance inward from the chest wall.
        to_heart: distance outward from the mediastinum or heart.
        to_dome: distance upward from the diaphragm.
        lung: how much of each pixel is lung, 0 to 1.
        tn: `t` as a fraction of the rib cage's half-width there.
        dome: height y of the right and of the left dome.
        spread: how far the rib cage's half-width is scaled.
        flat: 0 for normal domes, 1 for flattened ones.
        heart: Profile of the half-width of the mediastinum and heart, right and left.
        hila: centres of the right and left hilum.
        raised: whether the arms are up.
    """

    frame: Frame
    across: np.ndarray
    t: np.ndarray
    right: np.ndarray
    lateral: Profile
    to_wall: np.ndarray
    to_heart: np.ndarray
    to_dome: np.ndarray
    lung: np.ndarray
    tn: np.ndarray
    dome: tuple[float, float]
    spread: float
    flat: float
    heart: tuple[Profile, Profile]
    hila: tuple[tuple[float, float], tuple[float, float]]
    raised: bool


def make_anatomy(frame: Frame, rng: np.random.Generator, flatten: float = 0.0, enlarge: float = 1.0) -> Anatomy:
    """Samples a patient.

    Args:
        frame: the drawing board.
        rng: decides the patient; equal states give equal patients whatever the two arguments below are.
        flatten: 0 for normal lungs, up to 1 for hyperinflated ones: long lungs, low and flat domes.
        enlarge: factor on the width of the heart; 1 for normal.
    """
    spread, apex = rng.uniform(0.92, 1.06), rng.uniform(-0.75, -0.63)
    lean, curve = rng.normal(0, 0.02), rng.normal(0, 0.025)
    across = frame.x - (lean * frame.y + curve * (frame.y * frame.y - 0.2))
    t, right = np.abs(across), across < 0
    lateral = _cage(apex, spread, rng.uniform(0.9, 1.12))
    heart = _heart(apex, spread, rng, enlarge)
    to_heart = t - np.where(right, heart[RIGHT](frame.y), heart[LEFT](frame.y))
    high = rng.uniform(0.45, 0.58)
    domes = (high + 0.15 * flatten, high + rng.uniform(0.01, 0.07) + 0.14 * flatten)
    to_dome = _domes(frame.y, t / spread, right, domes, rng.uniform(0.2, 0.3), flatten)
    wall = lateral(frame.y)
    to_wall = wall - t
    crisp = max(0.011, 0.8 * frame.pixel)
    lung = edge(to_wall, crisp) * edge(to_heart, 1.3 * crisp) * edge(to_dome, 1.1 * crisp)
    hila = ((-0.19 * spread, rng.uniform(-0.1, 0.0)), (0.2 * spread, rng.uniform(-0.14, -0.04)))
    tn = t / np.maximum(wall, 0.2)
    return Anatomy(
        frame,
        across,
        t,
        right,
        lateral,
        to_wall,
        to_heart,
        to_dome,
        lung,
        tn,
        domes,
        spread,
        flatten,
        heart,
        hila,
        bool(rng.random() < 0.75),
    )


def _cage(apex: float, spread: float, barrel: float) -> Profile:
    """Half-width of the inside of the rib cage over y: a rounded apex, then nearly straight down."""
    at = np.array([0.0, 0.015, 0.05, 0.11, 0.2, 0.34, 0.55, 0.8, 1.1, 1.5])
    half = np.array([0.18, 0.24, 0.31, 0.38, 0.45, 0.53, 0.61, 0.68, 0.735, 0.74])
    return Profile(np.r_[apex - 0.03, at + apex], np.r_[0.1, half * spread * (1 + (barrel - 1) * at)])


def _heart(apex: float, spread: float, rng: np.random.Generator, enlarge: float) -> tuple[Profile, Profile]:
    """Half-widths of the mediastinum and heart over y."""
    waist, thymus = rng.uniform(0.11, 0.15), rng.uniform(0, 0.06) * rng.integers(0, 2)
    wide, low = rng.uniform(0.86, 1.1), rng.uniform(-0.04, 0.05)
    bulge = wide * enlarge
    at = np.array([apex - 0.05, apex + 0.1, -0.38, -0.24, -0.1 + low, 0.06 + low, 0.24 + low, 0.4 + low, 0.55, 0.8])
    on_right = [
        0.17,
        waist,
        waist + thymus,
        waist + thymus,
        0.13,
        0.175 * bulge,
        0.215 * bulge,
        0.2 * bulge,
        0.16,
        0.15,
    ]
    knob = waist + rng.uniform(0.0, 0.05)
    on_left = [
        0.17,
        waist,
        knob + thymus,
        knob + thymus,
        0.17,
        0.28 * bulge,
        0.385 * bulge,
        0.43 * bulge,
        0.42 * bulge,
        0.3,
    ]
    return Profile(at, (np.array(on_right) + rng.normal(0, 0.008, 10)) * spread), Profile(
        at, (np.array(on_left) + rng.normal(0, 0.008, 10)) * spread
    )


def _domes(
    y: np.ndarray, t: np.ndarray, right: np.ndarray, domes: tuple[float, float], drop: float, flatten: float
) -> np.ndarray:
    """Distance above the diaphragm: domes that fall steeply to the costophrenic angle."""
    top = np.where(right, np.float32(domes[RIGHT]), np.float32(domes[LEFT]))
    beyond = np.clip(t - 0.33, 0, None) * (1 / 0.42)
    before = np.clip(0.33 - t, 0, None) * (1 / 0.33)
    outer, inner = drop * (1 - 0.72 * flatten), 0.07 * (1 - 0.6 * flatten)
    return top + outer * beyond * beyond + inner * before * before - y


def body(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Density of the soft tissues: trunk, shoulders, arms, neck and head, without any air."""
    frame = anatomy.frame
    x, y = anatomy.across, frame.y
    fat = rng.uniform(0.06, 0.18)
    trunk = np.clip((anatomy.lateral(np.maximum(y, -0.3)) + fat - anatomy.t) * (1 / 0.2), 0, 1) * edge(y + 0.62, 0.2)
    neck_width, slope = rng.uniform(0.24, 0.36), rng.uniform(-1.15, -0.86)
    shoulder = Profile(
        [0, neck_width - 0.03, neck_width + 0.03, 0.55, 0.8, 1.0],
        [-1.6, -1.4, slope - 0.04, slope + 0.08, slope + 0.18, slope + 0.5],
    )
    top = np.clip((y - shoulder(anatomy.t)) * (1 / 0.3), 0, 1) * edge(1.02 - anatomy.t, 0.14) * edge(-0.1 - y, 0.25)
    soft = np.maximum(trunk, top)
    for side, arm in zip((-1, 1), _arms(anatomy.raised, rng), strict=True):
        soft = np.maximum(soft, 0.85 * _capsule(x * side, y, arm[:2], arm[2:4], 0.2 + fat * 0.5, 0.16))
    head = _ellipse(x, y, (0.0, rng.uniform(-1.25, -0.98)), (rng.uniform(0.3, 0.42), rng.uniform(0.2, 0.28)))
    chin = edge(head, 0.12)
    soft = np.sqrt(soft) * 0.52 + 0.1 * chin
    belly = edge(-anatomy.to_dome, 0.16) * edge(anatomy.to_wall + 0.04, 0.12)
    centre = bump(anatomy.t, 0.55)
    return soft * (0.85 + 0.2 * centre) + 0.1 * belly * np.minimum(soft * 4, 1)


def _arms(raised: bool, rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """Both upper arms as (x, y) of the shoulder and of the elbow, on a right half turned to positive x."""
    reach = rng.uniform(-1.5, -0.7) if raised else rng.uniform(-0.1, 0.9)
    far = rng.uniform(1.15, 1.45) if raised else rng.uniform(1.1, 1.3)
    return [(0.66, -0.62, far + rng.normal(0, 0.05), reach + rng.normal(0, 0.12)) for _ in range(2)]


def _capsule(
    x: np.ndarray, y: np.ndarray, start: tuple[float, ...], end: tuple[float, ...], radius: float, rim: float
) -> np.ndarray:
    """A rounded bar: 1 within, falling to 0 over `rim` below its `radius`."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) * (1 / (dx * dx + dy * dy)), 0, 1)
    gap = np.hypot(x - start[0] - along * dx, y - start[1] - along * dy)
    return np.clip((radius - gap) * (1 / rim), 0, 1)


def _ellipse(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """1 - the elliptic radius: positive inside."""
    return 1.0 - np.hypot((x - centre[0]) * (1 / radii[0]), (y - centre[1]) * (1 / radii[1]))


def air(anatomy: Anatomy) -> np.ndarray:
    """How much air the beam meets in the lungs, 0 to about 1: less near the walls and the hila."""
    depth = 0.72 + 0.28 * np.clip(anatomy.to_wall * (1 / 0.2), 0, 1)
    hilar = 1.0 - 0.22 * bump(anatomy.to_heart, 0.16)
    return anatomy.lung * depth * hilar * (1.0 + 0.1 * anatomy.flat)


def vessels(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Branching pulmonary vessels that leave the hila and thin out, (size, size) in [0, 1]."""
    count = 8
    angle = np.tile(np.linspace(-1.3, 1.45, count), 2) + rng.normal(0, 0.14, size=2 * count)
    sign = np.repeat([-1.0, 1.0], count)
    start = np.repeat(np.array(anatomy.hila), count, axis=0) + rng.normal(0, 0.015, size=(2 * count, 2))
    start[:, 1] += 0.05 * angle
    width = rng.uniform(0.02, 0.034, size=2 * count)
    strokes = []
    for steps, forks in ((9, 2), (7, 1), (5, 0)):  # trunks, branches, twigs
        drawn, path, heading = _walk(rng, start, angle, sign, width, steps)
        strokes.append(drawn)
        start, angle, sign, width = _fork(rng, path, heading, sign, width, forks)
    table = np.concatenate(strokes)  # (N, 6): start, end, width, brightness
    table = table[np.argsort(table[:, 5])]  # the bright ones last, on top
    ink = Ink(anatomy.frame)
    ink.strokes(table[:, :2], table[:, 2:4], table[:, 4], table[:, 5])
    return ink.field()


def _walk(
    rng: np.random.Generator, start: np.ndarray, angle: np.ndarray, sign: np.ndarray, width: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N vessels as random walks outwards; an angle of 0 points sideways, positive down.

    Returns:
        Strokes (N * steps, 6), the walks' points (N, steps + 1, 2), and the heading at each step (N, steps).
    """
    count = len(start)
    heading = angle[:, None] + rng.normal(0, 0.17, size=(count, steps)).cumsum(axis=1)
    step = np.stack([np.cos(heading) * sign[:, None], np.sin(heading)], axis=2)  # (N, steps, 2)
    step *= rng.uniform(0.045, 0.075, size=(count, steps, 1))
    path = np.concatenate([start[:, None], start[:, None] + step.cumsum(axis=1)], axis=1)
    left = 1.0 - np.arange(steps) / steps
    value = 0.2 + 0.8 * left * np.minimum(1.0, width / 0.026)[:, None]
    parts = [path[:, :-1], path[:, 1:], np.maximum(0.005, width[:, None] * left)[:, :, None], value[:, :, None]]
    return np.concatenate(parts, axis=2).reshape(-1, 6), path, heading


def _fork(
    rng: np.random.Generator, path: np.ndarray, heading: np.ndarray, sign: np.ndarray, width: np.ndarray, forks: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where `forks` branches leave each of N vessels: start (M, 2), angle, sign and width (M,)."""
    parent = np.repeat(np.arange(len(path)), forks)
    at = rng.integers(1, heading.shape[1] - 1, size=len(parent))
    turn = rng.choice((-1.0, 1.0), size=len(parent)) * rng.uniform(0.35, 0.8, size=len(parent))
    return path[parent, at], heading[parent, at] + turn, sign[parent], 0.55 * width[parent]
