"""SkinCon: flagged and missing images, both parts, and the concepts of each image."""

from __future__ import annotations

from pathlib import Path

import pytest
from tree_tools import load
from trees_skincon import CONCEPTS, md5, skincon


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def labels_of(dataset: object) -> dict[str, int]:
    items = [item for part in (dataset.train_x, dataset.val, dataset.test) for item in part]
    return {Path(item.impath).stem: item.label for item in items}


def test_flagged_and_unannotated_images_are_left_out(root: Path) -> None:
    skincon(root)
    assert labels_of(load("skincon", root)) == {md5(n): n % 3 for n in range(30)}


def test_dead_links_are_counted_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = skincon(root)
    for n in (3, 7):
        (folder / "fitzpatrick17k" / f"{md5(n)}.jpg").unlink()
    assert len(labels_of(load("skincon", root))) == 28
    assert "2 of the 30 images of annotations_fitzpatrick17k.csv are not below" in caplog.text
    assert f"left out: {md5(3)}.jpg, {md5(7)}.jpg" in caplog.text


@pytest.mark.parametrize("place", ["ddi", "DDI", "ddidiversedermatologyimages", "."])
def test_the_second_task_reads_ddi(root: Path, place: str) -> None:
    folder = skincon(root)
    if place == ".":
        for path in (folder / "ddi").iterdir():
            path.rename(folder / path.name)
    elif place != "ddi":
        (folder / "ddi").rename(folder / place)
    assert labels_of(load("skincon", root, TASK="malignant-vs-benign")) == {f"{n:06d}": n % 2 for n in range(20)}


def test_the_concepts_are_present_or_absent(root: Path) -> None:
    folder = skincon(root)
    (folder / "fitzpatrick17k" / f"{md5(3)}.jpg").unlink()
    dataset = load("skincon", root)
    labels = dataset.concept_labels(folder)
    assert len(labels) == 29
    assert labels[f"fitzpatrick17k/{md5(5)}.jpg"] == dict(zip(CONCEPTS, ("present", "absent", "present"), strict=True))
    assert labels[f"fitzpatrick17k/{md5(6)}.jpg"] == dict.fromkeys(CONCEPTS, "absent")
    ddi = load("skincon", root, TASK="malignant-vs-benign").concept_labels(folder)
    assert ddi["ddi/000004.png"] == dict(zip(CONCEPTS, ("present", "absent", "absent"), strict=True))
