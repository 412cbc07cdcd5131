"""Derm7pt: groups, row positions, names in any case, and the phantom that stands in for it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tree_tools import edit, load
from trees_derm7pt import DIAGNOSES, derm7pt

from xcoop.data.dataset import PHANTOM_MARK
from xcoop.datasets.derm7pt import CONCEPTS, group_of
from xcoop.phantom.layouts import VERSION
from xcoop.utils.files import make_folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("diagnosis", "group"),
    [
        ("melanoma (less than 0.76 mm)", "MEL"),
        ("Melanoma", "MEL"),
        ("melanoma metastasis", "MEL"),
        ("melanosis", "MISC"),
        ("reed or spitz nevus", "NEV"),
        (" clark  nevus ", "NEV"),
        ("basal cell carcinoma", "BCC"),
        ("seborrheic keratosis", "SK"),
        ("vascular lesion", "MISC"),
        ("something new", None),
    ],
)
def test_the_group_of_a_diagnosis(diagnosis: str, group: str | None) -> None:
    assert group_of(diagnosis) == group


def number_of(impath: str) -> int:
    return int(Path(impath).stem[3:])


def test_indexes_are_row_positions_not_case_numbers(root: Path) -> None:
    derm7pt(root)
    dataset = load("derm7pt", root)
    labels = {number_of(item.impath): item.label for item in dataset.test}
    assert labels == {n: int("melanoma" in DIAGNOSES[n % 7]) for n in range(28, 42) if n % 7 < 4}


def test_the_tasks_keep_all_their_groups(root: Path) -> None:
    derm7pt(root)
    assert len(load("derm7pt", root, TASK="mel-vs-rest").train_x) == 21
    five = load("derm7pt", root, TASK="five-groups")
    assert {DIAGNOSES[number_of(item.impath) % 7]: item.label for item in five.train_x} == {
        "basal cell carcinoma": 0,
        "clark nevus": 1,
        "blue nevus": 1,
        "melanoma (in situ)": 2,
        "melanoma metastasis": 2,
        "melanosis": 3,
        "seborrheic keratosis": 4,
    }


def test_the_published_counts_add_up() -> None:
    from xcoop.data.about import about

    counts = about("derm7pt").counts
    totals = {task: [sum(own.values()) for own in splits.values()] for task, splits in counts.items()}
    assert totals == {"mel-vs-nev": [346, 161, 320], "mel-vs-rest": [413, 203, 395], "five-groups": [413, 203, 395]}


@pytest.mark.parametrize("below", ["", "derm7pt", "derm7pt/release_v0"])
def test_accepted_places(root: Path, below: str) -> None:
    derm7pt(root)
    assert len(load("derm7pt", root / below).train_x) == 12
    assert len(load("derm7pt", Path("nowhere"), PATH=str(root / "derm7pt")).train_x) == 12


def test_a_case_in_two_splits_is_dropped_from_train(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = derm7pt(root)
    edit(folder / "meta/meta.csv", ",0,", ",28,")  # the first training case is the first test case's patient
    dataset = load("derm7pt", root)
    assert 0 not in {number_of(item.impath) for item in dataset.train_x}
    assert len(dataset.test) == 8
    assert "1 train images have their patient in test too, left out" in caplog.text


def test_a_copied_image_is_dropped_from_train(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = derm7pt(root) / "images" / "NEL"
    (images / "Nel001.jpg").write_bytes((images / "Nel029.jpg").read_bytes())
    assert 1 not in {number_of(item.impath) for item in load("derm7pt", root).train_x}
    assert "1 train images have their content in test too" in caplog.text


def test_patients_are_the_cases(root: Path) -> None:
    derm7pt(root)
    dataset = load("derm7pt", root)
    assert dataset.patients is not None
    assert all(dataset.patients[item.impath] == str(number_of(item.impath)) for item in dataset.test)


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


def test_what_is_drawn_is_what_is_read(root: Path) -> None:
    dataset = load("phantom", root, CASES=24)
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (10, 4, 10)
    assert dataset.classnames == ["nevus", "melanoma"]
    assert dataset.patients
    assert len(set(dataset.patients.values())) == 24


def test_without_a_root_it_lies_in_the_cache(root: Path, drawn: list[int]) -> None:
    dataset = load("phantom", "", CASES=42)
    assert root.parent / "cache" in Path(dataset.dataset_dir).parents


def test_below_a_closed_root_it_lies_in_the_cache(root: Path, drawn: list[int]) -> None:
    root.mkdir(mode=0o555)
    dataset = load("phantom", root, CASES=42)
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


def test_a_killed_drawing_is_swept_away_later(root: Path, drawn: list[int]) -> None:
    left = root / f".phantom-derm7pt-42-2019-v{VERSION}.abcdefgh.tmp"
    (left / "release_v0").mkdir(parents=True)
    os.utime(left, (1, 1))
    dataset = load("phantom", root, CASES=42)
    assert [path.name for path in root.iterdir()] == [Path(dataset.dataset_dir).parent.name]


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


def test_a_marked_folder_counts_as_drawn(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = derm7pt(root)
    (folder.parent / PHANTOM_MARK).write_text("{}")
    assert load("derm7pt", root).is_phantom
    assert "published" not in caplog.text


def test_the_checklist_is_told_for_every_case(root: Path) -> None:
    folder = derm7pt(root)
    meta = folder / "meta/meta.csv"
    header, *rows = meta.read_text().splitlines()
    values = [",".join([" Typical ", "absent", "", "blue areas", "irregular", "present", "dotted"])] * len(rows)
    lines = [f"{header},{','.join(CONCEPTS)}", *(f"{row},{own}" for row, own in zip(rows, values, strict=True))]
    meta.write_text("\n".join(lines) + "\n")
    dataset = load("derm7pt", root)
    labels = dataset.concept_labels(Path(dataset.dataset_dir))
    assert len(labels) == 42
    assert labels["images/NEL/Nel001.jpg"] == {
        "pigment_network": "typical",
        "streaks": "absent",
        "regression_structures": "blue areas",
        "dots_and_globules": "irregular",
        "blue_whitish_veil": "present",
        "vascular_structures": "dotted",
    }
    assert {Path(item.impath).relative_to(folder).as_posix() for item in dataset.train_x} < set(labels)


def test_the_phantom_tells_its_checklist_too(root: Path) -> None:
    dataset = load("phantom", root, CASES=24)
    labels = dataset.concept_labels(Path(dataset.dataset_dir))
    assert len(labels) == 24
    assert {frozenset(own) for own in labels.values()} == {frozenset(CONCEPTS)}
    assert {own["blue_whitish_veil"] for own in labels.values()} == {"absent", "present"}
