"""The drawn chest: shape, truth, determinism, and that a concept changes what its mask says."""

import numpy as np
import pytest

from xcoop.phantom.chest import draw_chest
from xcoop.phantom.chest_tables import CONCEPTS, VALUES, sample_uniform

SIZE = 96
PRESENT = [(concept, value) for concept, values in VALUES.items() for value in values[1:]]
TOGGLES = [pytest.param(concept, value, id=f"{concept}-{value}") for concept, value in PRESENT]


def draw(profile, seed, size=SIZE):
    return draw_chest(profile, np.random.default_rng(seed), size)


@pytest.mark.parametrize("size", [96, 131, 192])
def test_shapes_and_types(size):
    drawing = draw({}, 0, size)
    assert drawing.image.shape == (size, size, 3)
    assert drawing.image.dtype == np.uint8
    assert (drawing.image == drawing.image[..., :1]).all()
    assert set(drawing.masks) == set(CONCEPTS)
    assert all(mask.shape == (size, size) and mask.dtype == bool for mask in drawing.masks.values())
    assert drawing.lesion.dtype == bool


def test_masks_are_filled_exactly_when_the_concept_is_present():
    for seed in range(60):
        profile = sample_uniform(np.random.default_rng([5, seed]))
        drawing = draw(profile, seed)
        for concept, mask in drawing.masks.items():
            assert mask.any() == (profile[concept] != "absent"), (seed, concept)


@pytest.mark.parametrize(("concept", "value"), TOGGLES)
def test_a_concept_changes_the_picture_mainly_in_its_mask(concept, value):
    inside, outside = [], []
    for seed in range(6):
        without, drawn = draw({}, seed), draw({concept: value}, seed)
        change = np.abs(drawn.image[..., 0].astype(float) - without.image[..., 0])
        mask = drawn.masks[concept]
        inside.append(change[mask].mean())
        outside.append(change[~mask].mean())
    assert np.mean(inside) > 4
    assert np.mean(inside) > 5 * np.mean(outside)


def test_other_findings_stay_where_they_were():
    """Each concept has a generator of its own: an effusion moves no lead."""
    for seed in range(4):
        one = draw({"support_device": "ECG leads"}, seed)
        two = draw({"support_device": "ECG leads", "pleural_effusion": "small", "cardiomegaly": "present"}, seed)
        np.testing.assert_array_equal(one.masks["support_device"], two.masks["support_device"])


def test_equal_generators_give_equal_pictures():
    profile = sample_uniform(np.random.default_rng(3))
    one, two, other = draw(profile, 7), draw(profile, 7), draw(profile, 8)
    np.testing.assert_array_equal(one.image, two.image)
    assert all((one.masks[concept] == two.masks[concept]).all() for concept in CONCEPTS)
    assert (one.image != other.image).any()


def test_one_patient_keeps_the_body():
    """Heart and ribs are the patient's, position and exposure the picture's."""
    same = [draw_chest({}, np.random.default_rng(s), SIZE, patient=np.random.default_rng(9)) for s in (1, 2)]
    alone = draw({}, 1)
    assert (same[0].lesion != alone.lesion).any()
    assert (same[0].image != same[1].image).any()


def test_sides_are_the_patients():
    """The patient's right is on the left of the picture."""
    for seed in range(5):
        for side, half in (("right", slice(0, SIZE // 2)), ("left", slice(SIZE // 2, SIZE))):
            for zone in ("upper", "lower"):
                mask = draw({"consolidation": f"{side} {zone}"}, seed).masks["consolidation"]
                assert mask[:, half].sum() > 0.9 * mask.sum()


def test_upper_lies_above_lower():
    def height(value):
        mask = draw({"consolidation": value}, 4).masks["consolidation"]
        return np.nonzero(mask)[0].mean()

    assert height("right upper") < height("right lower") - 10
    assert height("left upper") < height("left lower") - 10


def test_signs_have_the_brightness_they_should():
    for seed in range(5):
        clear = draw({}, seed).image[..., 0].astype(float)
        for concept, value in (("consolidation", "right lower"), ("pleural_effusion", "large")):
            drawn = draw({concept: value}, seed)
            assert (drawn.image[..., 0] - clear)[drawn.masks[concept]].mean() > 8  # whiter
        solid = draw({"consolidation": "right lower"}, seed)
        tubes = draw({"consolidation": "right lower", "air_bronchograms": "present"}, seed)
        within = tubes.masks["air_bronchograms"] & solid.masks["consolidation"]
        assert within.any()
        core = tubes.image[..., 0].astype(float)[within]
        assert core.mean() < solid.image[..., 0][within].mean() - 3  # dark tubes in the opacity


def test_lungs_are_darker_than_heart_and_abdomen():
    for seed in range(8):
        drawing = draw({}, seed)
        grey = drawing.image[..., 0].astype(float)
        rows = np.nonzero(drawing.lesion.any(1))[0]
        centre = grey[rows[0] : rows[-1], SIZE // 2 - 4 : SIZE // 2 + 4]
        assert grey[drawing.lesion].mean() < centre.mean() - 20
        assert 0.1 < drawing.lesion.mean() < 0.5


def test_hyperinflation_lengthens_the_lungs():
    for seed in range(4):
        normal, full = draw({}, seed), draw({"hyperinflation": "present"}, seed)
        assert full.lesion.sum() > 1.04 * normal.lesion.sum()


@pytest.mark.parametrize(
    ("profile", "words"),
    [({"consolidations": "patchy"}, "consolidation"), ({"pleural_effusion": "smal"}, "small")],
)
def test_unknown_names_are_refused_with_the_nearest(profile, words):
    with pytest.raises(ValueError, match=words):
        draw(profile, 0)


def test_tiny_pictures_are_refused():
    with pytest.raises(ValueError, match="96"):
        draw({}, 0, 16)
