"""The chest X-rays: patients from file names, nested archives, causes."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from tree_tools import load, picture
from trees_pneumonia import pneumonia

from xcoop.data.dataset import SEED
from xcoop.datasets.pneumonia import cause_of, patient_of
from xcoop.phantom.layouts import VERSION
from xcoop.utils.console import DatasetError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("file", "patient", "cause"),
    [
        ("person1_bacteria_2.jpeg", "bacteria-1", "bacteria"),
        ("person1_virus_6.jpeg", "virus-1", "virus"),
        ("person447_virus_921_1.jpeg", "virus-447", "virus"),
        ("PERSON12_Bacteria_47.JPG", "bacteria-12", "bacteria"),
        ("IM-0115-0001.jpeg", "normal-115", ""),
        ("IM-0115-0001-0002.jpeg", "normal-115", ""),
        ("NORMAL2-IM-0115-0001.jpeg", "normal2-115", ""),
        ("scan 7.png", "file-scan 7.png", ""),
    ],
)
def test_patient_and_cause_come_from_the_name(file: str, patient: str, cause: str) -> None:
    assert (patient_of(file), cause_of(file)) == (patient, cause)


def test_three_classes(root: Path) -> None:
    pneumonia(root)
    dataset = load("pneumonia", root, TASK="three-class")
    assert Counter(item.classname for item in dataset.test) == {
        "normal": 12,
        "bacterial pneumonia": 6,
        "viral pneumonia": 6,
    }
    assert all(("bacteria" in item.impath) == (item.label == 1) for item in dataset.train_x)


def test_three_classes_need_the_cause_in_every_name(root: Path) -> None:
    folder = pneumonia(root)
    picture(folder / "train/PNEUMONIA/scan7.jpeg", 999)
    assert any(
        "scan7" in item.impath
        for part in (load("pneumonia", root).train_x, load("pneumonia", root).val)
        for item in part
    )
    with pytest.raises(DatasetError, match=r"scan7\.jpeg"):
        load("pneumonia", root, TASK="three-class")


@pytest.mark.parametrize(
    "place", ["Pneumonia/chest_xray", "pneumonia/chest_xray", "chest_xray", "Pneumonia", "chest_xray/chest_xray"]
)
def test_accepted_places(root: Path, place: str) -> None:
    folder = pneumonia(root / "somewhere")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, root / place)
    assert len(load("pneumonia", root).test) == 24
    assert len(load("pneumonia", Path("nowhere"), PATH=str(root / place)).test) == 24


def test_the_nested_copy_and_the_official_val_are_left_out(root: Path) -> None:
    folder = pneumonia(root)
    shutil.copytree(folder, folder / "chest_xray")
    dataset = load("pneumonia", root)
    assert len(dataset.train_x) + len(dataset.val) == 96
    assert not [item for item in dataset.val if "/val/" in item.impath]


def test_suffixes_of_any_case(root: Path) -> None:
    folder = pneumonia(root)
    picture(folder / "test/NORMAL/IM-0090-0001.JPG", 900)
    picture(folder / "test/NORMAL/IM-0091-0001.png", 901)
    assert len(load("pneumonia", root).test) == 26


def test_validation_is_the_same_for_all_seeds_and_shots(root: Path) -> None:
    pneumonia(root)
    full = {item.impath for item in load("pneumonia", root).val}
    for seed in (1, 2):
        assert {item.impath for item in load("pneumonia", root, SEED=seed).val} == full
        assert {item.impath for item in load("pneumonia", root, SEED=seed, NUM_SHOTS=2).val} < full


def test_the_share_of_validation_is_val_percent(root: Path) -> None:
    pneumonia(root)
    assert len(load("pneumonia", root, VAL_PERCENT=0.5).val) == 48
    with pytest.raises(ValueError, match="between 0 and 1"):
        load("pneumonia", root, VAL_PERCENT=0.0)


def test_a_patient_of_train_and_test_is_dropped_from_train(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = pneumonia(root)
    picture(folder / "test/PNEUMONIA/person3_virus_7000.jpeg", 950)
    dataset = load("pneumonia", root)
    assert not [i for part in (dataset.train_x, dataset.val) for i in part if "person3_virus" in i.impath]
    assert [i for part in (dataset.train_x, dataset.val) for i in part if "person3_bacteria" in i.impath]
    assert "2 " in caplog.text
    assert "images have their patient in test too, left out" in caplog.text


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
