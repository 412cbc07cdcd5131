"""Your own data: directories and tables, the split that is made once, and the bank that belongs to them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tree_tools import config, edit, load, picture, write_csv
from trees_folder import CLASSES, directories, split_directories, table

from xcoop.checks import load_dataset_bank
from xcoop.concepts.bank import BankError, load_bank
from xcoop.concepts.skeleton import skeleton
from xcoop.data.items import DatasetError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def own(path: Path, **dataset: object) -> Any:
    return load("folder", "nowhere", PATH=str(path), **dataset)


def sizes(dataset: Any) -> tuple[int, int, int]:
    return len(dataset.train_x), len(dataset.val), len(dataset.test)


def names(items: list[Any]) -> list[str]:
    return [Path(item.impath).name for item in items]


def test_directories_of_splits_are_taken_as_they_are(root: Path) -> None:
    folder = split_directories(root)
    dataset = own(folder)
    assert sizes(dataset) == (15, 6, 9)
    assert names(dataset.test)[:3] == ["leaf07.png", "leaf08.png", "leaf09.png"]
    assert not list(folder.glob("split*.json"))


def test_without_val_it_is_carved_from_train(root: Path) -> None:
    folder = split_directories(root)
    shutil.rmtree(folder / "Validation")
    assert sizes(own(folder)) == (12, 3, 9)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_in_a_folder_or_by_its_name(root: Path, delimiter: str) -> None:
    folder = table(root)
    edit(folder / "list.csv", ",", delimiter)
    for place in (folder, folder / "list.csv"):
        dataset = own(place)
        assert sizes(dataset) == (15, 6, 9)
        assert dataset.classnames == list(CLASSES)
        assert dataset.patients[dataset.train_x[0].impath] == "p00"


def test_labels_that_are_numbers_are_sorted_by_value(root: Path) -> None:
    rows = [(f"{i}.png", 10 - i % 3) for i in range(12)]
    for i in range(12):
        picture(root / f"{i}.png", i)
    write_csv(root / "t.csv", ["path", "label"], rows)
    assert own(root).classnames == ["8", "9", "10"]


def test_a_split_is_made_by_patient_written_down_and_reused(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = table(root, split=False)
    for number in range(3):
        for i in range(1, 10, 2):
            edit(folder / "list.csv", f",p{number}{i}", f",p{number}{i - 1}")  # two images a patient
    dataset = own(folder)
    patients = [{dataset.patients[i.impath] for i in items} for items in (dataset.train_x, dataset.val, dataset.test)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not patients[one] & patients[other]
    assert Counter(item.classname for item in dataset.test) == dict.fromkeys(CLASSES, 4)  # 30 % in whole patients
    path = folder / "list.split-seed_0.json"
    written = json.loads(path.read_text())
    assert [str(folder / image) for image in written["test"]] == [item.impath for item in dataset.test]
    written["test"], written["val"] = written["val"], written["test"]
    path.write_text(json.dumps(written))
    assert [i.impath for i in own(folder).val] == [i.impath for i in dataset.test]  # the file is what counts


def test_another_seed_is_another_split_beside_the_first(root: Path) -> None:
    folder = directories(root)
    first, second = own(folder), own(folder, SPLIT_SEED=1)
    assert names(first.test) != names(second.test)
    assert names(own(folder).test) == names(first.test)
    assert {path.name for path in folder.glob("*.json")} == {"split-seed_0.json", "split-seed_1.json"}


def test_added_and_removed_images_are_named_and_nothing_is_reshuffled(root: Path) -> None:
    folder = directories(root)
    first = own(folder)
    path = folder / "split-seed_0.json"
    before = path.read_bytes()
    picture(folder / "leaf" / "new.png", 77)
    (folder / "root" / "root03.png").unlink()
    with pytest.raises(DatasetError, match=r"1 new \(leaf/new\.png\), 1 gone \(root/root03\.png\).*(?s:.)*delete that"):
        own(folder)
    assert path.read_bytes() == before
    (folder / "leaf" / "new.png").unlink()
    picture(folder / "root" / "root03.png", 1003)
    assert own(folder).split_hash == first.split_hash


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"train": 1, "val": [], "test": []}', '{"train": ["a", "a"], "val": [], "test": []}']
)
def test_a_damaged_split_is_named(root: Path, text: str) -> None:
    folder = directories(root)
    (folder / "split-seed_0.json").write_text(text)
    with pytest.raises(DatasetError, match=r"split-seed_0\.json is damaged"):
        own(folder)


def test_identical_images_stay_together(root: Path) -> None:
    folder = directories(root)
    for i in range(1, 10):
        shutil.copy(folder / "leaf" / "leaf00.png", folder / "leaf" / f"leaf0{i}.png")
    picture(folder / "leaf" / "other.png", 5000)
    dataset = own(folder)
    found = [Path(i.impath).read_bytes() for i in (*dataset.train_x, *dataset.val, *dataset.test)]
    splits = (dataset.train_x, dataset.val, dataset.test)
    same = (folder / "leaf" / "leaf00.png").read_bytes()
    assert same in found
    assert sum(any(Path(i.impath).read_bytes() == same for i in items) for items in splits) == 1


def test_read_only_data_have_their_split_in_the_cache(root: Path, tmp_path: Path) -> None:
    folder = directories(root)
    folder.chmod(0o555)
    try:
        first = own(folder)
        (kept,) = (tmp_path / "cache" / "splits").rglob("split-seed_0.json")
        stamp = kept.stat().st_mtime_ns
        assert own(folder).split_hash == first.split_hash
        assert kept.stat().st_mtime_ns == stamp
    finally:
        folder.chmod(0o755)
    assert not list(folder.glob("*.json"))


def test_without_a_path_it_is_asked_for() -> None:
    with pytest.raises(DatasetError, match=r"DATASET\.PATH my_images"):
        load("folder", "nowhere")


def test_an_empty_folder_is_named(root: Path) -> None:
    root.mkdir()
    with pytest.raises(DatasetError, match="holds no image; put those of each class"):
        own(root)


def filled(text: str) -> str:
    return text.replace("concept: ,", "concept: green veins,").replace("atlas: ", 'atlas: "An atlas. 2020."', 1)


def test_the_bank_in_the_folder_is_used_unless_another_is_named(root: Path) -> None:
    folder = directories(root)
    (folder / "concepts.yaml").write_text(filled(skeleton("My images", CLASSES)), encoding="utf-8")
    cfg = config("folder", "nowhere", PATH=str(folder))
    assert load_dataset_bank(cfg, own(folder)).texts("root") == ["green veins"]
    cfg.DATASET.CONCEPT_BANK = "derm7pt"
    assert load_dataset_bank(cfg, own(folder)).name == "derm7pt"


def test_without_a_bank_a_skeleton_is_shown(root: Path, tmp_path: Path) -> None:
    folder = directories(root)
    with pytest.raises(ValueError, match="names no concept bank") as caught:
        load_dataset_bank(config("folder", "nowhere", PATH=str(folder)), own(folder))
    text = str(caught.value)
    assert f"{folder}/concepts.yaml" in text
    bank = tmp_path / "bank.yaml"
    bank.write_text(text.partition("\n\n")[2], encoding="utf-8")
    with pytest.raises(BankError):
        load_bank(bank)  # nobody trains with what was not filled in
    bank.write_text(filled(bank.read_text(encoding="utf-8")), encoding="utf-8")
    assert list(load_bank(bank).classes) == list(CLASSES)


def test_a_skeleton_with_names_that_yaml_reads_otherwise(tmp_path: Path) -> None:
    strange = ["no", "1", 'a "b": c', "größe", "# x"]
    bank = tmp_path / "bank.yaml"
    bank.write_text(filled(skeleton("yes", strange)), encoding="utf-8")
    assert list(load_bank(bank).classes) == strange
