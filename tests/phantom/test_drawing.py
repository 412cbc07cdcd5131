"""Drawn images: shape, truth, determinism, and that a concept changes the image where its mask lies."""

from functools import partial

import numpy as np
import pytest

from xcoop.phantom.chest import draw_chest
from xcoop.phantom.dermoscopy import draw_clinical, draw_dermoscopy
from xcoop.phantom.tables import CHEST_TABLE, DERM_TABLE, TABLES

SIZE = 96
DRAW = {"derm": draw_dermoscopy, "chest": draw_chest}


def draw(kind, profile, seed=0, size=SIZE):
    return DRAW[kind](profile, np.random.default_rng(seed), size)


derm, chest = partial(draw, "derm"), partial(draw, "chest")


def grey(drawing):
    return drawing.image[..., 0].astype(float)


def present(table):
    return [(concept, value) for concept, values in table.values.items() for value in values[1:]]


@pytest.mark.parametrize("size", [96, 131])
@pytest.mark.parametrize("kind", DRAW)
def test_shapes_and_types_and_equal_generators_give_equal_images(kind, size):
    profile = TABLES[kind].sample_uniform(np.random.default_rng(0))
    drawing, same, other = (draw(kind, profile, seed, size) for seed in (7, 7, 8))
    assert drawing.image.shape == (size, size, 3)
    assert drawing.image.dtype == np.uint8
    for mask in (*drawing.masks.values(), drawing.lesion):
        assert (mask.shape, mask.dtype) == ((size, size), bool)
    if kind == "chest":
        assert (drawing.image == drawing.image[..., :1]).all()
        assert set(drawing.masks) == set(CHEST_TABLE.values)
    assert np.array_equal(drawing.image, same.image)
    assert all(np.array_equal(drawing.masks[name], same.masks[name]) for name in drawing.masks)
    assert not np.array_equal(drawing.image, other.image)


@pytest.mark.parametrize("kind", DRAW)
def test_masks_are_filled_exactly_when_the_concept_is_present(kind):
    for seed in range(40):
        profile = TABLES[kind].sample_uniform(np.random.default_rng([5, seed]))
        masks = {name: mask for name, mask in draw(kind, profile, seed).masks.items() if mask.any()}
        assert set(masks) == {concept for concept, value in profile.items() if value != "absent"}, seed
        if kind == "derm":
            assert all(20 < mask.sum() < 0.75 * mask.size for mask in masks.values()), seed


@pytest.mark.parametrize(
    ("kind", "profile", "size", "words"),
    [
        ("derm", {"pigment_netwrok": "typical"}, SIZE, "pigment_network"),
        ("derm", {"pigment_network": "atypicl"}, SIZE, "atypical"),
        ("chest", {"consolidations": "patchy"}, SIZE, "consolidation"),
        ("chest", {"pleural_effusion": "smal"}, SIZE, "small"),
        ("chest", {}, 16, "96"),
    ],
)
def test_unknown_names_and_tiny_images_are_refused(kind, profile, size, words):
    with pytest.raises(ValueError, match=words):
        draw(kind, profile, 0, size)


def test_lesions_fill_about_half_of_the_frame():
    for seed in range(20):
        lesion = derm({}, seed).lesion
        width = np.flatnonzero(lesion.any(0))
        assert 0.38 < (width[-1] - width[0]) / 96 < 0.92
        assert not lesion[0].any()
        assert not lesion[:, 0].any()


@pytest.mark.parametrize(("concept", "value"), present(DERM_TABLE))
def test_adding_a_derm_concept_changes_the_image_where_its_mask_is(concept, value):
    rng = np.random.default_rng([len(concept), len(value)])
    others = {name: v for name, v in DERM_TABLE.sample_uniform(rng).items() if name != concept}
    for seed in (3, 4):
        without, added = derm(others, seed), derm({**others, concept: value}, seed)
        change = np.abs(added.image.astype(int) - without.image.astype(int)).sum(2)
        mask = added.masks[concept]
        assert change[mask].sum() > 0.9 * change.sum()
        assert change[mask].mean() > 8
        assert {name: m.tobytes() for name, m in without.masks.items()} == {
            name: m.tobytes() for name, m in added.masks.items() if name != concept
        }


def test_values_of_a_concept_differ_from_each_other():
    for concept, values in DERM_TABLE.values.items():
        images = [derm({concept: value}, 5).image.astype(int) for value in values]
        for i, left in enumerate(images):
            for right in images[i + 1 :]:
                assert (np.abs(left - right).sum(2) > 20).mean() > 0.004, concept


@pytest.mark.parametrize(
    ("concept", "value", "direction", "least"),
    [
        ("blue_whitish_veil", "present", [-1, 0, 1], 30),  # bluer
        ("regression_structures", "white areas", [1 / 3, 1 / 3, 1 / 3], 20),  # paler
        ("pigmentation", "localized irregular", [-1 / 3, -1 / 3, -1 / 3], 20),  # darker
    ],
)
def test_colours_are_what_they_stand_for(concept, value, direction, least):
    plain, drawn = derm({}, 9), derm({concept: value}, 9)
    before, after = (d.image[drawn.masks[concept]].astype(float) @ direction for d in (plain, drawn))
    assert after.mean() > before.mean() + least


def test_drawings_look_alike_at_every_size():
    profile = {"pigmentation": "localized irregular", "streaks": "irregular", "blue_whitish_veil": "present"}
    small, large = derm(profile, 6, 96), derm(profile, 6, 192)
    halved = large.image.reshape(96, 2, 96, 2, 3).mean((1, 3))
    assert np.abs(halved - small.image).mean() < 8
    for name, mask in small.masks.items():
        other = large.masks[name][::2, ::2]
        assert (mask & other).sum() > 0.75 * (mask | other).sum(), name


def test_the_clinical_image_is_deterministic_and_holds_the_lesion():
    image, again = (draw_clinical({"pigmentation": "diffuse regular"}, np.random.default_rng(1), 100) for _ in range(2))
    assert image.shape == (100, 100, 3)
    assert np.array_equal(image, again)
    assert (image.mean(2) < 0.62 * np.median(image.mean(2))).mean() > 0.015


@pytest.mark.parametrize(("concept", "value"), present(CHEST_TABLE))
def test_a_chest_concept_changes_the_image_mainly_in_its_mask(concept, value):
    inside, outside = [], []
    for seed in range(6):
        drawn = chest({concept: value}, seed)
        change, mask = np.abs(grey(drawn) - grey(chest({}, seed))), drawn.masks[concept]
        inside.append(change[mask].mean())
        outside.append(change[~mask].mean())
    assert np.mean(inside) > 4
    assert np.mean(inside) > 5 * np.mean(outside)


def test_other_findings_stay_where_they_were():
    """Each concept has a generator of its own: an effusion moves no lead."""
    for seed in range(4):
        one = chest({"support_device": "ECG leads"}, seed)
        two = chest({"support_device": "ECG leads", "pleural_effusion": "small", "cardiomegaly": "present"}, seed)
        np.testing.assert_array_equal(one.masks["support_device"], two.masks["support_device"])


def test_one_patient_keeps_the_body():
    """Heart and ribs are the patient's, position and exposure the image's."""
    same = [draw_chest({}, np.random.default_rng(s), SIZE, patient=np.random.default_rng(9)) for s in (1, 2)]
    assert (same[0].lesion != chest({}, 1).lesion).any()
    assert (same[0].image != same[1].image).any()


def test_sides_and_zones_are_the_patients():
    """The patient's right is on the left of the image."""
    for seed in range(5):
        for side, half in (("right", slice(0, SIZE // 2)), ("left", slice(SIZE // 2, SIZE))):
            heights = {}
            for zone in ("upper", "lower"):
                mask = chest({"consolidation": f"{side} {zone}"}, seed).masks["consolidation"]
                assert mask[:, half].sum() > 0.9 * mask.sum()
                heights[zone] = np.nonzero(mask)[0].mean()
            assert heights["upper"] < heights["lower"] - 10


def test_signs_have_the_brightness_they_should():
    for seed in range(5):
        clear, solid = chest({}, seed), chest({"consolidation": "right lower"}, seed)
        for concept, drawn in (
            ("consolidation", solid),
            ("pleural_effusion", chest({"pleural_effusion": "large"}, seed)),
        ):
            assert (grey(drawn) - grey(clear))[drawn.masks[concept]].mean() > 8  # whiter
        tubes = chest({"consolidation": "right lower", "air_bronchograms": "present"}, seed)
        within = tubes.masks["air_bronchograms"] & solid.masks["consolidation"]
        assert within.any()
        assert grey(tubes)[within].mean() < grey(solid)[within].mean() - 3  # dark tubes in the opacity


def test_lungs_are_darker_than_heart_and_abdomen_and_longer_when_hyperinflated():
    for seed in range(8):
        drawing = chest({}, seed)
        rows = np.nonzero(drawing.lesion.any(1))[0]
        centre = grey(drawing)[rows[0] : rows[-1], SIZE // 2 - 4 : SIZE // 2 + 4]
        assert grey(drawing)[drawing.lesion].mean() < centre.mean() - 20
        assert 0.1 < drawing.lesion.mean() < 0.5
        assert chest({"hyperinflation": "present"}, seed).lesion.sum() > 1.04 * drawing.lesion.sum()
