"""Cells that a spreadsheet would compute are shown as they are, and read back as they were."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from synthetic_runs import config, trainer

from xcoop.results.predictions import read_predictions
from xcoop.results.record import PREDICTIONS, write_run
from xcoop.results.sheet import Sheet, Shown
from xcoop.results.sheet_text import table_csv
from xcoop.results.spreadsheets import from_spreadsheet, spreadsheet_safe

FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd",
    "@SUM(A1)",
    "\t=1",
    " =1",
    "'=1",
    "''-x",
    "＝1",
    "-",
    "=",
    "+a/b.png",
]
TEXTS = ["", "a=b", "it's", "'quoted'", "-0.5", "+1.2e-05", "-3.1 ± 0.4", "-0.1 [-0.3, 0.2] *", "85.1 ± 1.2 ~"]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_marked(text: str) -> None:
    safe = str(spreadsheet_safe(text))
    assert safe == f"'{text}"
    assert from_spreadsheet(safe) == text


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_and_figures_stay(text: str) -> None:
    assert spreadsheet_safe(text) == text
    assert from_spreadsheet(text) == text


def test_numbers_stay_numbers() -> None:
    assert spreadsheet_safe(-1.5) == -1.5
    assert spreadsheet_safe(None) is None


def test_predictions_are_read_back(tmp_path: Path) -> None:
    stub = trainer(config(tmp_path))
    paths = [f"/{name}/{i}.png" for i, name in enumerate(("=1+1", "@x", "plain"))]
    folder = Path(stub.dm.dataset.dataset_dir)
    impaths = [str(folder) + path[:1] + path[1:] for path in paths]
    stub.dm.dataset.patients = dict(zip(impaths, ("-2+3", "+49", "p1"), strict=True))
    write_run(stub, [0, 1, 0], np.full((3, 2), 0.5), impaths)
    found = read_predictions(tmp_path)
    assert [Path(image).parts[-2] for image in found.images] == ["=1+1", "@x", "plain"]
    assert found.patients == ("-2+3", "+49", "p1")
    with (tmp_path / PREDICTIONS).open(newline="", encoding="utf-8") as file:
        cells = [row[:2] for row in csv.reader(file)][1:]
    assert not [cell for row in cells for cell in row if cell.startswith(("=", "@", "-2"))]


def test_tables_keep_their_figures() -> None:
    sheet = Sheet("k", "t", ("method", "=gain"), ((Shown("@own"), Shown("-0.12 ± 0.30", "best")),))
    assert table_csv(sheet).splitlines()[-2:] == ["method,'=gain", "'@own,-0.12 ± 0.30 *"]
