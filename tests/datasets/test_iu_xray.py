"""IU X-Ray: frontal images, reports that stay together, and Open-i's XML."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tree_tools import edit, load, write_csv
from trees_iu_xray import heading_of, iu_xray, open_i

from xcoop.datasets.iu_xray import key_of
from xcoop.utils.console import DatasetError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def labels_of(dataset: object) -> dict[str, int]:
    items = [item for part in (dataset.train_x, dataset.val, dataset.test) for item in part]
    return {Path(item.impath).name: item.label for item in items}


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
    expected = {f"{uid}_IM-{uid:04d}-4001.dcm.png": uid % 2 for uid in range(1, 41)}
    assert labels_of(dataset) == expected | {"1_IM-0001-4001-0002.dcm.png": 1}
    assert sorted(dataset.patients.values()) == sorted(["1", *(str(uid) for uid in range(1, 41))])


def test_of_open_i_one_image_a_report_is_taken(root: Path) -> None:
    open_i(root)
    labels = labels_of(load("iu_xray", root))
    expected = {f"CXR{uid}_IM-{uid:04d}-4004.png": uid % 2 for uid in range(2, 41)}
    assert labels == expected | {"CXR1_1_IM-0001-4004.png": 1}


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
    assert all(name.endswith("-1001.png") for name in labels)


def test_normal_with_another_heading_is_abnormal(root: Path) -> None:
    folder = open_i(root)
    assert heading_of(2) == "normal"
    edit(folder / "NLMCXR_reports/ecgen-radiology/2.xml", "</major>", "</major><major>Scoliosis</major>")
    assert labels_of(load("iu_xray", root))["CXR2_IM-0002-4004.png"] == 1


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
