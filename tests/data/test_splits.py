"""Few-shot subsets, carving and base/new classes: they depend on data, shots and seed alone."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from xcoop.data import splits as module
from xcoop.data.items import Item, Splits, per_class
from xcoop.data.splits import carve, few_shot, record, subsample_classes


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


def test_the_subset_ignores_order_and_random_state() -> None:
    first = few_shot(dataset(), 4, seed=2, salt="x")
    random.seed(99)
    random.random()
    np.random.seed(7)
    mixed = {split: random.sample(own, len(own)) for split, own in dataset()}
    assert few_shot(Splits.of(mixed["train"], mixed["val"], mixed["test"]), 4, seed=2, salt="x") == first


def test_choosing_leaves_the_global_generators_alone() -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    few_shot(dataset(), 4, seed=2, salt="x")
    carve(dataset().train, 0.1, 0, {})
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_another_seed_or_dataset_is_another_subset() -> None:
    chosen = few_shot(dataset(), 4, 1, "x")
    assert few_shot(dataset(), 4, 2, "x").train != chosen.train
    assert few_shot(dataset(), 4, 1, "y").train != chosen.train


def test_fewer_shots_lie_within_more() -> None:
    assert set(few_shot(dataset(), 2, 1, "x").train) < set(few_shot(dataset(), 8, 1, "x").train)


def test_the_subset_is_pinned() -> None:
    """A change of the rule would change every result: it must be seen."""
    paths = [item.path for item in few_shot(dataset(), 2, seed=1, salt="x").train]
    assert paths == PINNED


PINNED = ["train/0/024.png", "train/0/036.png", "train/1/011.png", "train/1/039.png"]


def test_every_item_is_chosen_about_equally_often() -> None:
    counts = Counter(item.path for seed in range(400) for item in few_shot(dataset(), 4, seed, "x").train)
    # 400 draws at 4 / 40: mean 40, standard deviation 6
    assert len(counts) == 80
    assert 16 <= min(counts.values()) <= max(counts.values()) <= 64


def test_a_small_class_gives_all_it_has(caplog: pytest.LogCaptureFixture) -> None:
    few = Splits.of(items("train", 3), items("val", 1), items("test", 1))
    assert per_class(few_shot(few, 16, 1, "x").train) == {"class 0": 3, "class 1": 3}
    assert "class 'class 0' has only 3 of the 16 shots" in caplog.text


def test_no_shots_means_everything() -> None:
    assert few_shot(dataset(), -1, 1, "x") == dataset()


def test_validation_images_can_be_all_or_any_number_and_training_stays_the_same() -> None:
    usual, whole = few_shot(dataset(), 2, 1, "x"), few_shot(dataset(), 2, 1, "x", val_shots=-1)
    assert whole.val == dataset().val
    assert whole.train == usual.train
    assert set(per_class(few_shot(dataset(), 2, 1, "x", val_shots=3).val).values()) == {3}
    assert few_shot(dataset(), 2, 1, "x", val_shots=2) == usual
    with pytest.raises(ValueError, match=r"VAL_SHOTS must be -1 .* not -2"):
        few_shot(dataset(), 2, 1, "x", val_shots=-2)


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


def test_an_unknown_subsample_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"SUBSAMPLE_CLASSES.*'bases'.*'base'"):
        subsample_classes(dataset(), "bases")


def test_new_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="only the label"):
        subsample_classes(dataset(1), "new")


def test_carving_keeps_patients_whole_and_classes_apart() -> None:
    train, val = carve(dataset().train, 0.1, 0, {})
    assert sorted([*train, *val]) == sorted(dataset().train)
    assert not {i.patient for i in train} & {i.patient for i in val}
    assert per_class(val) == {"class 0": 4, "class 1": 4}


def test_carving_keeps_equal_contents_together() -> None:
    own = [Item(f"{n}.png", 0, "a", f"p{n}") for n in range(20)]
    hashes = {f"{n}.png": f"h{n // 5}" for n in range(20)}  # four groups of five
    train, val = carve(own, 0.1, 0, hashes)
    assert len(val) == 5
    assert not {hashes[i.path] for i in train} & {hashes[i.path] for i in val}


def test_carving_follows_chains_of_patients_and_contents() -> None:
    own = [Item("0", 0, "a", "p"), Item("1", 0, "a", "p"), Item("2", 0, "a", "q"), Item("3", 0, "a", "r")]
    train, val = carve(own, 0.5, 0, {"1": "same", "2": "same"})
    assert {frozenset(i.path for i in train), frozenset(i.path for i in val)} == {frozenset("012"), frozenset("3")}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
def test_a_share_outside_0_and_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        carve(dataset().train, fraction, 0, {})


def test_a_class_of_one_patient_stays_in_train() -> None:
    train, val = carve([Item("0", 0, "a", "p"), Item("1", 0, "a", "p")], 0.1, 0, {})
    assert len(train) == 2
    assert not val


FACTS = {"dataset": "D", "task": "t", "shots": 2, "seed": 1, "source": "abc"}


def test_the_record_is_json_with_relative_paths(tmp_path: Path) -> None:
    path = record(few_shot(dataset(), 1, 1, "x"), tmp_path, FACTS, "shot_1-seed_1.json")
    assert path == tmp_path / "split_fewshot" / "shot_1-seed_1.json"
    content = json.loads(path.read_text())
    assert content["source"] == "abc"
    assert [row[1:] for row in content["train"]] == [[0, "class 0"], [1, "class 1"]]
    assert "test" not in content


@pytest.mark.parametrize("damage", ["{", "", '{"train": []}', "\x00\x01"])
def test_a_damaged_or_stale_record_is_replaced_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = few_shot(dataset(), 1, 1, "x")
    path = record(chosen, tmp_path, FACTS, "a.json")
    assert path
    good = path.read_bytes()
    path.write_text(damage)
    record(chosen, tmp_path, FACTS, "a.json")
    assert path.read_bytes() == good
    assert str(path) in caplog.text


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


def test_an_equal_record_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = few_shot(dataset(), 1, 1, "x")
    path = record(chosen, tmp_path, FACTS, "a.json")
    assert path
    before = path.stat().st_mtime_ns
    record(chosen, tmp_path, FACTS, "a.json")
    assert path.stat().st_mtime_ns == before
    assert not caplog.text


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
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "atomic_write_text", full)
    assert record(few_shot(dataset(), 1, 1, "x"), tmp_path, FACTS, "a.json") is None
    assert "could not be written" in caplog.text
