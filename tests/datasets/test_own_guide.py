"""`xcoop data info folder`: what it tells is what is read, and what it shows works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tree_tools import picture, write_csv
from trees_folder import directories, split_directories, table

from xcoop.cli import main
from xcoop.config.plugins import get_cfg
from xcoop.data.dataset import read_raw
from xcoop.data.ownguide import EXAMPLE, KEYS, TABLE, TREE, WIDTH, guide
from xcoop.data.ownplace import OTHERS
from xcoop.data.owntable import COLUMNS, EXAMPLES, SPLIT_WORDS, _matching
from xcoop.engine.config import flatten
from xcoop.runs.plan import make_plans
from xcoop.utils.images import SUFFIXES


def shown(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["data", "info", "folder", *words]) == code
    found = capsys.readouterr()
    return found.err if code else found.out


def test_it_tells_all_of_what_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys)
    for name in (*SUFFIXES, *OTHERS, *SPLIT_WORDS, *KEYS, *(one for own in EXAMPLES.values() for one in own)):
        assert name in told
    assert "read_own" not in told
    assert max(map(len, told.splitlines())) <= WIDTH + 2
    assert EXAMPLE in told


def test_its_examples_are_columns_and_keys() -> None:
    assert set(EXAMPLES) == set(COLUMNS)
    for role, names in EXAMPLES.items():
        assert [name for name in names if _matching(role, [name]) != [name]] == []
    assert {key for key in KEYS if key not in flatten(get_cfg())} == set()


def test_its_trees_and_its_table_can_be_read(root: Path) -> None:
    seed = 0
    for line in TREE.splitlines()[1:]:
        left, right = line[:38], line[38:]
        place, _, files = left.strip().partition("/")
        names = re.findall(r"[\w/]+\.(?:png|jpg)", files)
        split = right.strip().partition("/")[0]
        for path in [
            *(f"a/{place}/{name}" for name in names),
            *(f"b/{split}/{c}/{seed}.png" for c in ("x", "y") if split),
        ]:
            picture(root / path, seed := seed + 1)
    assert read_raw(_config(root / "a")).class_names == ("benign", "malignant")
    assert [bool(items) for _, items in read_raw(_config(root / "b")).splits] == [True] * 3
    header, *rows = (line.split(",") for line in TABLE.splitlines())
    assert [_matching(role, header) for role in COLUMNS] == [["path"], ["label"], ["split"], ["patient"]]
    write_csv(root / "c" / "t.csv", header, [*rows, ("images/b2.png", "malignant", "train", "p08")])
    for i, name in enumerate(("a1", "b1", "b2")):
        picture(root / "c" / "images" / f"{name}.png", i)
    assert [len(items) for _, items in read_raw(_config(root / "c")).splits] == [2, 0, 1]


def _config(path: Path) -> object:
    cfg = get_cfg()
    cfg.DATASET.NAME, cfg.DATASET.PATH = "Folder", str(path)
    return cfg


def test_its_command_can_be_pasted(tmp_path: Path) -> None:
    words = EXAMPLE.removeprefix("bash scripts/main.sh ").split()
    (plan,) = make_plans(words, "data", str(tmp_path), [1])
    assert (plan.trainer, plan.shots) == ("XCoOp", 16)
    assert any(line.split()[:3] == ["xcoop", "data", "check"] for line in guide())


def test_what_is_found_in_a_place(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = directories(root)
    (folder / "scan.dcm").write_bytes(b"x")
    told = shown(capsys, "DATASET.PATH", str(folder))
    assert told.splitlines()[0] == f"{folder}: 3 classes, 30 images"
    assert re.search(r"class +all\n-.*\n +leaf +10\n +root +10\n +stem +10\n +images +30\n", told)
    assert "Splits: none are stated; 30% become test and 10% val, by patient.\n  None was made yet." in told
    assert "Patients: not told." in told
    assert f"Concept bank: none ({folder}/concepts.yaml)" in told
    assert "! 1 files beside the images are left out: 1 .dcm (scan.dcm)" in told
    assert sorted(path.name for path in folder.iterdir()) == ["leaf", "root", "scan.dcm", "stem"], "nothing is written"
    (folder / "split-seed_0.json").write_text("{}")
    assert f"Made before, and used: {folder}/split-seed_0.json" in shown(capsys, "DATASET.PATH", str(folder))


def test_what_is_found_in_a_table_and_in_splits(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, "DATASET.PATH", str(table(root) / "list.csv"))
    assert re.search(r"class +train +val +test\n-.*\n +leaf +5 +2 +3\n", told)
    assert "Patients: 30, of 30 images." in told
    assert "read image from 'Image', label from 'Diagnosis', split from 'Split', patient from 'Patient_ID'" in told
    folder = split_directories(tmp_path)
    for path in [*(folder / "Validation").rglob("*.png"), *(folder / "Validation").glob("*"), folder / "Validation"]:
        path.rmdir() if path.is_dir() else path.unlink()
    assert "Splits: val is not stated; 10% of train become val" in shown(capsys, "DATASET.PATH", str(folder))


def test_a_place_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no folder or file" in shown(capsys, "DATASET.PATH", str(tmp_path / "x"), code=2)
    assert "DATASET.TEST_FROM: Unknown value 'vale'. Did you mean 'val'?" in (
        shown(capsys, "DATASET.TEST_FROM", "vale", code=2)
    )


def test_other_datasets_are_found_by_keys_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", "derm7pt", "DATASET.PATH", str(tmp_path)]) == 2
    assert "was not found" in capsys.readouterr().err
