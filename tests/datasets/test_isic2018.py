"""ISIC 2018: lesions that stay together, and HAM10000 alone in its three spellings."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from tree_tools import edit, load
from trees_isic2018 import CLASSES, LESIONS, ham10000, isic2018

from xcoop.data.about import about
from xcoop.utils.console import DatasetError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def lesions(dataset: object) -> list[set[str]]:
    return [{dataset.patients[item.impath] for item in part} for part in (dataset.train_x, dataset.val, dataset.test)]


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
    train, val, test = lesions(dataset)
    assert not train & val and not test & (train | val)  # noqa: PT018 - one claim
    # Of 10 images a diagnosis in lesions of 2: 4 reach 30 % for test, 2 reach 10 % for val.
    for part, count in ((dataset.train_x, 4), (dataset.val, 2), (dataset.test, 4)):
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


def test_the_published_counts_add_up() -> None:
    counts = about("isic2018").counts["seven-classes"]
    assert [sum(counts[part].values()) for part in ("train", "test")] == [10015, 1512]
