"""BUSI and MED-NODE: masks left out, tasks, places, and copies that stay together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tree_tools import load
from trees_busi import busi
from trees_med_node import med_node

from xcoop.datasets.busi import is_mask


def everything(dataset: object) -> set[str]:
    return {item.impath for part in (dataset.train_x, dataset.val, dataset.test) for item in part}


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("benign (1).png", False),
        ("benign (1)_mask.png", True),
        ("benign (4)_mask_1.png", True),
        ("benign (4)_MASK_2.PNG", True),
        ("mask (4).png", False),
        ("masked.png", False),
    ],
)
def test_what_a_mask_is(name: str, mask: bool) -> None:
    assert is_mask(name) is mask


def test_masks_are_left_out_of_every_split(root: Path) -> None:
    busi(root)
    paths = everything(load("busi", root))
    assert len(paths) == 27
    assert not [path for path in paths if "mask" in Path(path).name]


def test_the_two_class_task_leaves_the_normal_scans_out(root: Path) -> None:
    folder = busi(root)
    shutil.rmtree(folder / "normal")
    paths = everything(load("busi", root, TASK="benign-vs-malignant"))
    assert len(paths) == 20


def test_a_picture_that_lies_under_two_labels_is_in_one_split(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = busi(root)
    for n in range(1, 6):
        shutil.copy(folder / f"benign/benign ({n}).png", folder / f"malignant/malignant ({n}).png")
    dataset = load("busi", root, TASK="benign-vs-malignant")
    parts = (dataset.train_x, dataset.val, dataset.test)
    train, val, test = ({Path(item.impath).read_bytes() for item in part} for part in parts)
    assert not train & (val | test)
    assert not val & test
    assert "of them under another label" in caplog.text


def test_the_division_is_the_same_for_all_seeds(root: Path) -> None:
    med_node(root)
    first = load("med_node", root)
    again = load("med_node", root, SEED=3, NUM_SHOTS=2)
    assert [i.impath for i in first.test] == [i.impath for i in again.test]
    assert first.split_hash == again.split_hash
