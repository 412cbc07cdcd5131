"""The healthy chest of the phantom, and the board that it is drawn on: lungs, heart, diaphragm, body, bones, vessels.

A radiograph adds up what the beam meets, so each part gives a map of density (0 air, about 1 bone over soft tissue),
and the image is their sum before the film's tone curve. Left and right are the patient's: his right side is on
the left of the image.

Everything is drawn in the coordinates of a standard patient: x runs from -1 (left of the image, the patient's
right) to 1, y from -1 (top) to 1, and a frame says where each pixel of an image lies in them. Position, size,
rotation and a gentle warp of the patient are therefore all in the frame, and lines and areas keep their sharpness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw
from scipy import ndimage


class Frame:
    """Where each pixel of an image lies in the coordinates of a patient, who is placed a little differently each time.

    Attributes:
        size: side of the image in pixels.
        pixel: side of a pixel in the patient's coordinates, without the patient's scale.
        x: (size, size) float32 patient coordinate of each pixel; `y` likewise.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.pixel = size, 2.0 / size
        angle = float(np.clip(rng.normal(0.0, 0.05), -0.15, 0.15))
        zoom = rng.uniform(0.9, 1.08, size=2) * rng.uniform(0.82, 1.06)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.diag(zoom)
        shift = np.array([np.clip(rng.normal(0.0, 0.05), -0.12, 0.12), np.clip(rng.normal(0.0, 0.08), -0.16, 0.16)])
        shift[1] = max(shift[1], 0.84 - zoom[1])  # the diaphragm stays in the image
        # Amplitude and phase of the warp of x (row 0) and of y (row 1).
        self._warp = np.stack([rng.uniform(-0.03, 0.03, size=2), rng.uniform(0, 2 * np.pi, size=2)], axis=1)
        grid = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
        px, py = np.meshgrid(grid, grid)  # (S, S), in [-1, 1]
        dx, dy = self._moved(px, py)
        self.x = (matrix[0, 0] * px + matrix[0, 1] * py + shift[0] + dx).astype(np.float32)
        self.y = (matrix[1, 0] * px + matrix[1, 1] * py + shift[1] + dy).astype(np.float32)
        self._inverse, self._shift = np.linalg.inv(matrix).T, shift  # for rows, once the shift is taken off

    def _moved(self, px: np.ndarray, py: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far the warp moves x and y."""
        (ax, phase_x), (ay, phase_y) = self._warp
        return ax * np.sin(2.4 * py + phase_x), ay * np.sin(2.4 * px + phase_y)

    def to_pixels(self, points: ArrayLike) -> np.ndarray:
        """Patient coordinates (N, 2) to pixels (N, 2); the warp is undone to first order."""
        target = np.asarray(points, dtype=np.float64).reshape(-1, 2) - self._shift
        flat = target @ self._inverse
        bend = np.stack(self._moved(flat[:, 0], flat[:, 1]), axis=1)
        return ((target - bend) @ self._inverse + 1.0) * (self.size / 2.0)


def edge(distance: np.ndarray, softness: float) -> np.ndarray:
    """A soft step: 0 where `distance` is below -`softness`, 1 above `softness`, smooth between."""
    ramp = np.clip(distance * (0.5 / softness) + 0.5, 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def bump(distance: np.ndarray, width: float) -> np.ndarray:
    """A bell of height 1 at distance 0; it reaches 1/4 at `width` (a cheap stand-in for a Gaussian)."""
    scaled = distance * (1.0 / width)
    bell = 1.0 / (1.0 + scaled * scaled)
    return bell * bell


def smooth_noise(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth noise (size, size) float32 of mean 0 and about unit spread, with `cells` hills along each side."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    # Bicubic interpolation of white noise loses variance; 1.35 about restores it.
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)) * np.float32(1.35)


class Profile:
    """A smooth function of one coordinate, given by a few points and looked up for whole images."""

    _low, _high, _count = -1.6, 1.6, 512

    def __init__(self, at: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray) -> None:
        table = np.interp(np.linspace(self._low, self._high, self._count), at, values)
        kernel = np.hanning(27)
        padded = np.pad(table, 13, mode="edge")
        self.table = np.convolve(padded, kernel / kernel.sum(), mode="valid").astype(np.float32)

    def __call__(self, coordinate: ArrayLike) -> np.ndarray:
        """The values at `coordinate` (any shape), held constant outside [-1.6, 1.6]."""
        scale = (self._count - 1) / (self._high - self._low)
        index = ((np.asarray(coordinate) - self._low) * scale).astype(np.int32)
        return self.table[np.clip(index, 0, self._count - 1)]


class Ink:
    """A sheet for lines, rings and areas, drawn at twice the size and reduced (that smooths the edges)."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.sheet = Image.new("L", (2 * frame.size, 2 * frame.size), 0)
        self.pen = ImageDraw.Draw(self.sheet)

    def line(self, points: ArrayLike, width: float, value: float = 1.0) -> None:
        """A line through `points` (patient coordinates), `width` in the same units, of brightness 0 to 1."""
        pixels = self.frame.to_pixels(points) * 2.0
        thick = max(1, round(width * self.frame.size))
        self.pen.line(pixels.ravel().tolist(), fill=round(255 * value), width=thick)

    def strokes(self, lines: np.ndarray, widths: np.ndarray, values: np.ndarray) -> None:
        """Many straight strokes at once: their starts and ends (N, 4), widths (N,) and brightness (N,)."""
        pixels = (self.frame.to_pixels(lines) * 2.0).reshape(-1, 4).tolist()
        thick = np.maximum(1, np.rint(widths * self.frame.size)).astype(int).tolist()
        shades = np.rint(255 * values).astype(int).tolist()
        for where, width, fill in zip(pixels, thick, shades, strict=True):
            self.pen.line(where, fill=fill, width=width)

    def polygon(self, points: ArrayLike, value: float) -> None:
        """A filled area."""
        self.pen.polygon((self.frame.to_pixels(points) * 2.0).ravel().tolist(), fill=round(255 * value))

    def disc(self, centre: ArrayLike, radius: float, value: float) -> None:
        """A filled circle."""
        self.pen.ellipse(self._box(centre, radius), fill=round(255 * value))

    def ring(self, centre: ArrayLike, radius: float, wall: float, value: float) -> None:
        """A circle that is empty inside."""
        thick = max(1, round(wall * self.frame.size))
        self.pen.ellipse(self._box(centre, radius), outline=round(255 * value), width=thick)

    def _box(self, centre: ArrayLike, radius: float) -> list[float]:
        middle, reach = self.frame.to_pixels(centre)[0] * 2.0, radius * self.frame.size
        return [*(middle - reach).tolist(), *(middle + reach).tolist()]

    def field(self) -> np.ndarray:
        """What was drawn, (size, size) float32 in [0, 1]."""
        return np.asarray(self.sheet.reduce(2), dtype=np.float32) * np.float32(1 / 255)


RIGHT, LEFT = 0, 1


class Anatomy:
    """The shape of one patient; every array is (size, size) float32, lengths are in patient coordinates.

    Args:
        frame: the drawing board.
        rng: decides the patient; equal states give equal patients whatever the two arguments below are.
        flatten: 0 for normal domes, up to 1 for those of hyperinflated lungs, which are long: low and flat.
        enlarge: factor on the width of the heart; 1 for normal.
    """

    def __init__(self, frame: Frame, rng: np.random.Generator, flatten: float = 0.0, enlarge: float = 1.0) -> None:
        self.frame, self.flat = frame, flatten
        self.spread, apex = rng.uniform(0.92, 1.06), rng.uniform(-0.75, -0.63)  # the scale of the rib cage's half-width
        lean, curve = rng.normal(0, 0.02), rng.normal(0, 0.025)
        self.across = frame.x - (lean * frame.y + curve * (frame.y * frame.y - 0.2))  # negative on the patient's right
        self.t, self.right = np.abs(self.across), self.across < 0  # distance from the midline; the right half
        self.lateral = _cage(apex, self.spread, rng.uniform(0.9, 1.12))  # half-width of the rib cage over y
        self.heart = _heart(apex, self.spread, rng, enlarge)
        # Distance outward from the mediastinum or heart.
        self.to_heart = self.t - np.where(self.right, self.heart[RIGHT](frame.y), self.heart[LEFT](frame.y))

        # The domes of the diaphragm, right and left, fall steeply to the costophrenic angle.
        high = rng.uniform(0.45, 0.58)
        self.dome = (high + 0.15 * flatten, high + rng.uniform(0.01, 0.07) + 0.14 * flatten)  # height y
        top = np.where(self.right, np.float32(self.dome[RIGHT]), np.float32(self.dome[LEFT]))
        outer, inner = rng.uniform(0.2, 0.3) * (1 - 0.72 * flatten), 0.07 * (1 - 0.6 * flatten)
        beyond = np.clip(self.t / self.spread - 0.33, 0, None) * (1 / 0.42)
        before = np.clip(0.33 - self.t / self.spread, 0, None) * (1 / 0.33)
        self.to_dome = top + outer * beyond * beyond + inner * before * before - frame.y  # distance upward from it

        wall = self.lateral(frame.y)
        self.to_wall = wall - self.t  # distance inward from the chest wall
        self.tn = self.t / np.maximum(wall, 0.2)  # `t` as a fraction of the rib cage's half-width there
        crisp = max(0.011, 0.8 * frame.pixel)
        lung = edge(self.to_wall, crisp) * edge(self.to_heart, 1.3 * crisp) * edge(self.to_dome, 1.1 * crisp)
        self.lung = lung  # how much of each pixel is lung, 0 to 1
        self.hila = ((-0.19 * self.spread, rng.uniform(-0.1, 0.0)), (0.2 * self.spread, rng.uniform(-0.14, -0.04)))
        self.raised = bool(rng.random() < 0.75)  # the arms


def _cage(apex: float, spread: float, barrel: float) -> Profile:
    """Half-width of the inside of the rib cage over y: a rounded apex, then nearly straight down."""
    at = np.array([0.0, 0.015, 0.05, 0.11, 0.2, 0.34, 0.55, 0.8, 1.1, 1.5])
    half = np.array([0.18, 0.24, 0.31, 0.38, 0.45, 0.53, 0.61, 0.68, 0.735, 0.74])
    return Profile(np.r_[apex - 0.03, at + apex], np.r_[0.1, half * spread * (1 + (barrel - 1) * at)])


def _heart(apex: float, spread: float, rng: np.random.Generator, enlarge: float) -> tuple[Profile, Profile]:
    """Half-widths of the mediastinum and heart over y, right and left."""
    waist, thymus = rng.uniform(0.11, 0.15), rng.uniform(0, 0.06) * rng.integers(0, 2)
    bulge, low = rng.uniform(0.86, 1.1) * enlarge, rng.uniform(-0.04, 0.05)
    knob = waist + rng.uniform(0.0, 0.05)
    at = np.array([apex - 0.05, apex + 0.1, -0.38, -0.24, -0.1 + low, 0.06 + low, 0.24 + low, 0.4 + low, 0.55, 0.8])
    right = [0.17, waist, waist + thymus, waist + thymus, 0.13, *(w * bulge for w in (0.175, 0.215, 0.2)), 0.16, 0.15]
    left = [0.17, waist, knob + thymus, knob + thymus, 0.17, *(w * bulge for w in (0.28, 0.385, 0.43, 0.42)), 0.3]
    halves = [(np.array(side) + rng.normal(0, 0.008, 10)) * spread for side in (right, left)]
    return Profile(at, halves[RIGHT]), Profile(at, halves[LEFT])


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
    # The upper arms, from the shoulder to the elbow, drawn on a right half turned to positive x: rounded bars that
    # fall off over 0.16 below their radius.
    reach = rng.uniform(-1.5, -0.7) if anatomy.raised else rng.uniform(-0.1, 0.9)
    far = rng.uniform(1.15, 1.45) if anatomy.raised else rng.uniform(1.1, 1.3)
    elbows = [(far + rng.normal(0, 0.05), reach + rng.normal(0, 0.12)) for _ in range(2)]
    for side, elbow in zip((-1, 1), elbows, strict=True):
        dx, dy = elbow[0] - 0.66, elbow[1] + 0.62
        along = np.clip(((x * side - 0.66) * dx + (y + 0.62) * dy) * (1 / (dx * dx + dy * dy)), 0, 1)
        gap = np.hypot(x * side - 0.66 - along * dx, y + 0.62 - along * dy)
        soft = np.maximum(soft, 0.85 * np.clip((0.2 + fat * 0.5 - gap) * (1 / 0.16), 0, 1))
    head_y, wide, tall = rng.uniform(-1.25, -0.98), rng.uniform(0.3, 0.42), rng.uniform(0.2, 0.28)
    head = 1.0 - np.hypot(x * (1 / wide), (y - head_y) * (1 / tall))
    soft = np.sqrt(soft) * 0.52 + 0.1 * edge(head, 0.12)
    belly = edge(-anatomy.to_dome, 0.16) * edge(anatomy.to_wall + 0.04, 0.12)
    centre = bump(anatomy.t, 0.55)
    return soft * (0.85 + 0.2 * centre) + 0.1 * belly * np.minimum(soft * 4, 1)


def air(anatomy: Anatomy) -> np.ndarray:
    """How much air the beam meets in the lungs, 0 to about 1: less near the walls and the hila."""
    depth = 0.72 + 0.28 * np.clip(anatomy.to_wall * (1 / 0.2), 0, 1)
    hilar = 1.0 - 0.22 * bump(anatomy.to_heart, 0.16)
    return anatomy.lung * depth * hilar * (1.0 + 0.1 * anatomy.flat)


def vessels(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Branching pulmonary vessels that leave the hila and thin out, (size, size) in [0, 1]."""
    count = 8
    angle = np.tile(np.linspace(-1.3, 1.45, count), 2) + rng.normal(0, 0.14, size=2 * count)  # 0 is sideways
    sign = np.repeat([-1.0, 1.0], count)
    start = np.repeat(np.array(anatomy.hila), count, axis=0) + rng.normal(0, 0.015, size=(2 * count, 2))
    start[:, 1] += 0.05 * angle
    width = rng.uniform(0.02, 0.034, size=2 * count)
    strokes = []
    for steps, forks in ((9, 2), (7, 1), (5, 0)):  # trunks, branches, twigs: N random walks outwards
        heading = angle[:, None] + rng.normal(0, 0.17, size=(len(start), steps)).cumsum(axis=1)  # (N, steps)
        step = np.stack([np.cos(heading) * sign[:, None], np.sin(heading)], axis=2)  # (N, steps, 2)
        step *= rng.uniform(0.045, 0.075, size=(len(start), steps, 1))
        path = np.concatenate([start[:, None], start[:, None] + step.cumsum(axis=1)], axis=1)  # (N, steps + 1, 2)
        left = 1.0 - np.arange(steps) / steps
        value = 0.2 + 0.8 * left * np.minimum(1.0, width / 0.026)[:, None]
        parts = [path[:, :-1], path[:, 1:], np.maximum(0.005, width[:, None] * left)[:, :, None], value[:, :, None]]
        strokes.append(np.concatenate(parts, axis=2).reshape(-1, 6))  # start, end, width, brightness

        parent = np.repeat(np.arange(len(path)), forks)  # each vessel forks into `forks` of the next kind
        at = rng.integers(1, steps - 1, size=len(parent))
        turn = rng.choice((-1.0, 1.0), size=len(parent)) * rng.uniform(0.35, 0.8, size=len(parent))
        start, angle, sign, width = path[parent, at], heading[parent, at] + turn, sign[parent], 0.55 * width[parent]
    table = np.concatenate(strokes)
    table = table[np.argsort(table[:, 5])]  # the bright ones last, on top
    ink = Ink(anatomy.frame)
    ink.strokes(table[:, :4], table[:, 4], table[:, 5])
    return ink.field()


def skeleton(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Density of all bones."""
    strong = rng.uniform(0.75, 1.25)
    return strong * (ribs(anatomy, rng) + spine(anatomy, rng) + clavicles(anatomy, rng) + shoulders(anatomy, rng))


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
    across = y - (low - rise * along + sway * np.sin(along * 2 * np.pi) + tilt)
    half = rng.uniform(0.018, 0.026)
    bar = edge(half + 0.012 * bump(along, 0.2) - np.abs(across), max(0.009, 0.7 * anatomy.frame.pixel))
    cortex = 0.7 + 0.5 * bump(np.abs(across) - 0.8 * half, 0.01)
    ends = edge(t - 0.085, 0.02) * edge(rng.uniform(0.52, 0.62) - t, 0.03)
    return rng.uniform(0.1, 0.18) * bar * cortex * ends


def shoulders(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Density of the scapulae and humeri."""
    ink = Ink(anatomy.frame)
    for sign in (-1.0, 1.0):
        out, up = rng.normal(0, 0.03), rng.normal(0, 0.04)
        blade = np.array([(0.45, -0.66), (0.7, -0.62), (0.78, -0.5), (0.74, -0.1), (0.66, 0.02), (0.6, -0.2)])
        blade = (blade + np.array([0.04 + out, up])) * np.array([sign, 1.0])
        ink.polygon(blade, 0.22)
        ink.line(blade[[2, 3, 4]], 0.018, 0.6)
        ink.line(blade[[0, 1]], 0.03, 0.7)
        elbow = (1.3, -1.1 + up) if anatomy.raised else (1.12 + out, 0.7)
        shaft = np.array([(0.82 + out, -0.66 + up), elbow]) * np.array([sign, 1.0])
        ink.line(shaft, 0.1, 0.85)
        ink.line(shaft, 0.055, 0.5)
        ink.disc(shaft[0], 0.075, 0.75)
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
