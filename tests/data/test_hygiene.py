"""Planted leaks are found, counted, and dropped from train first, then val; test never changes."""

from __future__ import annotations

import random

from xcoop.data.items import Item, Splits, clean, grouped, told


def item(path: str, label: int = 0, patient: str = "") -> Item:
    return Item(path, label, f"class {label}", patient or path)


def paths(items: tuple[Item, ...]) -> list[str]:
    return [item.path for item in items]


def test_clean_splits_stay_as_they_are() -> None:
    splits = Splits.of([item("a"), item("b")], [item("c")], [item("d")])
    assert clean(splits, {"a": "1", "b": "2", "c": "3", "d": "4"}) == (splits, [])


def test_a_path_in_two_splits() -> None:
    splits, clashes = clean(Splits.of([item("a"), item("b")], [item("b"), item("c")], [item("c")]), {})
    assert [paths(own) for _, own in splits] == [["a"], ["b"], ["c"]]
    assert [(c.split, c.other_split, c.kind) for c in clashes] == [("val", "test", "path"), ("train", "val", "path")]


def test_a_content_in_two_splits() -> None:
    hashes = {"a": "x", "b": "x", "c": "y", "d": "y"}
    splits, clashes = clean(Splits.of([item("a"), item("e")], [item("c"), item("f")], [item("b"), item("d")]), hashes)
    assert [paths(own) for _, own in splits] == [["e"], ["f"], ["b", "d"]]
    assert {c.kind for c in clashes} == {"content"}


def test_a_patient_in_two_splits() -> None:
    train = [item("a", patient="p"), item("b", patient="p"), item("c", patient="q")]
    splits, clashes = clean(Splits.of(train, [item("d", patient="r")], [item("e", patient="p")]), {})
    assert [paths(own) for _, own in splits] == [["c"], ["d"], ["e"]]
    assert len(clashes) == 2


def test_repeats_within_a_split() -> None:
    hashes = dict.fromkeys("ab", "x") | dict.fromkeys("cd", "y")
    splits, clashes = clean(Splits.of([item("a"), item("b")], [item("z")], [item("c"), item("d")]), hashes)
    assert [paths(own) for _, own in splits] == [["a"], ["z"], ["c", "d"]]
    assert [(c.split, c.dropped) for c in clashes] == [("test", False), ("train", True)]


def test_unknown_patients_and_hashes_clash_with_nothing() -> None:
    splits = Splits.of([Item("a", 0, "x"), Item("b", 0, "x")], [], [Item("c", 0, "x")])
    assert clean(splits, {"a": "", "b": "", "c": ""}) == (splits, [])


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
