"""Phantoms are drawn once, whole or not at all, and read as what they stand for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tree_tools import load
from trees_derm7pt import derm7pt

from xcoop.data.dataset import SEED
from xcoop.datasets.derm7pt import CONCEPTS
from xcoop.phantom.layouts import VERSION
from xcoop.utils.files import make_folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces the drawing by a tiny tree; gives the numbers of cases that were asked for."""
    from xcoop.datasets import phantom

    asked: list[int] = []

    def draw(_: object, out: Path, cases: int) -> None:
        asked.append(cases)

        def write(folder: Path) -> int:
            derm7pt(folder)
            (folder / "derm7pt" / "release_v0").rename(folder / "release_v0")
            return sum(path.is_file() for path in folder.rglob("*"))

        make_folder(out, write)

    monkeypatch.setattr(phantom.Phantom, "draw", draw)
    return asked


def test_a_phantom_is_drawn_once_below_the_root(root: Path, drawn: list[int]) -> None:
    for _ in range(2):
        dataset = load("phantom", root, CASES=42)
    assert drawn == [42]
    assert Path(dataset.dataset_dir).parent.parent == root
    assert dataset.is_phantom
    assert dataset.concept_bank == "phantom"


def test_the_five_groups_have_a_phantom_of_their_own(root: Path, drawn: list[int]) -> None:
    dataset = load("phantom", root, CASES=42, TASK="five-groups")
    assert len(dataset.classnames) == 5
    assert Path(dataset.dataset_dir).parent.name.endswith("-real")


def test_without_a_root_or_below_a_closed_one_it_lies_in_the_cache(root: Path, drawn: list[int]) -> None:
    root.mkdir(mode=0o555)
    for place in ("", root):
        dataset = load("phantom", place, CASES=42)
        assert root.parent / "cache" in Path(dataset.dataset_dir).parents


def test_at_a_path_of_its_own(root: Path, drawn: list[int]) -> None:
    dataset = load("phantom", root, CASES=42, PATH=str(root / "mine"))
    assert Path(dataset.dataset_dir) == root / "mine" / "release_v0"
    (root / "other").mkdir()
    (root / "other" / "thesis.txt").write_text("do not touch")
    with pytest.raises(FileNotFoundError, match="other"):
        load("phantom", root, PATH=str(root / "other"))


def test_two_at_once_both_read_it(root: Path, drawn: list[int]) -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(len(load("phantom", root).train_x))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [12] * 3
    assert [path.name.startswith("phantom-derm7pt-1200-") for path in root.iterdir()] == [True]


def test_a_failure_while_drawing_is_not_hidden(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xcoop.datasets import phantom

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(phantom.Phantom, "draw", full)
    with pytest.raises(OSError, match="disk full"):
        load("phantom", root)


def test_a_negative_number_of_cases_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"DATASET.CASES is -5; it must be a whole number of at least 0"):
        load("phantom", root, CASES=-5)


def test_what_is_drawn_is_what_is_read_with_its_checklist(root: Path) -> None:
    dataset = load("phantom", root, CASES=24)
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (10, 4, 10)
    assert dataset.classnames == ["nevus", "melanoma"]
    assert dataset.patients
    assert len(set(dataset.patients.values())) == 24
    labels = dataset.concept_labels(Path(dataset.dataset_dir))
    assert len(labels) == 24
    assert {frozenset(own) for own in labels.values()} == {frozenset(CONCEPTS)}
    assert {own["blue_whitish_veil"] for own in labels.values()} == {"absent", "present"}


def test_a_chest_phantom_is_drawn_once_and_read_as_the_archive_is(root: Path) -> None:
    dataset = load("phantom_chest", root, CASES=60)
    folder = Path(dataset.dataset_dir)
    assert folder == root / f"phantom-chest-60-{SEED}-v{VERSION}" / "chest_xray"
    written = folder / "test" / "NORMAL"
    before = {path.name: path.stat().st_mtime_ns for path in written.iterdir()}
    again = load("phantom_chest", root, CASES=60, TASK="three-class")
    assert {path.name: path.stat().st_mtime_ns for path in written.iterdir()} == before
    assert dataset.is_phantom
    assert dataset.classnames == ["normal", "pneumonia"]
    assert again.classnames == ["normal", "bacterial pneumonia", "viral pneumonia"]
    assert len(dataset.train_x) + len(dataset.val) + len(dataset.test) == 60 - 16  # the archive's val is left alone
