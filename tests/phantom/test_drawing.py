"""Drawn images: shape, truth, determinism, and that a concept changes the image where its mask lies."""

import numpy as np
import pytest

from xcoop.phantom.chest import draw_chest
from xcoop.phantom.dermoscopy import draw_clinical, draw_dermoscopy
from xcoop.phantom.tables import CHEST_TABLE, DERM_TABLE, TABLES

SIZE = 96
DRAW = {"derm": draw_dermoscopy, "chest": draw_chest}


def draw(kind, profile, seed=0, size=SIZE):
    return DRAW[kind](profile, np.random.default_rng(seed), size)


def derm(profile, seed=0, size=SIZE):
    return draw("derm", profile, seed, size)


def chest(profile, seed=0, size=SIZE):
    return draw("chest", profile, seed, size)


def present(table):
    return [(concept, value) for concept, values in table.values.items() for value in values[1:]]


@pytest.mark.parametrize("size", [96, 131, 192])
@pytest.mark.parametrize("kind", DRAW)
def test_shapes_and_types(kind, size):
    drawing = draw(kind, TABLES[kind].sample_uniform(np.random.default_rng(0)), 0, size)
    assert drawing.image.shape == (size, size, 3)
    assert drawing.image.dtype == np.uint8
    assert all(mask.shape == (size, size) and mask.dtype == bool for mask in drawing.masks.values())
    assert drawing.lesion.shape == (size, size)
    assert drawing.lesion.dtype == bool
    if kind == "chest":
        assert (drawing.image == drawing.image[..., :1]).all()
        assert set(drawing.masks) == set(CHEST_TABLE.concepts)


@pytest.mark.parametrize("kind", DRAW)
def test_equal_generators_give_equal_images_and_others_do_not(kind):
    profile = TABLES[kind].sample_uniform(np.random.default_rng(3))
    one, two, other = draw(kind, profile, 7), draw(kind, profile, 7), draw(kind, profile, 8)
    assert np.array_equal(one.image, two.image)
    assert all(np.array_equal(one.masks[name], two.masks[name]) for name in one.masks)
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("kind", DRAW)
def test_masks_are_filled_exactly_when_the_concept_is_present(kind):
    for seed in range(40):
        profile = TABLES[kind].sample_uniform(np.random.default_rng([5, seed]))
        masks = {name: mask for name, mask in draw(kind, profile, seed).masks.items() if mask.any()}
        assert set(masks) == {concept for concept, value in profile.items() if value != "absent"}, seed
        if kind == "derm":
            assert all(20 < mask.sum() < 0.75 * mask.size for mask in masks.values()), seed


@pytest.mark.parametrize(
    ("kind", "profile", "words"),
    [
        ("derm", {"pigment_netwrok": "typical"}, "pigment_network"),
        ("derm", {"pigment_network": "atypicl"}, "atypical"),
        ("chest", {"consolidations": "patchy"}, "consolidation"),
        ("chest", {"pleural_effusion": "smal"}, "small"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(kind, profile, words):
    with pytest.raises(ValueError, match=words):
        draw(kind, profile)


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


def test_colours_are_what_they_stand_for():
    lesion_only, veil = derm({}, 9), derm({"blue_whitish_veil": "present"}, 9)
    mask = veil.masks["blue_whitish_veil"]
    blueness = [d.image[mask].astype(float) @ [-1, 0, 1] for d in (lesion_only, veil)]
    assert blueness[1].mean() > blueness[0].mean() + 30
    scar = derm({"regression_structures": "white areas"}, 9)
    mask = scar.masks["regression_structures"]
    assert scar.image[mask].mean() > lesion_only.image[mask].mean() + 20
    blot = derm({"pigmentation": "localized irregular"}, 9)
    mask = blot.masks["pigmentation"]
    assert blot.image[mask].mean() < lesion_only.image[mask].mean() - 20


def test_drawings_look_alike_at_every_size():
    profile = {"pigmentation": "localized irregular", "streaks": "irregular", "blue_whitish_veil": "present"}
    small, large = derm(profile, 6, 96), derm(profile, 6, 192)
    halved = large.image.reshape(96, 2, 96, 2, 3).mean((1, 3))
    assert np.abs(halved - small.image).mean() < 8
    for name, mask in small.masks.items():
        other = large.masks[name][::2, ::2]
        assert (mask & other).sum() > 0.75 * (mask | other).sum(), name


def test_the_clinical_image_is_deterministic_and_holds_the_lesion():
    profile = {"pigmentation": "diffuse regular"}
    image = draw_clinical(profile, np.random.default_rng(1), 100)
    assert image.shape == (100, 100, 3)
    assert np.array_equal(image, draw_clinical(profile, np.random.default_rng(1), 100))
    assert (image.mean(2) < 0.62 * np.median(image.mean(2))).mean() > 0.015


@pytest.mark.parametrize(("concept", "value"), present(CHEST_TABLE))
def test_a_chest_concept_changes_the_image_mainly_in_its_mask(concept, value):
    inside, outside = [], []
    for seed in range(6):
        without, drawn = chest({}, seed), chest({concept: value}, seed)
        change = np.abs(drawn.image[..., 0].astype(float) - without.image[..., 0])
        mask = drawn.masks[concept]
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
    alone = chest({}, 1)
    assert (same[0].lesion != alone.lesion).any()
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
        clear = chest({}, seed).image[..., 0].astype(float)
        for concept, value in (("consolidation", "right lower"), ("pleural_effusion", "large")):
            drawn = chest({concept: value}, seed)
            assert (drawn.image[..., 0] - clear)[drawn.masks[concept]].mean() > 8  # whiter
        solid = chest({"consolidation": "right lower"}, seed)
        tubes = chest({"consolidation": "right lower", "air_bronchograms": "present"}, seed)
        within = tubes.masks["air_bronchograms"] & solid.masks["consolidation"]
        assert within.any()
        core = tubes.image[..., 0].astype(float)[within]
        assert core.mean() < solid.image[..., 0][within].mean() - 3  # dark tubes in the opacity


def test_lungs_are_darker_than_heart_and_abdomen():
    for seed in range(8):
        drawing = chest({}, seed)
        grey = drawing.image[..., 0].astype(float)
        rows = np.nonzero(drawing.lesion.any(1))[0]
        centre = grey[rows[0] : rows[-1], SIZE // 2 - 4 : SIZE // 2 + 4]
        assert grey[drawing.lesion].mean() < centre.mean() - 20
        assert 0.1 < drawing.lesion.mean() < 0.5


def test_hyperinflation_lengthens_the_lungs():
    for seed in range(4):
        normal, full = chest({}, seed), chest({"hyperinflation": "present"}, seed)
        assert full.lesion.sum() > 1.04 * normal.lesion.sum()


def test_tiny_chests_are_refused():
    with pytest.raises(ValueError, match="96"):
        chest({}, 0, 16)
