"""Draws dermoscopic pictures of skin lesions from concept profiles.

The pigment is summed as optical density and taken out of the skin's colour by Beer's law, so that brown structures
darken each other instead of hiding each other; veil, regression and vessels are then laid over it, half transparent.
Every concept has a random generator of its own: changing one concept's value changes the picture where that
concept lies and nowhere else. Drawings carry nothing of the diagnosis but the concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xcoop.names import unknown
from xcoop.phantom.dermoscopy_camera import add_bubbles, add_hairs, add_light, add_ruler, take_picture
from xcoop.phantom.dermoscopy_colour import draw_regression, draw_veil
from xcoop.phantom.dermoscopy_lesion import Layer, Lesion, make_lesion
from xcoop.phantom.dermoscopy_pigment import draw_dots, draw_network, draw_pigmentation, draw_streaks
from xcoop.phantom.dermoscopy_skin import BLOOD, base_pigment, draw_skin, halo, pigment_colour
from xcoop.phantom.dermoscopy_vessels import draw_vessels
from xcoop.phantom.tables import ABSENT, VALUES
from xcoop.phantom.texture import Floats, Mask, absorb, blend, children

_DRAW: dict[str, Callable[[Lesion, str, np.random.Generator], Layer]] = {
    "pigment_network": draw_network,
    "pigmentation": draw_pigmentation,
    "dots_and_globules": draw_dots,
    "streaks": draw_streaks,
    "regression_structures": draw_regression,
    "blue_whitish_veil": draw_veil,
    "vascular_structures": draw_vessels,
}
"""From the deepest to the topmost."""

_PARTS = ("lesion", "skin", "base", "hairs", "bubbles", "ruler", "light", "camera", "clinic")


@dataclass(frozen=True)
class Drawing:
    """A picture and where everything on it lies.

    Attributes:
        image: (size, size, 3) uint8 sRGB.
        masks: of each concept that is present, by column name, (size, size) where it lies.
        lesion: (size, size) the lesion itself.
    """

    image: NDArray[np.uint8]
    masks: dict[str, Mask]
    lesion: Mask


def draw_dermoscopy(profile: Mapping[str, str], rng: np.random.Generator, size: int = 192) -> Drawing:
    """Draws a lesion with the given concepts as a dermatoscope shows it.

    Args:
        profile: the value of each checklist concept by column name; a column left out counts as absent.
        rng: everything that the profile leaves open. The same state gives the same picture.
        size: side in pixels; made for 96 to 256.

    Raises:
        ValueError: a column or value that the checklist does not have.
    """
    check_profile(profile)
    parts = children(rng, (*_PARTS, *_DRAW))
    _, painted, lesion, masks = _paint(profile, parts, size)
    image = add_ruler(add_bubbles(add_hairs(painted, parts["hairs"]), parts["bubbles"]), parts["ruler"])
    image = take_picture(add_light(image, parts["light"]), parts["camera"])
    return Drawing(_to_bytes(image), masks, lesion.alpha > 0.5)


def draw_clinical(profile: Mapping[str, str], rng: np.random.Generator, size: int = 128) -> NDArray[np.uint8]:
    """Draws the same lesion as the naked eye sees it, smaller and without fine structures, (size, size, 3).

    The same generator state as for `draw_dermoscopy` gives the same lesion.
    """
    check_profile(profile)
    parts = children(rng, (*_PARTS, *_DRAW))
    near = max(32, int(size * 0.42))
    same_skin = deepcopy(parts["skin"])
    skin, painted, _, _ = _paint(profile, parts, near)
    own = parts["clinic"]
    image = draw_skin(same_skin, size)
    top, left = own.integers(size // 8, size - near - size // 8, 2)
    window = image[:, top : top + near, left : left + near]
    window *= np.clip(painted / np.maximum(skin, 0.05), 0, 1.3)
    image = take_picture(add_light(add_hairs(image, own), own, rim=False), own)
    return _to_bytes(image)


def check_profile(profile: Mapping[str, str]) -> None:
    """Refuses columns and values that the checklist does not have.

    Raises:
        ValueError: names the column or value, and the nearest that exists.
    """
    for column, value in profile.items():
        if column not in VALUES:
            raise ValueError(unknown("concept", column, VALUES))
        if value not in VALUES[column]:
            raise ValueError(unknown(f"value of {column}", value, VALUES[column]))


def _paint(
    profile: Mapping[str, str], parts: Mapping[str, np.random.Generator], size: int
) -> tuple[Floats, Floats, Lesion, dict[str, Mask]]:
    """The bare skin, the skin with the lesion (both (3, size, size) in 0..1), the lesion, and the concepts' masks."""
    lesion = make_lesion(parts["lesion"], size)
    present = [column for column in _DRAW if profile.get(column, ABSENT) != ABSENT]
    layers = {column: _DRAW[column](lesion, profile[column], parts[column]) for column in present}
    density = base_pigment(parts["base"], lesion)
    for layer in layers.values():
        density = density * layer.keep + layer.melanin
    skin = draw_skin(parts["skin"], size)
    image = absorb(skin, halo(lesion, parts["base"]), BLOOD)
    image = absorb(image, density, pigment_colour(parts["base"]))
    light = (skin.mean((1, 2)) / 0.78) ** 0.5  # what is laid over the pigment lies within the same skin
    for layer in layers.values():
        for colour, coverage in layer.tints:
            image = blend(image, colour * light, coverage)
    return skin, image, lesion, {column: layer.mask() for column, layer in layers.items()}


def _to_bytes(image: Floats) -> NDArray[np.uint8]:
    """(3, H, W) in 0..1 to (H, W, 3) in 0..255."""
    return np.ascontiguousarray((image * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
