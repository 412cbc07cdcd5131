"""The chest X-rays: the archive's patients, causes and nesting; IU X-Ray's frontal images, reports and Open-i's XML."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from tree_tools import edit, images_of, labels_of, load, picture, write_csv
from trees_iu_xray import heading_of, iu_xray, open_i
from trees_pneumonia import pneumonia

from xcoop.datasets.iu_xray import key_of
from xcoop.datasets.pneumonia import cause_of, patient_of
from xcoop.utils.console import DatasetError


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
    assert "scan7" in images_of(load("pneumonia", root))
    with pytest.raises(DatasetError, match=r"scan7\.jpeg"):
        load("pneumonia", root, TASK="three-class")


def test_the_nested_copy_and_the_official_val_are_left_out(root: Path) -> None:
    folder = pneumonia(root)
    shutil.copytree(folder, folder / "chest_xray")
    dataset = load("pneumonia", root)
    assert len(dataset.train_x) + len(dataset.val) == 96
    assert not [item for item in dataset.val if "/val/" in item.impath]


def test_the_share_of_validation_is_val_percent(root: Path) -> None:
    pneumonia(root)
    assert len(load("pneumonia", root, VAL_PERCENT=0.5).val) == 48
    with pytest.raises(ValueError, match="between 0 and 1"):
        load("pneumonia", root, VAL_PERCENT=0.0)


def test_a_patient_of_train_and_test_is_dropped_from_train(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = pneumonia(root)
    picture(folder / "test/PNEUMONIA/person3_virus_7000.jpeg", 950)
    dataset = load("pneumonia", root)
    names = {Path(item.impath).name[:12] for item in (*dataset.train_x, *dataset.val)}
    assert "person3_viru" not in names
    assert "person3_bact" in names
    assert "2 " in caplog.text
    assert "images have their patient in test too, left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("CXR1_1_IM-0001-4001", ("1", "IM-0001-4001")),
        ("1_IM-0001-4001.dcm.png", ("1", "IM-0001-4001")),
        ("CXR21_IM-0729-1001-0002", ("21", "IM-0729-1001-0002")),
        ("5_IM-2117-1003002.dcm.png", ("5", "IM-2117-1003002")),
    ],
)
def test_the_key_of_an_image_in_both_versions(name: str, key: tuple[str, str]) -> None:
    assert key_of(name) == key


def test_frontal_images_of_indexed_reports(root: Path) -> None:
    iu_xray(root)
    dataset = load("iu_xray", root)
    expected = {f"{uid}_IM-{uid:04d}-4001.dcm": uid % 2 for uid in range(1, 41)}
    assert labels_of(dataset) == expected | {"1_IM-0001-4001-0002.dcm": 1}
    assert sorted(dataset.patients.values()) == sorted(["1", *(str(uid) for uid in range(1, 41))])


def test_of_open_i_one_image_a_report_is_taken(root: Path) -> None:
    open_i(root)
    labels = labels_of(load("iu_xray", root))
    expected = {f"CXR{uid}_IM-{uid:04d}-4004": uid % 2 for uid in range(2, 41)}
    assert labels == expected | {"CXR1_1_IM-0001-4004": 1}


def test_a_table_of_views_beside_open_i_is_heeded(root: Path) -> None:
    folder = open_i(root)
    rows = [
        [uid, f"{uid}_IM-{uid:04d}-{n}.dcm.png", view]
        for uid in range(1, 43)
        for n, view in ((1001, "Frontal"), (4004, "Lateral"))
    ]
    write_csv(folder / "indiana_projections.csv", ["uid", "filename", "projection"], rows)
    labels = labels_of(load("iu_xray", root))
    assert len(labels) == 40
    assert all(name.endswith("-1001") for name in labels)


def test_normal_with_another_heading_is_abnormal(root: Path) -> None:
    folder = open_i(root)
    assert heading_of(2) == "normal"
    edit(folder / "NLMCXR_reports/ecgen-radiology/2.xml", "</major>", "</major><major>Scoliosis</major>")
    assert labels_of(load("iu_xray", root))["CXR2_IM-0002-4004"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE x [<!ENTITY a "aa">]><eCitation>&a;</eCitation>', "declares a document type"),
        ('<!doctype x SYSTEM "file:///etc/passwd"><eCitation/>', "declares a document type"),
        ("<eCitation><uId id='CXR3'/>", "is no XML report"),
        ("<html><body/></html>", "is no report of Open-i: it must have the elements 'uId'"),
    ],
)
def test_reports_that_are_none_are_refused(root: Path, text: str, message: str) -> None:
    (open_i(root) / "NLMCXR_reports/ecgen-radiology/3.xml").write_text(text)
    with pytest.raises(DatasetError, match=rf"3\.xml {message}"):
        load("iu_xray", root)


def test_xml_in_another_encoding_hides_nothing(root: Path) -> None:
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x [<!ENTITY a "aa">]><eCitation>&a;</eCitation>'
    (open_i(root) / "NLMCXR_reports/ecgen-radiology/3.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(DatasetError, match=r"3\.xml is no XML report"):
        load("iu_xray", root)


def test_a_folder_without_reports_is_named(root: Path) -> None:
    reports = open_i(root) / "NLMCXR_reports"
    shutil.rmtree(reports / "ecgen-radiology")
    with pytest.raises(DatasetError, match="NLMCXR_reports holds no reports"):
        load("iu_xray", root)
