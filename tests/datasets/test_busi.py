"""BUSI and MED-NODE: masks left out, tasks, places, and copies that stay together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tree_tools import images_of, load
from trees_busi import busi

from xcoop.datasets.busi import is_mask


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
    names = images_of(load("busi", root))
    assert len(names) == 27
    assert not [name for name in names if "mask" in name]


def test_the_two_class_task_leaves_the_normal_scans_out(root: Path) -> None:
    folder = busi(root)
    shutil.rmtree(folder / "normal")
    assert len(images_of(load("busi", root, TASK="benign-vs-malignant"))) == 20


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
