"""Drawn dermoscopic pictures: what is present lies where the masks say, and nowhere else."""

import numpy as np
import pytest

from xcoop.phantom.dermoscopy import draw_clinical, draw_dermoscopy
from xcoop.phantom.tables import VALUES, sample_uniform

PRESENT = [(concept, value) for concept, values in VALUES.items() for value in values[1:]]


def draw(profile, seed=0, size=96):
    return draw_dermoscopy(profile, np.random.default_rng(seed), size)


@pytest.mark.parametrize("size", [96, 128, 160])
def test_shapes_and_types(size):
    drawing = draw(sample_uniform(np.random.default_rng(0)), size=size)
    assert drawing.image.shape == (size, size, 3)
    assert drawing.image.dtype == np.uint8
    assert drawing.lesion.shape == (size, size)
    assert drawing.lesion.dtype == bool


def test_equal_seeds_give_equal_pictures_and_others_do_not():
    profile = sample_uniform(np.random.default_rng(4))
    first, again, other = draw(profile, 1), draw(profile, 1), draw(profile, 2)
    assert np.array_equal(first.image, again.image)
    assert all(np.array_equal(first.masks[name], again.masks[name]) for name in first.masks)
    assert not np.array_equal(first.image, other.image)


def test_exactly_the_present_concepts_have_masks():
    rng = np.random.default_rng(7)
    for seed in range(12):
        profile = sample_uniform(rng)
        drawing = draw(profile, seed)
        assert set(drawing.masks) == {concept for concept, value in profile.items() if value != "absent"}
        for name, mask in drawing.masks.items():
            assert mask.shape == (96, 96), name
            assert 20 < mask.sum() < 0.75 * mask.size, name


def test_lesions_fill_about_half_of_the_frame():
    for seed in range(20):
        lesion = draw({}, seed).lesion
        width = np.flatnonzero(lesion.any(0))
        assert 0.38 < (width[-1] - width[0]) / 96 < 0.92
        assert not lesion[0].any()
        assert not lesion[:, 0].any()


@pytest.mark.parametrize(("concept", "value"), PRESENT)
def test_adding_a_concept_changes_the_picture_where_its_mask_is(concept, value):
    rng = np.random.default_rng([len(concept), len(value)])
    others = {name: v for name, v in sample_uniform(rng).items() if name != concept}
    for seed in (3, 4):
        without, added = draw(others, seed), draw({**others, concept: value}, seed)
        change = np.abs(added.image.astype(int) - without.image.astype(int)).sum(2)
        mask = added.masks[concept]
        assert change[mask].sum() > 0.9 * change.sum()
        assert change[mask].mean() > 8
        assert {name: m.tobytes() for name, m in without.masks.items()} == {
            name: m.tobytes() for name, m in added.masks.items() if name != concept
        }


def test_values_of_a_concept_differ_from_each_other():
    for concept, values in VALUES.items():
        pictures = [draw({concept: value}, 5).image.astype(int) for value in values]
        for i, left in enumerate(pictures):
            for right in pictures[i + 1 :]:
                assert (np.abs(left - right).sum(2) > 20).mean() > 0.004, concept


def test_colours_are_what_they_stand_for():
    lesion_only, veil = draw({}, 9), draw({"blue_whitish_veil": "present"}, 9)
    mask = veil.masks["blue_whitish_veil"]
    blueness = [d.image[mask].astype(float) @ [-1, 0, 1] for d in (lesion_only, veil)]
    assert blueness[1].mean() > blueness[0].mean() + 30
    scar = draw({"regression_structures": "white areas"}, 9)
    mask = scar.masks["regression_structures"]
    assert scar.image[mask].mean() > lesion_only.image[mask].mean() + 20
    blot = draw({"pigmentation": "localized irregular"}, 9)
    mask = blot.masks["pigmentation"]
    assert blot.image[mask].mean() < lesion_only.image[mask].mean() - 20


def test_drawings_look_alike_at_every_size():
    profile = {"pigmentation": "localized irregular", "streaks": "irregular", "blue_whitish_veil": "present"}
    small, large = draw(profile, 6, 96), draw(profile, 6, 192)
    halved = large.image.reshape(96, 2, 96, 2, 3).mean((1, 3))
    assert np.abs(halved - small.image).mean() < 8
    for name, mask in small.masks.items():
        other = large.masks[name][::2, ::2]
        assert (mask & other).sum() > 0.75 * (mask | other).sum(), name


def test_unknown_concepts_and_values_are_named():
    with pytest.raises(ValueError, match="pigment_network"):
        draw({"pigment_netwrok": "typical"})
    with pytest.raises(ValueError, match="atypical"):
        draw({"pigment_network": "atypicl"})


def test_clinical_picture_is_deterministic_and_holds_the_lesion():
    profile = {"pigmentation": "diffuse regular"}
    picture = draw_clinical(profile, np.random.default_rng(1), 100)
    assert picture.shape == (100, 100, 3)
    assert np.array_equal(picture, draw_clinical(profile, np.random.default_rng(1), 100))
    assert (picture.mean(2) < 0.62 * np.median(picture.mean(2))).mean() > 0.015
