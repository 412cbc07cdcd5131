"""Draws one chest radiograph of the phantom from its concepts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xcoop.names import unknown
from xcoop.phantom import chest_bones as bones
from xcoop.phantom import chest_film as film
from xcoop.phantom import chest_findings as findings
from xcoop.phantom.chest_anatomy import Anatomy, air, body, make_anatomy, vessels
from xcoop.phantom.chest_findings import Finding, Places
from xcoop.phantom.chest_frame import make_frame, smooth_noise
from xcoop.phantom.chest_tables import ABSENT, CONCEPTS, VALUES
from xcoop.phantom.drawing import Drawing

# Each part of the picture has a generator of its own, so that switching a concept leaves the rest as it was.
_PATIENT = ("shape", "body", "bones", "vessels")
_PARTS = (*_PATIENT, "frame", "places", "film", "marks", *CONCEPTS)


def draw_chest(
    profile: Mapping[str, str],
    rng: np.random.Generator,
    size: int = 192,
    patient: np.random.Generator | None = None,
) -> Drawing:
    """Draws one child's chest, seen from the front, as a square picture.

    Args:
        profile: the value of each concept of `chest_tables.VALUES`; concepts left out are absent.
        rng: decides all that the concepts leave open. One number of it seeds each part of the picture, so two
            calls with equal generators and profiles that differ in one concept differ in that concept only.
        size: side in pixels; 96 to 256 works well.
        patient: decides the body instead of `rng`, for several pictures of one patient.

    Returns:
        The picture (size, size, 3) uint8 with three equal channels, a mask for each concept (empty if absent), and the
        lung fields as `lesion`.

    Raises:
        ValueError: an unknown concept or value, or a size under 48.
    """
    values = _checked(profile)
    if size < 48:
        raise ValueError(f"a chest of {size} pixels shows nothing; 96 to 256 works well")
    streams = _streams(_PARTS, rng)
    if patient is not None:
        streams.update(_streams(_PATIENT, patient))
    anatomy = _patient(values, streams, size)
    found = _findings(anatomy, values, streams)
    grey = film.expose(_density(anatomy, found, streams), streams["film"])
    picture = film.finish(grey, streams["marks"])
    return Drawing(np.repeat(picture[:, :, None], 3, axis=2), _masks(anatomy, values, found), anatomy.lung > 0.5)


def _streams(parts: tuple[str, ...], rng: np.random.Generator) -> dict[str, np.random.Generator]:
    seeds = rng.integers(0, 2**63, size=len(parts), dtype=np.int64)
    return {part: np.random.default_rng(seed) for part, seed in zip(parts, seeds.tolist(), strict=True)}


def _checked(profile: Mapping[str, str]) -> dict[str, str]:
    for concept, value in profile.items():
        if concept not in VALUES:
            raise ValueError(unknown("chest concept", concept, CONCEPTS))
        if value not in VALUES[concept]:
            raise ValueError(unknown(f"value of {concept}", value, VALUES[concept]))
    return {concept: profile.get(concept, ABSENT) for concept in CONCEPTS}


def _patient(values: Mapping[str, str], streams: Mapping[str, np.random.Generator], size: int) -> Anatomy:
    flatten = streams["hyperinflation"].uniform(0.75, 1.0) if values["hyperinflation"] != ABSENT else 0.0
    enlarge = streams["cardiomegaly"].uniform(1.3, 1.5) if values["cardiomegaly"] != ABSENT else 1.0
    return make_anatomy(make_frame(size, streams["frame"]), streams["shape"], flatten, enlarge)


def _findings(
    anatomy: Anatomy, values: Mapping[str, str], streams: Mapping[str, np.random.Generator]
) -> dict[str, Finding]:
    """The concepts that are present and that are not part of the anatomy."""
    places = findings.make_places(anatomy, values["consolidation"], streams["places"])
    return {
        concept: _find(concept, anatomy, values, places, streams[concept])
        for concept in CONCEPTS
        if values[concept] != ABSENT and concept not in ("hyperinflation", "cardiomegaly")
    }


def _find(
    concept: str, anatomy: Anatomy, values: Mapping[str, str], places: Places, rng: np.random.Generator
) -> Finding:
    value = values[concept]
    if concept == "consolidation":
        return findings.consolidation(anatomy, value, places, values["obscured_border"] == ABSENT, rng)
    if concept == "air_bronchograms":
        return findings.air_bronchograms(anatomy, places, rng)
    if concept == "pleural_effusion":
        return findings.pleural_effusion(anatomy, value, places, rng)
    if concept == "interstitial_opacity":
        return findings.interstitial_opacity(anatomy, rng)
    if concept == "obscured_border":
        return findings.obscured_border(anatomy, value, places, rng)
    if concept == "peribronchial_thickening":
        return findings.peribronchial_thickening(anatomy, rng)
    return findings.support_device(anatomy, value, rng)


def _density(anatomy: Anatomy, found: Mapping[str, Finding], streams: Mapping[str, np.random.Generator]) -> np.ndarray:
    """Adds up what the beam meets: tissue, less the air that is left in the lungs, bones, vessels, lines."""
    rng, size = streams["body"], anatomy.frame.size
    tissue = body(anatomy, rng)
    inside = np.minimum(tissue * 3, 1)
    left = np.ones_like(tissue)
    for finding in found.values():
        left = left * (1 - finding.fill)
    lungs = air(anatomy) * left
    grain = smooth_noise(rng, 26, size) * 0.6 + smooth_noise(rng, 48, size) * 0.4
    texture = rng.uniform(0.012, 0.03) * grain
    trunk = streams["vessels"].uniform(0.06, 0.12) * vessels(anatomy, streams["vessels"])
    density = tissue + (0.015 * smooth_noise(rng, 6, size) + 0.3 * texture) * inside
    density = density - rng.uniform(0.23, 0.36) * lungs + (trunk + texture) * lungs
    density = density + _skeleton(anatomy, streams["bones"]) * inside
    density = density - rng.uniform(0.05, 0.1) * bones.trachea(anatomy, rng) - 0.16 * film.bowel_gas(anatomy, rng)
    for finding in found.values():
        density = density + finding.lines
    return np.maximum(density, 0).astype(np.float32)


def _skeleton(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    strong = rng.uniform(0.75, 1.25)
    parts = bones.ribs(anatomy, rng) + bones.spine(anatomy, rng) + bones.clavicles(anatomy, rng)
    return strong * (parts + bones.shoulders(anatomy, rng))


def _masks(anatomy: Anatomy, values: Mapping[str, str], found: Mapping[str, Finding]) -> dict[str, np.ndarray]:
    """Where each concept lies; one that is hidden to the last pixel marks the lungs."""
    masks = {concept: np.zeros(anatomy.lung.shape, dtype=bool) for concept in CONCEPTS}
    for concept, finding in found.items():
        masks[concept] = finding.mask if finding.mask.any() else anatomy.lung > 0.5
    if values["hyperinflation"] != ABSENT:
        masks["hyperinflation"] = (anatomy.lung > 0.5) | (np.abs(anatomy.to_dome) < 0.12) & (anatomy.to_wall > 0)
    if values["cardiomegaly"] != ABSENT:
        low = max(anatomy.dome) + 0.12
        masks["cardiomegaly"] = (anatomy.to_heart < 0.03) & (anatomy.frame.y > -0.15) & (anatomy.frame.y < low)
    return masks
