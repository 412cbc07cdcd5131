"""Few-shot subsets, divisions and cleaning: they depend on data, shots and seed alone, and split no patient."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from xcoop.data.about import About, compare_counts
from xcoop.data.splits import (
    Item,
    Splits,
    carve,
    clean,
    few_shot,
    grouped,
    per_class,
    record,
    subsample_classes,
    three_way,
    told,
)


def items(split: str, per_label: int, labels: int = 2) -> list[Item]:
    return [
        Item(f"{split}/{label}/{n:03d}.png", label, f"class {label}", f"{split}-{label}-{n // 2}")
        for label in range(labels)
        for n in range(per_label)
    ]


def dataset(labels: int = 2) -> Splits:
    return Splits.of(items("train", 40, labels), items("val", 10, labels), items("test", 6, labels))


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_k_training_and_at_most_four_validation_shots(shots: int) -> None:
    chosen = few_shot(dataset(), shots, seed=1, salt="x")
    assert per_class(chosen.train) == {"class 0": shots, "class 1": shots}
    assert per_class(chosen.val) == dict.fromkeys(("class 0", "class 1"), min(shots, 4))
    assert chosen.test == dataset().test
    assert not {i.path for i in chosen.train} & {i.path for i in chosen.val}


def test_the_subset_depends_on_data_shots_and_seed_alone() -> None:
    first = few_shot(dataset(), 4, seed=2, salt="x")
    random.seed(99)
    np.random.seed(7)
    before = random.getstate(), np.random.get_state()[1].tolist()
    shuffled = random.Random(0)
    mixed = {split: shuffled.sample(own, len(own)) for split, own in dataset()}
    assert few_shot(Splits.of(mixed["train"], mixed["val"], mixed["test"]), 4, seed=2, salt="x") == first
    carve(dataset().train, 0.1, 0, {})
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert few_shot(dataset(), 4, 1, "x").train != first.train
    assert few_shot(dataset(), 4, 2, "y").train != first.train
    assert set(few_shot(dataset(), 2, 2, "x").train) < set(first.train)


def test_the_rules_are_pinned() -> None:
    """A change of them would change every result: it must be seen."""
    paths = [item.path for item in few_shot(dataset(), 2, seed=1, salt="x").train]
    assert paths == ["train/0/024.png", "train/0/036.png", "train/1/011.png", "train/1/039.png"]
    patients = [[item.patient for item in own] for _, own in divide(whole(5, images=1, labels=1))]
    assert patients == [["0-0", "0-2"], ["0-3"], ["0-1", "0-4"]]


def test_every_item_is_chosen_about_equally_often() -> None:
    counts = Counter(item.path for seed in range(400) for item in few_shot(dataset(), 4, seed, "x").train)
    # 400 draws at 4 / 40: mean 40, standard deviation 6
    assert len(counts) == 80
    assert 16 <= min(counts.values()) <= max(counts.values()) <= 64


def test_a_small_class_gives_all_it_has(caplog: pytest.LogCaptureFixture) -> None:
    few = Splits.of(items("train", 3), items("val", 1), items("test", 1))
    assert per_class(few_shot(few, 16, 1, "x").train) == {"class 0": 3, "class 1": 3}
    assert "class 'class 0' has only 3 of the 16 shots" in caplog.text


def test_validation_images_can_be_all_or_any_number_and_training_stays_the_same() -> None:
    usual, whole = few_shot(dataset(), 2, 1, "x"), few_shot(dataset(), 2, 1, "x", val_shots=-1)
    assert whole.val == dataset().val
    assert whole.train == usual.train
    assert set(per_class(few_shot(dataset(), 2, 1, "x", val_shots=3).val).values()) == {3}
    assert few_shot(dataset(), 2, 1, "x", val_shots=2) == usual


@pytest.mark.parametrize(
    ("labels", "which", "names"),
    [
        (5, "all", ["class 0", "class 1", "class 2", "class 3", "class 4"]),
        (5, "base", ["class 0", "class 1", "class 2"]),
        (5, "new", ["class 3", "class 4"]),
        (2, "base", ["class 0"]),
        (2, "new", ["class 1"]),
    ],
)
def test_base_and_new_classes_as_in_coop(labels: int, which: str, names: list[str]) -> None:
    chosen = subsample_classes(dataset(labels), which)
    for _, own in chosen:
        assert list(per_class(own)) == names
        assert sorted({item.label for item in own}) == list(range(len(names)))


def test_subsamples_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="only the label"):
        subsample_classes(dataset(1), "new")


def test_carving_keeps_patients_whole_and_classes_apart() -> None:
    train, val = carve(dataset().train, 0.1, 0, {})
    assert sorted([*train, *val]) == sorted(dataset().train)
    assert not {i.patient for i in train} & {i.patient for i in val}
    assert per_class(val) == {"class 0": 4, "class 1": 4}


def test_carving_follows_chains_of_patients_and_contents() -> None:
    own = [Item("0", 0, "a", "p"), Item("1", 0, "a", "p"), Item("2", 0, "a", "q"), Item("3", 0, "a", "r")]
    train, val = carve(own, 0.5, 0, {"1": "same", "2": "same"})
    assert {frozenset(i.path for i in train), frozenset(i.path for i in val)} == {frozenset("012"), frozenset("3")}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
def test_a_share_outside_0_and_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        carve(dataset().train, fraction, 0, {})


FACTS = {"dataset": "D", "task": "t", "shots": 2, "seed": 1, "source": "abc"}


def test_the_record_is_json_with_relative_paths(tmp_path: Path) -> None:
    path = record(few_shot(dataset(), 1, 1, "x"), tmp_path, FACTS, "shot_1-seed_1.json")
    assert path == tmp_path / "split_fewshot" / "shot_1-seed_1.json"
    content = json.loads(path.read_text())
    assert content["source"] == "abc"
    assert [row[1:] for row in content["train"]] == [[0, "class 0"], [1, "class 1"]]
    assert "test" not in content


def test_an_equal_record_is_left_alone_and_a_damaged_or_stale_one_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = few_shot(dataset(), 1, 1, "x")
    path = record(chosen, tmp_path, FACTS, "a.json")
    assert path
    good, before = path.read_bytes(), path.stat().st_mtime_ns
    record(chosen, tmp_path, FACTS, "a.json")
    assert path.stat().st_mtime_ns == before
    assert not caplog.text
    for damage in ("{", "", '{"train": []}', "\x00\x01"):
        path.write_text(damage)
        record(chosen, tmp_path, FACTS, "a.json")
        assert path.read_bytes() == good
        assert str(path) in caplog.text
        caplog.clear()


def test_what_is_no_record_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = few_shot(dataset(), 1, 1, "x")
    folder = tmp_path / "split_fewshot"
    folder.mkdir()
    (tmp_path / "mine").write_text("precious")
    (folder / "a.json").symlink_to(tmp_path / "mine")
    (folder / "b.json").write_text("notes")
    for name in ("a.json", "b.json"):
        assert record(chosen, tmp_path, FACTS, name) == folder / name
        assert f"kept as {folder / name}.old" in caplog.text
    assert (tmp_path / "mine").read_text() == "precious"
    assert (folder / "b.json.old").read_text() == "notes"
    assert (folder / "a.json").read_text() == (folder / "b.json").read_text()


def test_beside_read_only_data_the_record_goes_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o555)
    path = record(few_shot(dataset(), 1, 1, "x"), data, FACTS, "a.json")
    data.chmod(0o755)
    assert path
    assert tmp_path / "cache" in path.parents
    assert not list(data.iterdir())


def test_where_nothing_can_be_written_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "split_fewshot").touch()
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "split_fewshot" / "cache"))
    assert record(few_shot(dataset(), 1, 1, "x"), tmp_path, FACTS, "a.json") is None
    assert "could not be written" in caplog.text


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


def test_neither_order_nor_folders_nor_formats_count_but_the_seed_does() -> None:
    items = [Item(f"a/{n:03d}.jpg", n % 2, f"class {n % 2}") for n in range(50)]
    assert divide(random.Random(5).sample(items, len(items))) == divide(items)
    moved = [Item(f"b/c/{n:03d}.bmp", n % 2, f"class {n % 2}") for n in range(50)]
    names = [[item.path[-7:-4] for item in own] for _, own in divide(moved)]
    assert names == [[item.path[-7:-4] for item in own] for _, own in divide(items)]
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


def item(path: str, label: int = 0, patient: str = "") -> Item:
    return Item(path, label, f"class {label}", patient or path)


@pytest.mark.parametrize(
    ("train", "val", "test", "hashes", "kept", "clashes"),
    [
        ("a b", "c", "d", "a1 b2 c3 d4", "a b|c|d", ""),
        ("a b", "b c", "c", "", "a|b|c", "val-test-path train-val-path"),
        ("a e", "c f", "b d", "ax bx cy dy", "e|f|b d", "val-test-content train-test-content"),
        ("a/p b/p c/q", "d/r", "e/p", "", "c|d|e", "train-test-patient train-test-patient"),
        ("a b", "z", "c d", "ax bx cy dy", "a|z|c d", "test-test-content train-train-content"),
        ("a/ b/", "", "c/", "", "a b||c", ""),
    ],
    ids=["clean", "paths", "contents", "patients", "within a split", "unknown patients"],
)
def test_what_stands_twice_is_found_and_dropped(
    train: str, val: str, test: str, hashes: str, kept: str, clashes: str
) -> None:
    """Images are `path`, of a patient of their own, or `path/patient`; contents are `path` and a letter."""
    parts = [
        [Item(p, 0, "x", patient if bar else p) for p, bar, patient in (word.partition("/") for word in text.split())]
        for text in (train, val, test)
    ]
    splits, found = clean(Splits.of(*parts), {word[0]: word[1] for word in hashes.split()})
    assert "|".join(" ".join(item.path for item in own) for _, own in splits) == kept
    assert " ".join(f"{c.split}-{c.other_split}-{c.kind}" for c in found) == clashes
    assert all(clash.dropped == (clash.split != "test") for clash in found)


def test_the_report_gives_numbers_examples_and_contradictions() -> None:
    train = [item(f"train/{n}", label=1) for n in range(5)]
    _, clashes = clean(
        Splits.of([*train, item("k")], [item("v")], [item("t")]), {i.path: "x" for i in [*train, item("t")]}
    )
    (line,) = map(told, grouped(clashes))
    assert line.startswith("5 train images have their content in test too, left out; 5 of them under another label")
    assert "train/0 = t" in line
    assert line.endswith("...")


def test_after_cleaning_nothing_is_shared() -> None:
    rng = random.Random(0)
    for _ in range(50):
        pool = [item(f"{n}", patient=f"p{rng.randrange(30)}") for n in range(40)]
        hashes = {i.path: f"h{rng.randrange(35)}" for i in pool}
        train, val, test = (rng.sample(pool, 12) for _ in range(3))
        splits, _ = clean(Splits.of(train, val, test), hashes)
        parts = [set().union(*({i.path, i.patient, hashes[i.path]} for i in own)) for _, own in splits]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        assert splits.test == tuple(sorted(test))
