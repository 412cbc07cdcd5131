"""Whole sets are divided by patient and content, stratified, and alike wherever they lie."""

from __future__ import annotations

import random
import time

import pytest

from xcoop.data.about import About, compare_counts
from xcoop.data.items import Item, Splits, per_class
from xcoop.data.splits import three_way


def whole(per_label: int = 20, images: int = 2, labels: int = 2) -> list[Item]:
    """`images` of each of `per_label` patients of each label."""
    return [
        Item(f"{label}/{n:03d}-{image}.png", label, f"class {label}", f"{label}-{n}")
        for label in range(labels)
        for n in range(per_label)
        for image in range(images)
    ]


def divide(items: list[Item], seed: int = 0, hashes: dict[str, str] | None = None) -> Splits:
    return three_way(items, seed, 0.3, 0.1, hashes or {})


def test_the_shares_hold_in_every_class() -> None:
    splits = divide(whole())
    assert per_class(splits.train) == {"class 0": 24, "class 1": 24}
    assert per_class(splits.val) == {"class 0": 4, "class 1": 4}
    assert per_class(splits.test) == {"class 0": 12, "class 1": 12}
    assert sorted(splits.all()) == sorted(whole())
    assert splits.divided


@pytest.mark.parametrize(
    ("count", "sizes"), [(10, (6, 1, 3)), (7, (3, 1, 3)), (3, (1, 1, 1)), (2, (1, 0, 1)), (1, (1, 0, 0))]
)
def test_small_classes_give_at_least_their_share_and_keep_one(count: int, sizes: tuple[int, ...]) -> None:
    splits = divide(whole(count, images=1, labels=1))
    assert tuple(len(items) for _, items in splits) == sizes


def test_no_patient_and_no_content_is_in_two_splits() -> None:
    items = whole(30, images=3)
    hashes = {item.path: f"h{n // 7}" for n, item in enumerate(items) if n % 3 == 0}
    seen: set[str] = set()
    for _, own in divide(items, hashes=hashes):
        keys = {item.patient for item in own} | {hashes[item.path] for item in own if item.path in hashes}
        assert keys
        assert not keys & seen
        seen |= keys


def test_neither_order_nor_random_state_nor_folders_nor_formats_count() -> None:
    items = [Item(f"a/{n:03d}.jpg", n % 2, f"class {n % 2}") for n in range(50)]
    random.seed(5)
    assert divide(random.sample(items, len(items))) == divide(items)
    moved = [Item(f"b/c/{n:03d}.bmp", n % 2, f"class {n % 2}") for n in range(50)]
    names = [[item.path[-7:-4] for item in own] for _, own in divide(moved)]
    assert names == [[item.path[-7:-4] for item in own] for _, own in divide(items)]


def test_the_division_is_pinned() -> None:
    """A change of the rule would change every result: it must be seen."""
    splits = divide(whole(5, images=1, labels=1))
    assert [[item.patient for item in own] for _, own in splits] == PINNED


PINNED: list[list[str]] = [["0-0", "0-2"], ["0-3"], ["0-1", "0-4"]]


def test_another_seed_is_another_division() -> None:
    assert divide(whole(), seed=1).test != divide(whole(), seed=2).test


@pytest.mark.parametrize(("test", "val"), [(0.0, 0.1), (0.3, 0.0), (0.5, 0.5), (1.2, 0.1), (-0.1, 0.1)])
def test_shares_that_leave_nothing_are_refused(test: float, val: float) -> None:
    with pytest.raises(ValueError, match="below 1 together"):
        three_way(whole(), 0, test, val, {})


def test_a_hundred_thousand_images_take_seconds() -> None:
    items = whole(25_000, images=2)
    hashes = {item.path: f"h{n // 3}" for n, item in enumerate(items)}
    start = time.process_time()
    splits = divide(items, hashes=hashes)
    assert time.process_time() - start < 20  # quadratic work would take hours
    assert len(splits.all()) == 100_000


def test_published_counts_of_the_whole_set_are_compared_with_all_splits() -> None:
    facts = About("t", "h", "l", "c", "l", "", {"x": {"all": {"class 0": 40, "class 1": 41}}})
    assert compare_counts(facts, "x", Splits.undivided(whole())) == [
        "all has 40 class 0, 40 class 1; published: 40 class 0, 41 class 1"
    ]
