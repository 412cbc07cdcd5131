"""Your own images with the splits that CoOp's forks write: where the file and the images lie, and what it must hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tree_tools import load, picture, write_csv

from xcoop.utils.console import DatasetError

CLASSES = ("stem", "leaf", "root")  # in the order of their labels, which is none that sorting would give
EACH = {"train": 5, "val": 2, "test": 3}  # images a class


def listed(root: Path, below: str = "images") -> Path:
    """A folder with `split_zhou_Plants.json` and 30 images in a folder within; gives the file."""
    source = root / "plants" / "split_zhou_Plants.json"
    tree: dict[str, list[list[Any]]] = {split: [] for split in EACH}
    for label, name in enumerate(CLASSES):
        for split, each in EACH.items():
            for i in range(each):
                path = f"{name}/{split}{i}.png"
                picture(source.parent / below / path, 100 * label + len(tree[split]) + 1000 * each)
                tree[split].append([path, label, name])
    source.write_text(json.dumps(tree), encoding="utf-8")
    return source


def own(path: Path, **dataset: object) -> Any:
    return load("folder", "nowhere", PATH=str(path), **dataset)


@pytest.mark.parametrize("below", ["images", ""])
def test_a_folder_with_such_a_file_is_read_by_it(root: Path, below: str, caplog: pytest.LogCaptureFixture) -> None:
    source = listed(root, below)
    for place in (source.parent, source):
        dataset = own(place)
        assert [len(items) for items in (dataset.train_x, dataset.val, dataset.test)] == [15, 6, 9]
        assert dataset.classnames == list(CLASSES)  # in the order of the file's labels
        assert {item.classname: item.label for item in dataset.test} == {name: n for n, name in enumerate(CLASSES)}
        assert dataset.train_x[0].impath == str(source.parent / below / "leaf" / "train0.png")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert not list(source.parent.glob("*split-seed*"))  # the file states the split: none is made


def test_few_shots_are_drawn_from_its_training_images(root: Path) -> None:
    source = listed(root)
    whole, few, more = own(source), own(source, NUM_SHOTS=2), own(source, NUM_SHOTS=3)
    taken = [{item.impath for item in dataset.train_x} for dataset in (few, more, whole)]
    assert [len(paths) for paths in taken] == [6, 9, 15]
    assert taken[0] < taken[1] < taken[2]
    assert {item.impath for item in few.val} <= {item.impath for item in whole.val}
    assert [item.impath for item in few.test] == [item.impath for item in whole.test]
    assert list((source.parent / "split_fewshot").glob("shot_2-*.json"))
    assert own(source, NUM_SHOTS=2, SEED=2).train_x != few.train_x


def test_an_empty_val_is_carved_from_train(root: Path) -> None:
    source = listed(root)
    tree = json.loads(source.read_text())
    tree["val"] = []
    source.write_text(json.dumps(tree))
    dataset = own(source)
    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (12, 3, 9)


def test_what_it_does_not_list_is_said_and_is_no_fault(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = listed(root)
    picture(source.parent / "images" / "leaf" / "spare.png", 7)
    with caplog.at_level("INFO"):
        own(source)
    (said,) = (record for record in caplog.records if "spare.png" in record.getMessage())
    assert said.levelname == "INFO"


def test_the_classes_can_be_put_into_another_order(root: Path) -> None:
    dataset = own(listed(root), CLASSES=["leaf", "root", "stem"])
    assert dataset.classnames == ["leaf", "root", "stem"]
    assert {item.classname for item in dataset.test if item.label == 0} == {"leaf"}


Change = Callable[[dict[str, Any]], object]


def row(*values: object) -> Change:
    """In the place of the second row of train."""
    return lambda tree: tree["train"].__setitem__(1, list(values))


def renamed(label: int, new: int) -> Change:
    def work(tree: dict[str, Any]) -> None:
        for entry in [*tree["train"], *tree["val"], *tree["test"]]:
            entry[1] = new if entry[1] == label else entry[1]

    return work


def called(old: str, new: str) -> Change:
    def work(tree: dict[str, Any]) -> None:
        for entry in [*tree["train"], *tree["val"], *tree["test"]]:
            entry[2] = new if entry[2] == old else entry[2]

    return work


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda tree: tree.pop("val"), r"must hold the keys train, val, test; it has \['train', 'test'\]"),
        (lambda tree: tree.update(test=[]), r"test must be a list of rows, not \[\]"),
        (lambda tree: tree.update(val={"a": 1}), "val must be a list of rows"),
        (row("leaf/train1.png", 0), r"train\[1\] must be \[path, whole number, class name\]"),
        (row("leaf/train1.png", "0", "stem"), r"train\[1\] must be"),
        (row("leaf/train1.png", False, "stem"), r"train\[1\] must be"),
        (row("../secret.png", 0, "stem"), r"train\[1\]: '\.\./secret\.png' leads out of the folder"),
        (row("leaf/../../secret.png", 0, "stem"), "leads out of the folder"),
        (row("/etc/passwd", 0, "stem"), "leads out of the folder"),
        (row("C:\\secret.png", 0, "stem"), "leads out of the folder"),
        (row("stem\\train1.png", 0, "stem"), "is no relative path with '/'"),
        (row("stem/a\0.png", 0, "stem"), "leads out of the folder"),
        (row("stem/lost.png", 0, "stem"), r"1 of the 30 images .* are not in .*images: stem/lost\.png"),
        (row("stem", 0, "stem"), r"1 of the 30 images .* are not in"),  # a folder is no image
        (row("stem/train0.png", 0, "stem"), r"stem/train0\.png stands twice in train"),
        (row("stem/test0.png", 0, "stem"), r"stem/test0\.png stands in train and in test"),
        (row("stem/train1.png", 1, "stem"), "the label 1 has the names 'leaf' and 'stem'"),
        (renamed(2, 3), r"the labels must count up from 0 without a gap, not \[0, 1, 3\]"),
        (renamed(0, -1), r"the labels must count up from 0 without a gap, not \[-1, 1, 2\]"),
        (called("root", "Leaf"), "the classes 'Leaf' and 'leaf' are one|the classes 'leaf' and 'Leaf' are one"),
        (called("root", " "), "the label 2 has no name"),
        (called("root", "ro\x1bot"), "control characters"),
        (lambda tree: [tree["train"].pop() for _ in range(5)], "'root' stands in val, but not in train"),
        (lambda tree: tree.update({key: tree[key][: EACH[key]] for key in tree}), "has one class only, 'stem'"),
    ],
)
def test_a_file_that_is_wrong_is_refused(root: Path, work: Change, message: str) -> None:
    source = listed(root)
    (root / "secret.png").write_bytes(b"")
    tree = json.loads(source.read_text())
    work(tree)
    source.write_text(json.dumps(tree))
    with pytest.raises(DatasetError, match=message) as caught:
        own(source.parent)
    assert str(source) in str(caught.value) or "control characters" in message
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"train": 1e400}', "null", "\ufeff"])
def test_what_is_no_such_file_is_refused(root: Path, text: str) -> None:
    source = listed(root)
    source.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"split_zhou_Plants\.json (is damaged|must hold the keys)"):
        own(source.parent)


def test_several_that_could_be_meant_are_named(root: Path) -> None:
    source = listed(root)
    write_csv(source.parent / "list.csv", ["path", "label"], [("images/leaf/train0.png", "leaf")])
    with pytest.raises(DatasetError, match=r"several tables \(list\.csv, split_zhou_Plants\.json\): name the one"):
        own(source.parent)
    assert len(own(source).test) == 9
    shutil.copytree(source.parent / "images", source.parent / "copies")
    with pytest.raises(DatasetError, match=r"in several folders beside it \(copies, images\)"):
        own(source)
