"""Intervals of base, new and harmonic mean: planted patients that both halves share, and what cannot be told."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from synthetic_runs import write_cell, write_one

from xcoop.results.benchmark import gather
from xcoop.results.compare import Measure, measure
from xcoop.results.report import Report, Wanted, report
from xcoop.results.table import MISSING, UNKNOWN, Sheet

ACCURACY = measure("accuracy")
TAG = "subsample_classes-base"


def write(out: Path, method: str, base: dict[int, Sequence[int]], new: dict[int, Sequence[int]]) -> Path:
    """Records one cell on both halves; images of one number in the two are of one patient."""
    cell = write_cell(out, "derm", method, 4, base, tag=TAG, subsample="base")
    for seed, good in new.items():
        write_one(cell / f"seed{seed}" / "evaluation" / "derm_new", "derm", method, 4, seed, good, subsample="new")
    return cell


def made(out: Path, first: Measure = ACCURACY, draws: int = 400) -> Report:
    return report(gather(out, (1, 2)), Wanted((first,), figures=False, draws=draws))


def sheet_of(found: Report) -> Sheet:
    (sheet,) = (sheet for sheet in found.sheets if "-base-classes-new-" in sheet.key)
    return sheet


def cells(sheet: Sheet) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[2:]] for row in sheet.rows}


def intervals(sheet: Sheet) -> dict[str, list[str]]:
    return {row[0].text: [cell.below for cell in row[2:]] for row in sheet.rows}


def test_a_half_that_repeats_the_other_adds_nothing(tmp_path: Path) -> None:
    """Right on the same patients in both halves: b = n in every draw of whole patients, so H = b, ends included."""
    right = {1: range(28), 2: range(4, 32)}
    write(tmp_path, "CoOp", right, right)
    sheet = sheet_of(made(tmp_path))
    assert cells(sheet)["CoOp"] == ["70.0 ± 0.0"] * 3
    base, new, harmonic = intervals(sheet)["CoOp"]
    assert base == new == harmonic
    low, high = map(float, base.strip("[]").split(", "))
    assert low < 70.0 < high
    assert sheet.lead


def test_cells_by_hand_and_halves_of_other_seeds_have_no_harmonic_mean(tmp_path: Path) -> None:
    write(tmp_path, "CoOp", {1: range(36), 2: range(32)}, {1: range(20), 2: range(24)})
    write(tmp_path, "CoCoOp", {1: range(28), 2: range(28)}, {1: range(20)})
    write(tmp_path, "XCoOp", {1: range(40)}, {})
    table = sheet_of(made(tmp_path))
    harmonic = [100 * 2 * b * n / (b + n) for b, n in ((0.9, 0.5), (0.8, 0.6))]
    both = f"{statistics.fmean(harmonic):.1f} ± {statistics.stdev(harmonic):.1f}"
    assert cells(table) == {
        "CoOp": ["85.0 ± 7.1", "55.0 ± 7.1", both],
        "CoCoOp": ["70.0 ± 0.0", "50.0 (seeds 1)", MISSING],
        "XCoOp": ["100.0 (seeds 1)", MISSING, MISSING],
    }
    base, new, harmonic_interval = intervals(table)["CoCoOp"]
    for found, mean in ((base, 70.0), (new, 50.0)):
        low, high = map(float, found.strip("[]").split(", "))
        assert low < mean < high
    assert harmonic_interval == ""
    assert intervals(table)["XCoOp"][1:] == ["", ""]


def test_a_harmonic_mean_of_errors_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "CoOp", {1: range(28)}, {1: range(20)})
    sheet = sheet_of(made(tmp_path, measure("brier")))
    assert cells(sheet)["CoOp"][2] == UNKNOWN
    assert [bool(found) for found in intervals(sheet)["CoOp"]] == [True, True, False]
    assert any("lower is better: a harmonic mean would hide the worse half" in note for note in sheet.notes)
