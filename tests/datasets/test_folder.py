"""Your own data: directories and tables, the split that is made once, and the bank that belongs to them."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from generated_trees import LAYOUTS
from PIL import Image
from tree_tools import config, edit, load, picture, write_csv
from trees_folder import CLASSES, directories, split_directories, table

from xcoop.concepts.bank import BankError, load_bank, skeleton
from xcoop.data.checking import check
from xcoop.data.dataset import read_raw
from xcoop.data.ownfolder import read_own
from xcoop.training.trainer import load_dataset_bank
from xcoop.utils.console import DatasetError, is_plain


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


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_in_a_folder_or_by_its_name(root: Path, delimiter: str) -> None:
    folder = table(root)
    edit(folder / "list.csv", ",", delimiter)
    for place in (folder, folder / "list.csv"):
        dataset = own(place)
        assert sizes(dataset) == (15, 6, 9)
        assert dataset.classnames == list(CLASSES)
        assert dataset.patients[dataset.train_x[0].impath] == "p00"


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


def test_without_a_path_it_is_asked_for_and_an_empty_folder_is_named(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"DATASET\.PATH my_images"):
        load("folder", "nowhere")
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


def test_without_a_bank_the_shipped_ones_that_serve_are_named(root: Path) -> None:
    for name, first in (("Benign", 1), ("malignant", 20)):
        for number in range(10):
            picture(root / name / f"{number}.png", first + number)
    with pytest.raises(ValueError, match=r"with classes of these names: busi, busi_biomedcoop, skincon\."):
        load_dataset_bank(config("folder", "nowhere", PATH=str(root)), own(root))
    cfg = config("folder", "nowhere", PATH=str(root), CONCEPT_BANK="busi")
    bank = load_dataset_bank(cfg, dataset := own(root)).for_classes(dataset.classnames)
    assert list(bank.classes) == ["Benign", "malignant"]
    assert bank.texts("malignant") == load_bank("busi").texts("malignant tumor")


def test_a_skeleton_with_names_that_yaml_reads_otherwise(tmp_path: Path) -> None:
    strange = ["no", "1", 'a "b": c', "größe", "# x"]
    bank = tmp_path / "bank.yaml"
    bank.write_text(filled(skeleton("yes", strange)), encoding="utf-8")
    assert list(load_bank(bank).classes) == strange


def caption(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")


def test_what_lies_beside_the_images_is_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = directories(root)
    for name in ("leaf/1.dcm", "leaf/2.DCM", "leaf/notes", "leaf/.DS_Store", "README.md", "concepts.yaml"):
        (folder / name).write_text("x")
    picture(folder / "loose.png", 1)
    picture(folder / "leaf" / ".cache" / "x.png", 2)
    os.mkfifo(folder / "leaf" / "pipe.png")  # to read it would never end
    own(folder)
    assert (
        "6 files beside the images are left out: 3 .png (leaf/.cache/x.png, leaf/pipe.png, loose.png), "
        "2 .dcm (leaf/1.dcm, leaf/2.DCM), 1 without a suffix (leaf/notes)"
    ) in caption(caplog)


def test_images_that_may_be_none_of_their_class_are_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = directories(root)
    picture(folder / "leaf" / "leaf01_mask.png", 77)
    picture(folder / "leaf" / "deep" / "leaf50.png", 78)
    picture(folder / "leaf" / "Lesion masks" / "leaf01.png", 79)
    caplog.set_level("INFO")
    assert len(own(folder).train_x) > 6
    assert (
        "2 images look like masks of others, and are taken as images of their class: leaf/Lesion masks/leaf01.png, "
        "leaf/leaf01_mask.png"
    ) in caption(caplog)
    assert "2 images lie in directories below those of the classes, and count as theirs: leaf/Lesion" in caplog.text


def test_images_that_a_table_does_not_list_are_mentioned(root: Path) -> None:
    folder = directories(root)
    write_csv(folder / "t.csv", ["path", "label"], [(f"leaf/leaf{i:02}.png", i % 2) for i in (1, 2, 3, 4)])
    few, _, contrary, remark = read_raw(config("folder", "nowhere", PATH=str(folder))).remarks
    assert few.matters
    assert contrary.text.startswith("t.csv: 4 of 4 labels are not the directory of their image")
    assert few.text.endswith(
        "t.csv lists 4 of 30 images, and the others are left out; move it elsewhere if the directories are the classes"
    )
    assert remark.text.startswith("6 files beside the images are left out: 6 .png (leaf/leaf00.png, leaf/leaf05.png")
    assert not remark.matters


def test_classes_that_are_called_as_patients_are_none(root: Path) -> None:
    for i in range(8):
        picture(root / f"mouse {i % 2}" / f"subj{i // 2}" / "x.png", i)
    items = read_own(root).splits.train
    assert {(item.classname, item.patient) for item in items} == {
        (f"mouse {i}", f"subj{n}") for i in range(2) for n in range(4)
    }


def test_a_check_sees_that_leaks_leave_nothing_to_train_on(root: Path) -> None:
    for i in range(8):
        picture(root / ("train", "test")[i % 2] / "ab"[i // 4] / f"{i // 2}_{('left', 'right')[i % 2]}.png", i)
    report = check(read_raw(config("folder", "nowhere", PATH=str(root))), None)
    assert "train has no image of 'a', 'b' left without what stands twice" in [one.text for one in report.findings]
    assert report.exit_code == 2
    with pytest.raises(DatasetError, match="no training image of 'a', 'b'"):
        own(root)


def test_a_class_without_images_says_what_it_holds(root: Path) -> None:
    folder = directories(root)
    for path in (folder / "leaf").iterdir():
        path.rename(path.with_suffix(".dcm"))
    with pytest.raises(DatasetError, match=r"leaf holds no image that is read \(10 \.dcm \(leaf/leaf00\.dcm, "):
        own(folder)


@pytest.mark.parametrize("suffix", [".jfif", ".webp", ".bmp", ".jp2", ".avif", ".pgm", ".TIF", ".mpo"])
def test_formats_that_are_read(root: Path, suffix: str) -> None:
    folder = directories(root)
    path = folder / "leaf" / f"other{suffix}"
    kinds = {".jfif": "JPEG", ".pgm": "PPM", ".TIF": "TIFF"}
    Image.new("RGB", (20, 20), (90, 130, 20)).save(path, format=kinds.get(suffix))
    assert len(own(folder).train_x) + len(own(folder).val) + len(own(folder).test) == 31


NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("listed", "on_disk"), [(NFC, NFD), (NFD, NFC)])
def test_the_unicode_forms_of_names_meet(root: Path, listed: str, on_disk: str) -> None:
    """Of a table and the files that it lists, of a split and the files that it divides."""
    for i in range(12):
        picture(root / on_disk / f"{i}.png", i)
    rows = [(f"{listed}/{i}.png", "ab"[i % 2]) for i in range(12)]
    write_csv(root / "t.csv", ["path", "label"], rows)
    first = own(root)
    assert all(f"/{on_disk}/" in item.impath for item in first.train_x)
    split = root / "t.split-seed_0.json"
    text = json.loads(split.read_text())
    split.write_text(json.dumps(text).replace(json.dumps(on_disk)[1:-1], json.dumps(listed)[1:-1]))
    assert [item.impath for item in own(root).test] == [item.impath for item in first.test]


def test_the_unicode_forms_of_a_class_are_one(root: Path) -> None:
    for split, name in (("train", NFC), ("test", NFD)):
        for i in range(8):
            picture(root / split / name / f"{split}{i}.png", i + 100 * (split == "test"))
            picture(root / split / "tea" / f"{split}{i}.png", i + 100 * (split == "test") + 1000)
    dataset = own(root)
    assert dataset.classnames == [NFC, "tea"]
    bank = load_bank(written_bank(root / "bank.yaml", [NFD, "Tea"]))
    assert list(bank.for_classes(dataset.classnames).classes) == [NFC, "tea"]


def written_bank(path: Path, classes: list[str]) -> Path:
    path.write_text(filled(skeleton("x", classes)), encoding="utf-8")
    return path


def test_few_shots_do_not_depend_on_the_unicode_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    chosen = []
    for form in (NFC, NFD):
        for i in range(20):
            picture(tmp_path / form / "ab"[i % 2] / f"{form}{i}.png", i)
        chosen.append({unicodedata.normalize("NFC", name) for name in names(own(tmp_path / form, NUM_SHOTS=2).train_x)})
    assert chosen[0] == chosen[1]


def test_the_order_of_the_classes_can_be_told(root: Path) -> None:
    folder = directories(root)
    first, told = own(folder), own(folder, CLASSES=["Stem", "leaf", "ROOT"])
    assert told.classnames == ["Stem", "leaf", "ROOT"]
    assert told.class_names == ("Stem", "leaf", "ROOT")
    labels = {item.impath: item.label for item in told.test}
    assert [labels[item.impath] for item in first.test] == [{0: 1, 1: 2, 2: 0}[item.label] for item in first.test]


@pytest.mark.parametrize("wanted", [["leaf", "root"], ["leaf", "root", "stalk"], ["leaf", "root", "stem", "Stem"]])
def test_classes_that_are_not_those_of_the_images_are_refused(root: Path, wanted: list[str]) -> None:
    folder = directories(root)
    with pytest.raises(DatasetError, match=r"there: +'leaf', 'root', 'stem'\n  DATASET\.CLASSES: 'leaf', 'root'"):
        own(folder, CLASSES=wanted)


def test_a_shipped_set_in_another_order(tmp_path: Path) -> None:
    LAYOUTS["pneumonia"].make(tmp_path)
    dataset = load("pneumonia", tmp_path, CLASSES=["Pneumonia", "normal"])
    assert dataset.classnames == ["Pneumonia", "normal"]
    assert all(("PNEUMONIA" in item.impath) == (item.label == 0) for item in dataset.test)


@pytest.mark.parametrize(
    "name", ["b\x1b[31mad", "new\nline", b"caf\xe9".decode("utf-8", "surrogateescape"), "\u202egnp"]
)
@pytest.mark.parametrize("where", ["{}/1.png", "leaf/{}.png"])
def test_names_that_cannot_be_written_are_refused_at_once(root: Path, name: str, where: str) -> None:
    folder = directories(root)
    for i in range(3):
        picture(folder / where.format(name).replace("1.png", f"{i}.png"), 50 + i)
    with pytest.raises(DatasetError, match=r"no UTF-8, or hold control characters: .*Rename them") as caught:
        own(folder)
    assert is_plain(str(caught.value))
