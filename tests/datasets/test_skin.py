"""The skin lesions: Derm7pt's groups and positions, ISIC 2018's lesions, PH2's and SkinCon's concepts."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from tree_tools import edit, images_of, labels_of, load
from trees_derm7pt import DIAGNOSES, derm7pt
from trees_isic2018 import CLASSES, LESIONS, ham10000, isic2018
from trees_ph2 import MELANOMA, as_spreadsheet, ph2
from trees_skincon import CONCEPTS as SKINCON
from trees_skincon import md5, skincon

from xcoop.data.dataset import PHANTOM_MARK
from xcoop.datasets.derm7pt import CONCEPTS, group_of
from xcoop.datasets.ph2 import CRITERIA
from xcoop.utils.console import DatasetError


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
    assert all(dataset.patients[item.impath] == str(number_of(item.impath)) for item in dataset.test)
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


def test_a_case_in_two_splits_is_dropped_from_train(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = derm7pt(root)
    edit(folder / "meta/meta.csv", ",0,", ",28,")  # the first training case is the first test case's patient
    dataset = load("derm7pt", root)
    assert 0 not in {number_of(item.impath) for item in dataset.train_x}
    assert len(dataset.test) == 8
    assert "1 train images have their patient in test too, left out" in caplog.text


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


def test_without_the_official_validation_whole_lesions_are_carved(root: Path) -> None:
    folder = isic2018(root)
    for name in ("Input", "GroundTruth"):
        shutil.rmtree(folder / f"ISIC2018_Task3_Validation_{name}")
    dataset = load("isic2018", root)
    of_image = dict(line.split(",")[:2] for line in (folder / LESIONS).read_text().splitlines()[1:])
    train, val = ({of_image[Path(i.impath).stem] for i in part} for part in (dataset.train_x, dataset.val))
    assert len(train) == len(val) == 7
    assert not train & val
    assert len(dataset.test) == 14


def test_lesions_are_needed_only_to_carve(root: Path) -> None:
    folder = isic2018(root)
    (folder / LESIONS).unlink()
    assert len(load("isic2018", root).train_x) == 21
    shutil.rmtree(folder / "ISIC2018_Task3_Validation_GroundTruth")
    with pytest.raises(DatasetError, match="no Validation part, and without ISIC2018_Task3_Training_Lesion"):
        load("isic2018", root)


def test_tables_beside_the_folders_are_read(root: Path) -> None:
    folder = isic2018(root)
    for truth in list(folder.glob("*_GroundTruth")):
        (truth / f"{truth.name}.csv").rename(folder / f"{truth.name}.csv")
        truth.rmdir()
    assert len(load("isic2018", "nowhere", PATH=str(folder)).train_x) == 21


@pytest.mark.parametrize(
    ("table", "delimiter"),
    [("HAM10000_metadata.csv", ","), ("HAM10000_metadata", ","), ("HAM10000_metadata.tab", "\t")],
)
def test_ham10000_alone_is_divided_by_lesion(root: Path, table: str, delimiter: str) -> None:
    ham10000(root, table, delimiter)
    dataset = load("isic2018", root)
    parts = (dataset.train_x, dataset.val, dataset.test)
    train, val, test = ({dataset.patients[item.impath] for item in part} for part in parts)
    assert not train & val and not test & (train | val)  # noqa: PT018 - one claim
    # Of 10 images a diagnosis in lesions of 2: 4 reach 30 % for test, 2 reach 10 % for val.
    for part, count in zip(parts, (4, 2, 4), strict=True):
        assert Counter(item.classname for item in part) == dict.fromkeys(CLASSES, count)


def test_damage_to_the_metadata_is_named(root: Path) -> None:
    folder = ham10000(root)
    table = folder / "HAM10000_metadata.csv"
    edit(table, "HAM_00,ISIC_0000000,mel", "HAM_00,ISIC_0000000,mole")
    with pytest.raises(DatasetError, match=r"unknown diagnoses \['mole'\]; known: mel, nv"):
        load("isic2018", root)
    edit(table, "HAM_00,ISIC_0000000,mole", ",ISIC_0000000,mel")
    with pytest.raises(DatasetError, match="line 2: the column 'lesion_id'"):
        load("isic2018", root)


def test_the_atypical_nevi_are_apart_in_three_classes(root: Path) -> None:
    ph2(root)
    assert labels_of(load("ph2", root, TASK="three-classes")) == {f"IMD{300 + n}": n // 10 for n in range(30)}


def test_the_criteria_are_told_in_words(root: Path) -> None:
    ph2(root)
    dataset = load("ph2", root)
    labels = dataset.concept_labels(Path(dataset.dataset_dir))
    assert len(labels) == 30
    assert labels[MELANOMA] == {
        "asymmetry": "fully asymmetric",
        "pigment_network": "atypical",
        "dots_and_globules": "atypical",
        "streaks": "present",
        "regression_areas": "present",
        "blue_whitish_veil": "present",
    }
    assert {tuple(own) for own in labels.values()} == {tuple(CRITERIA)}
    paths = {Path(item.impath).relative_to(dataset.dataset_dir).as_posix() for item in images_of(dataset).values()}
    assert paths == set(labels)


def test_the_spreadsheet_says_what_the_text_says(root: Path) -> None:
    pytest.importorskip("openpyxl")
    folder = ph2(root)
    text = load("ph2", root, NUM_SHOTS=2)
    said, table = text.concept_labels(folder), folder / "PH2_dataset.txt"
    kept = table.read_bytes()
    edit(table, "|| 0 | T | A", "|| 1 | T | A")
    as_spreadsheet(folder)
    assert load("ph2", root).concept_labels(folder) != said
    table.write_bytes(kept)
    assert load("ph2", root).concept_labels(folder) == said, "with both, the text file counts"
    as_spreadsheet(folder)
    sheet = load("ph2", root, NUM_SHOTS=2)
    assert sheet.concept_labels(folder) == said
    assert (sheet.split_hash, labels_of(sheet)) == (text.split_hash, labels_of(text))
    assert [item.impath for item in sheet.train_x] == [item.impath for item in text.train_x]
    assert labels_of(load("ph2", root, TASK="three-classes")) == {f"IMD{300 + n}": n // 10 for n in range(30)}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("G24", "X", r"sheet 'Sheet', row 24: \{'pigment_network': 'X'\}; asymmetry is one of"),
        (
            "C14",
            "",
            r"row 14: a name and one X among the three diagnoses must stand here, not \{'image name': 'IMD300'",
        ),
        ("D14", "X", r"row 14: a name and one X among the three diagnoses"),
        ("A20", None, "row 20: a name and one X"),
        ("F20", "=1+1", r"row 20: \{'asymmetry': ''\}"),  # nobody has computed it
        ("I13", "Streak", "has no rows below one that names the columns .*, streaks"),
        ("A33", "IMD319x", r"lacks 1 of 30 images of PH2_dataset\.xlsx: IMD319x"),
    ],
)
def test_damage_to_the_spreadsheet_is_named(root: Path, place: str, value: object, message: str) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    path = as_spreadsheet(ph2(root))
    book = openpyxl.load_workbook(path)
    book.active[place] = value
    book.save(path)
    with pytest.raises(DatasetError, match=message):
        load("ph2", root)


def test_a_text_called_a_spreadsheet_is_named(root: Path) -> None:
    pytest.importorskip("openpyxl")
    folder = ph2(root)
    (folder / "PH2_dataset.txt").rename(folder / "PH2_dataset.xlsx")
    with pytest.raises(DatasetError, match=r"PH2_dataset\.xlsx is no spreadsheet \(\.xlsx\) that can be read"):
        load("ph2", root)


def test_without_openpyxl_the_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ph2(root) / "PH2_dataset.txt").rename(root / "PH2" / "PH2Dataset" / "PH2_dataset.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ImportError, match=r"PH2_dataset\.xlsx is a spreadsheet: pip install 'xcoop\[xlsx\]'"):
        load("ph2", root)


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
    assert labels[f"fitzpatrick17k/{md5(5)}.jpg"] == dict(zip(SKINCON, ("present", "absent", "present"), strict=True))
    assert labels[f"fitzpatrick17k/{md5(6)}.jpg"] == dict.fromkeys(SKINCON, "absent")
    ddi = load("skincon", root, TASK="malignant-vs-benign").concept_labels(folder)
    assert ddi["ddi/000004.png"] == dict(zip(SKINCON, ("present", "absent", "absent"), strict=True))
