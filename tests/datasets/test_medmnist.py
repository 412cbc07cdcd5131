"""The npz files of MedMNIST: sizes, places, exact export, what a file may promise, and the real PneumoniaMNIST."""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tree_tools import load, npz
from trees_medmnist import medmnist

from xcoop.data.about import MissingDatasetError
from xcoop.datasets import medmnist as mnist
from xcoop.utils.console import DatasetError


def test_the_largest_file_at_hand_is_read_or_the_size_that_is_asked_for(root: Path) -> None:
    small = medmnist("pneumoniamnist", root)
    assert "pneumoniamnist-" in load("pneumoniamnist", root).dataset_dir
    (root / "pneumoniamnist").mkdir()
    shutil.copy(small, root / "pneumoniamnist" / "pneumoniamnist_64.npz")
    assert "pneumoniamnist_64-" in load("pneumoniamnist", root).dataset_dir
    assert "pneumoniamnist_64-" in load("pneumoniamnist", root, SIZE=64).dataset_dir
    assert "pneumoniamnist-" in load("pneumoniamnist", root, SIZE=28).dataset_dir
    assert "pneumoniamnist-" in load("pneumoniamnist", root, PATH=str(small)).dataset_dir
    with pytest.raises(MissingDatasetError, match=r"pneumoniamnist_224\.npz"):
        load("pneumoniamnist", root, SIZE=224)
    with pytest.raises(ValueError, match=r"DATASET\.SIZE is 32.*224, 128, 64, 28"):
        load("pneumoniamnist", root, SIZE=32)


@pytest.mark.parametrize("place", ["data", "data/bloodmnist", "data/medmnist", "home/.medmnist"])
def test_accepted_places(root: Path, place: str) -> None:
    source = medmnist("bloodmnist", root.parent / place)
    dataset = load("bloodmnist", root)
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (56, 24, 32)
    assert len(load("bloodmnist", "nowhere", PATH=str(source.parent)).test) == 32


@pytest.mark.parametrize(("name", "mode"), [("pneumoniamnist", "L"), ("pathmnist", "RGB")])
def test_the_pictures_are_exported_exactly_and_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    source = medmnist(name, root)
    dataset = load(name, root)
    with np.load(source) as arrays:
        for item in dataset.test:
            index, image = int(Path(item.impath).name.split("_")[0]), Image.open(item.impath)
            assert image.mode == mode
            assert np.array_equal(np.asarray(image), arrays["test_images"][index])
            assert item.label == arrays["test_labels"][index, 0]
    monkeypatch.setattr(mnist, "export", None)
    assert len(load(name, root).test) == len(dataset.test)


def test_arrays_in_any_order_of_memory(root: Path) -> None:
    source = medmnist("pneumoniamnist", root)
    plain = {Path(i.impath).name: Path(i.impath).read_bytes() for i in load("pneumoniamnist", root).test}
    with np.load(source) as arrays:
        images = np.asfortranarray(arrays["test_images"])
    npz(source, test_images=images)
    turned = load("pneumoniamnist", root)
    assert "pneumoniamnist-" in turned.dataset_dir
    assert {Path(i.impath).name: Path(i.impath).read_bytes() for i in turned.test} == plain


def test_another_content_is_exported_anew(root: Path) -> None:
    source = medmnist("pneumoniamnist", root)
    first = load("pneumoniamnist", root)
    npz(source, test_images=np.random.default_rng(9).integers(0, 256, (8, 28, 28), dtype=np.uint8))
    assert load("pneumoniamnist", root).dataset_dir != first.dataset_dir


def test_an_npz_that_promises_too_much_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    medmnist("pneumoniamnist", root)
    monkeypatch.setattr(mnist, "MAX_BYTES", 1000)
    with pytest.raises(DatasetError, match="more than the 1,000 allowed"):
        load("pneumoniamnist", root)


def test_an_array_longer_or_shorter_than_its_header_is_refused(root: Path) -> None:
    source = medmnist("pneumoniamnist", root)
    for name, change in (("long", lambda data: data + b"x"), ("short", lambda data: data[:-1])):
        other = root / name / "pneumoniamnist.npz"
        other.parent.mkdir()
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(other, "w") as new:
            for member in old.namelist():
                data = old.read(member)
                new.writestr(member, change(data) if member == "val_images.npy" else data)
        with pytest.raises(DatasetError, match=r"pneumoniamnist\.npz"):
            load("pneumoniamnist", root / name)


def test_a_family_needs_its_set(root: Path) -> None:
    with pytest.raises(DatasetError, match="name one of its configurations"):
        load("pneumoniamnist", root, SET="")
    with pytest.raises(DatasetError, match="'normal' more than once"):
        load("pneumoniamnist", root, CLASSES=["normal", "normal"])


def test_the_subset_does_not_depend_on_the_size_of_the_pictures(root: Path) -> None:
    source = medmnist("octmnist", root)
    small = load("octmnist", root, NUM_SHOTS=2)
    shutil.copy(source, root / "octmnist_64.npz")
    large = load("octmnist", root, NUM_SHOTS=2)
    assert [Path(i.impath).name for i in small.train_x] == [Path(i.impath).name for i in large.train_x]
    assert Counter(i.classname for i in large.train_x) == dict.fromkeys(large.classnames, 2)
