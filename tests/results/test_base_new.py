"""Intervals of base, new and harmonic mean: planted patients that both halves share, and what cannot be told."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import pytest
from synthetic_runs import write_cell, write_one

from xcoop.results.benchmark import gather
from xcoop.results.compare import Measure, assess, harmonic_intervals, measure
from xcoop.results.record import checksum
from xcoop.results.report import Report, Wanted, report
from xcoop.results.sheet import MISSING, UNKNOWN, Sheet
from xcoop.results.tables import halves

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


def sheets(found: Report) -> tuple[Sheet, Sheet]:
    """The table, and the one with intervals."""
    one, other = (sheet for sheet in found.sheets if "-base-classes-new-" in sheet.key)
    return one, other


def cells(sheet: Sheet) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[2:]] for row in sheet.rows}


def test_a_half_that_repeats_the_other_adds_nothing(tmp_path: Path) -> None:
    """Right on the same patients in both halves: b = n in every draw of whole patients, so H = b, ends included."""
    right = {1: range(28), 2: range(4, 32)}
    write(tmp_path, "CoOp", right, right)
    _, intervals = sheets(made(tmp_path))
    base, new, harmonic = cells(intervals)["CoOp"]
    assert base == new == harmonic
    assert base.startswith("70.0 [")
    assert intervals.minor


def test_halves_that_complement_each_other_never_pass_the_middle(tmp_path: Path) -> None:
    """Each patient is right in one half alone: n = 1 - b in every draw, and H = 2 b (1 - b) is 1/2 at most."""
    write(tmp_path, "CoOp", {1: range(20)}, {1: range(20, 40)})
    base, new = halves([assess(group, (ACCURACY,), []) for group in gather(tmp_path).groups])[0]
    (found,) = harmonic_intervals(base, new, ACCURACY, draws=2000).values()
    assert found is not None
    assert found.estimate == pytest.approx(0.5)
    assert found.high <= 0.5 + 1e-12
    far = NormalDist().inv_cdf(1 - 0.0125) * (0.25 / 40) ** 0.5  # of b from 1/2: both of its tails lie below H's end
    assert found.low == pytest.approx(0.5 - 2 * far**2, abs=0.01)


def test_cells_by_hand(tmp_path: Path) -> None:
    write(tmp_path, "CoOp", {1: range(36), 2: range(32)}, {1: range(20), 2: range(24)})
    write(tmp_path, "XCoOp", {1: range(40)}, {})
    table, _ = sheets(made(tmp_path))
    harmonic = [100 * 2 * b * n / (b + n) for b, n in ((0.9, 0.5), (0.8, 0.6))]
    both = f"{statistics.fmean(harmonic):.1f} ± {statistics.stdev(harmonic):.1f}"
    assert cells(table) == {
        "CoOp": ["85.0 ± 7.1", "55.0 ± 7.1", both],
        "XCoOp": ["100.0 (seeds 1)", MISSING, MISSING],
    }


def test_halves_of_other_seeds_have_no_harmonic_mean(tmp_path: Path) -> None:
    write(tmp_path, "CoOp", {1: range(28), 2: range(28)}, {1: range(20)})
    write(tmp_path, "XCoOp", {1: range(28), 2: range(28)}, {})
    table, intervals = sheets(made(tmp_path))
    assert cells(table)["CoOp"] == ["70.0 ± 0.0", "50.0 (seeds 1)", MISSING]
    base, new, harmonic = cells(intervals)["CoOp"]
    assert base.startswith("70.0 [")
    assert base.endswith("]")
    assert new.endswith("] (seeds 1)")
    assert harmonic == MISSING
    assert cells(intervals)["XCoOp"][1:] == [MISSING, MISSING]


def test_a_harmonic_mean_of_errors_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "CoOp", {1: range(28)}, {1: range(20)})
    for sheet in sheets(made(tmp_path, measure("brier"))):
        assert cells(sheet)["CoOp"][2] == UNKNOWN
        assert any("lower is better: a harmonic mean would hide the worse half" in note for note in sheet.notes)


def test_predictions_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, "CoOp", {1: range(28)}, {1: range(20)}) / "seed1" / "evaluation" / "derm_new"
    record = json.loads((folder / "results.json").read_text()) | {"n_test": 39}
    record["checksum"] = checksum(record)
    (folder / "results.json").write_text(json.dumps(record))
    found = made(tmp_path)
    assert any(str(folder) in line for line in found.damaged)
    table, intervals = sheets(found)
    assert cells(table)["CoOp"][1] == "50.0 (seeds 1)"
    assert cells(intervals)["CoOp"][1:] == [UNKNOWN, UNKNOWN]
