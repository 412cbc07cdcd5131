"""Corpora: streams that are never shared, drawings that are kept, and augmentations that keep the truth."""

import numpy as np
import pytest
import torch

from xcoop.phantom import corpus as corpus_module
from xcoop.phantom.corpus import GROUP, SPARSE, UNIFORM, Case, augment, draw_case, draw_corpus
from xcoop.phantom.dermoscopy import draw_dermoscopy
from xcoop.phantom.tables import DERM_TABLE, terms


def test_purposes_kinds_and_seeds_never_share_a_stream():
    streams = [
        tuple(Case(kind, purpose, seed, index, 48, concepts).rng().integers(0, 2**62, 2).tolist())
        for kind in ("derm", "chest")
        for purpose in ("pretrain", "validate", "probe")
        for seed in (0, 1)
        for index in (0, 1)
        for concepts in (GROUP, UNIFORM, SPARSE)
    ]
    assert len(set(streams)) == len(streams)


def test_what_was_drawn_is_found_again(tmp_path, monkeypatch):
    drawn = draw_corpus("derm", 7, "test", 1, 32, folder=tmp_path)
    monkeypatch.setattr(corpus_module, "draw_cases", None)
    again = draw_corpus("derm", 7, "test", 1, 32, folder=tmp_path)
    assert np.array_equal(again.images, drawn.images)
    assert np.array_equal(again.places, drawn.places)
    assert (again.profiles, again.groups) == (drawn.profiles, drawn.groups)


def test_a_corpus_follows_its_mix_and_knows_its_truth():
    corpus = draw_corpus("chest", 10, "test", 1, 64, (GROUP, UNIFORM))
    assert [group is None for group in corpus.groups] == [False, True] * 5
    for row, profile in zip(corpus.truth(), corpus.profiles, strict=True):
        assert row.tolist() == [term.true_of(profile) for term in terms("chest")]


def test_sparse_cases_show_fewer_concepts_than_uniform_ones():
    present = {}
    for how in (SPARSE, UNIFORM):
        profiles = [draw_case(Case("derm", "test", 1, i, 16, how))[2] for i in range(60)]
        present[how] = np.mean([value != "absent" for profile in profiles for value in profile.values()])
    assert present[SPARSE] == pytest.approx(0.4, abs=0.08)  # 420 draws: 0.024 is one standard deviation
    assert present[UNIFORM] > 0.6


def test_the_places_are_what_the_masks_cover():
    case = Case("derm", "test", 1, 3, 32, UNIFORM, grid=4)
    _, places, profile, _ = draw_case(case)
    again = case.rng()
    drawing = draw_dermoscopy(DERM_TABLE.sample_uniform(again), again, 48)
    for concept, grid in zip(DERM_TABLE.values, places, strict=True):
        assert grid.shape == (4, 4)
        assert grid.any() == (profile[concept] != "absent")
        if grid.any():
            assert grid[1, 2] == round(255 * float(drawing.masks[concept][12:24, 24:36].mean()))


@pytest.mark.parametrize("kind", ["derm", "chest"])
def test_augmented_images_stay_images_and_follow_the_generator(kind):
    pixels = torch.rand(4, 3, 16, 16)
    changed, again = (
        [augment(kind, pixels, pixels[:, :1], torch.Generator().manual_seed(seed))[0] for seed in range(20)]
        for _ in range(2)
    )
    assert all(torch.equal(one, same) for one, same in zip(changed, again, strict=True))
    assert sum(not torch.equal(one, pixels) for one in changed) >= 8
    for one in changed:
        assert one.shape == pixels.shape
        assert float(one.min()) >= 0
        assert float(one.max()) <= 1


def test_a_chest_is_never_mirrored():
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[..., :16] = 1.0
    for seed in range(30):
        changed, _ = augment("chest", pixels, pixels[:, :1], torch.Generator().manual_seed(seed))
        assert changed[..., 2:12].mean() > changed[..., 20:30].mean()


@pytest.mark.parametrize("kind", ["derm", "chest"])
def test_the_places_go_where_the_pixels_go(kind):
    """A bright square on black, whose place is told at half the resolution."""
    pixels = torch.zeros(2, 3, 32, 32)
    pixels[0, :, 4:12, 8:24] = pixels[1, :, 16:28, 4:8] = 1.0
    places = torch.nn.functional.avg_pool2d(pixels[:, :1], 2)
    moved = 0
    for seed in range(40):
        changed, gone = augment(kind, pixels, places, torch.Generator().manual_seed(seed))
        moved += not torch.equal(gone, places)
        at_half = torch.nn.functional.avg_pool2d(changed.mean(dim=1, keepdim=True), 2)
        inside, outside = at_half[gone > 0.9], at_half[gone < 0.1]
        assert inside.mean() > outside.mean() + 0.3
    assert moved >= 3
