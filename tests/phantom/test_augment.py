"""Augmented pictures stay pictures, and what is known of them goes with them."""

import pytest
import torch

from xcoop.phantom.augment import augment


@pytest.mark.parametrize("kind", ["derm", "chest"])
def test_augmented_pictures_stay_pictures_and_follow_the_generator(kind):
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
