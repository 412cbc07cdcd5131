"""Cross-dataset transfer: hand-computed cells, what is missing, what is no transfer, and the numbers in the files."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import IMAGES, write_cell, write_one

from xcoop.cli import main
from xcoop.results.benchmark import gather
from xcoop.results.compare import measure
from xcoop.results.record import UNTRAINED, checksum
from xcoop.results.report import Report, Wanted, report
from xcoop.results.table import MISSING, NONE, Sheet

ACCURACY = measure("accuracy")
HEADS = 3  # method, shots, source


def evaluate(cell: Path, target: str, right: dict[int, Sequence[int]], classes: str = "all", **facts: Any) -> None:
    """Records evaluations of a cell's runs on another dataset; `right` as in `write_cell`."""
    for seed, good in right.items():
        folder = cell / f"seed{seed}" / "evaluation" / f"{target}_{classes}"
        write_one(folder, target, cell.parent.name, 1, seed, good, subsample=classes, **facts)


def change(folder: Path, **values: Any) -> None:
    """Changes a record as if the run had written it so."""
    record = json.loads((folder / "results.json").read_text()) | values
    record["checksum"] = checksum(record)
    (folder / "results.json").write_text(json.dumps(record))


def made(out: Path, seeds: Sequence[int] = (1, 2), draws: int = 50) -> Report:
    return report(gather(out, seeds), Wanted((ACCURACY,), figures=False, draws=draws))


def sheet_of(out: Path, key: str = "derm-transfer-accuracy") -> Sheet:
    return {sheet.key: sheet for sheet in made(out).sheets}[key]


def texts(sheet: Sheet) -> dict[tuple[str, str], list[str]]:
    return {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in sheet.rows}


def shown(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Trained on derm (real); on ham and isic (real), where XCoOp lacks a seed on isic, and on sketch (drawn)."""
    coop = write_cell(tmp_path, "derm", "CoOp", 1, {1: range(36), 2: range(32)}, phantom=False)
    evaluate(coop, "ham", {1: range(20), 2: range(24)}, phantom=False)
    evaluate(coop, "isic", {1: range(30), 2: range(34)}, phantom=False)
    evaluate(coop, "sketch", {1: range(10), 2: range(14)})
    xcoop = write_cell(tmp_path, "derm", "XCoOp", 1, {1: range(38), 2: range(38)}, phantom=False)
    evaluate(xcoop, "ham", {1: range(28), 2: range(28)}, phantom=False)
    evaluate(xcoop, "isic", {1: range(28)}, phantom=False)
    evaluate(xcoop, "sketch", {1: range(28), 2: range(28)})
    zero = write_cell(tmp_path, "derm", "ZeroshotCLIP", None, {1: range(20)}, phantom=False)
    evaluate(zero, "ham", {1: range(16)}, phantom=False)
    evaluate(zero, "isic", {1: range(24)}, phantom=False)
    evaluate(zero, "sketch", {1: range(8)})
    return tmp_path


def test_cells_and_means_by_hand(out: Path) -> None:
    sheet = sheet_of(out)
    assert sheet.head == (
        "Method", "Shots", "derm, the source", "ham", "isic", "sketch (phantom)", "Mean of 2 targets",
    )  # fmt: skip
    of_seeds = [(20 / 40 + 30 / 40) / 2, (24 / 40 + 34 / 40) / 2]  # without the drawn target
    assert texts(sheet) == {
        ("ZeroshotCLIP", NONE): ["50.0", "40.0", "60.0", "20.0", "50.0"],
        ("CoOp", "1"): [shown([0.9, 0.8]), shown([0.5, 0.6]), shown([0.75, 0.85]), shown([0.25, 0.35]),
                        shown(of_seeds)],
        ("XCoOp", "1"): ["95.0 ± 0.0", "70.0 ± 0.0", "70.0 (seeds 1)", "70.0 ± 0.0", MISSING],
    }  # fmt: skip
    said = " ".join((*sheet.notes, *sheet.origin))
    assert "Mean of 2 targets (ham, isic): of each seed" in said
    assert "phantom: drawn images; not a clinical result." in said
    assert "Test images: derm 40; ham 40; isic 40; sketch (phantom) 40." in said


def test_drawn_and_real_targets_have_means_of_their_own(out: Path) -> None:
    for name in ("CoOp", "XCoOp"):
        evaluate(out / "derm" / name / "phantom_1shots", "doodle", {1: range(20), 2: range(20)})
    sheet = sheet_of(out)
    assert sheet.head[-2:] == ("Mean of 2 real targets", "Mean of 2 phantom targets")
    assert sheet.head[HEADS + 2 : -2] == ("doodle (phantom)", "sketch (phantom)")
    rows = texts(sheet)
    assert rows["CoOp", "1"][-1] == shown([(10 + 20) / 80, (14 + 20) / 80])
    assert rows["XCoOp", "1"][-2:] == [MISSING, "60.0 ± 0.0"]
    assert rows["ZeroshotCLIP", NONE][3:] == [MISSING, "20.0", "50.0", MISSING]


def test_what_was_begun_or_damaged_is_missing_and_stops_the_mean(out: Path) -> None:
    evaluations = out / "derm" / "CoOp" / "phantom_1shots" / "seed2" / "evaluation"
    (evaluations / "ph2_all").mkdir()
    (evaluations / "ham_all" / "results.json").write_text("{}")
    found = made(out)
    assert [line for line in found.damaged if str(evaluations / "ham_all") in line]
    (sheet,) = (sheet for sheet in found.sheets if sheet.key == "derm-transfer-accuracy")
    assert sheet.head[-1] == "sketch (phantom)"  # nothing is known of ph2, nor, therefore, of any mean
    assert "Not shown, since every cell of it is missing: ph2, Mean of 3 targets." in sheet.notes
    assert texts(sheet)["CoOp", "1"][1] == "50.0 (seeds 1)"


def test_a_training_that_is_gone_takes_its_evaluations_with_it(out: Path) -> None:
    (out / "derm" / "CoOp" / "phantom_1shots" / "seed2" / "results.json").unlink()
    seeds = [f"{value} (seeds 1)" for value in ("90.0", "50.0", "75.0", "25.0")]
    assert texts(sheet_of(out))["CoOp", "1"] == [*seeds, MISSING]


def test_what_is_no_transfer(tmp_path: Path) -> None:
    """The training's own data, other classes, splits and epochs, and models that were never trained."""
    cell = write_cell(tmp_path, "derm", "CoOp", 1, {1: range(36)})
    below = cell / "seed1" / "evaluation"
    evaluate(cell, "derm", {1: range(36)})
    evaluate(cell, "ham", {1: range(20)}, classes="new")
    for name, changes in (
        ("isic", {"split": "val"}),
        ("ph2", {"load_epoch": 5}),
        ("sketch", {"evaluated_from": UNTRAINED}),
    ):
        evaluate(cell, name, {1: range(20)})
        change(below / f"{name}_all", **changes)
    write_one(below / "ham_all_epoch5", "ham", "CoOp", 1, 1, range(20))
    assert gather(tmp_path).transfers == ()
    assert not any("transfer" in sheet.key for sheet in made(tmp_path, (1,)).sheets)


def test_own_data_under_the_datasets_registered_name_is_no_transfer_but_other_data_is(tmp_path: Path) -> None:
    """A folder dataset's configuration is `mine`; `train.py --eval-only` calls what it evaluates `Folder`."""
    cell = tmp_path / "mine" / "CoOp" / "phantom_1shots"
    write_one(cell / "seed1", "Folder", "CoOp", 1, 1, range(36))
    write_one(cell / "seed1" / "evaluation" / "Folder_all", "Folder", "CoOp", 1, 1, range(36))
    assert gather(tmp_path).transfers == ()
    write_one(cell / "seed2", "Folder", "CoOp", 1, 2, range(36))
    write_one(cell / "seed2" / "evaluation" / "Folder_all", "Folder", "CoOp", 1, 2, range(12), images=24)
    assert texts(sheet_of(tmp_path, "mine-transfer-accuracy"))["CoOp", "1"][1] == "50.0 (seeds 2)"


def test_names_that_differ_in_capitals_are_one_target_and_that_of_the_sweep_counts(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "derm", "CoOp", 1, {1: range(36), 2: range(32)})
    evaluate(cell, "ham", {1: range(20), 2: range(24)})
    (cell / "seed2" / "evaluation" / "ham_all").rename(cell / "seed2" / "evaluation" / "HAM_all")
    evaluate(cell, "HAM", {1: range(10)})
    sheet = sheet_of(tmp_path)
    assert sheet.head[HEADS:] == ("ham (phantom)",)  # a mean of one target would say nothing new
    assert texts(sheet)["CoOp", "1"][1] == shown([0.5, 0.6])


def test_seeds_of_different_configurations_are_not_averaged(out: Path) -> None:
    change(out / "derm" / "CoOp" / "phantom_1shots" / "seed2" / "evaluation" / "ham_all", config_hash="f" * 64)
    sheet = sheet_of(out)
    assert texts(sheet)["CoOp", "1"][1] == MISSING
    assert texts(sheet)["CoOp", "1"][-1] == MISSING
    assert any("ham: the seeds of CoOp phantom were evaluated with different" in note for note in sheet.notes)


def test_other_test_images_are_warned_of_and_not_averaged(tmp_path: Path) -> None:
    for name, images in (("CoOp", 40), ("XCoOp", 20)):
        cell = write_cell(tmp_path, "derm", name, 1, {1: range(36)})
        evaluate(cell, "ham", {1: range(10)}, images=images)
        evaluate(cell, "isic", {1: range(10)})
    sheet = sheet_of(tmp_path)
    assert any(note.startswith("ham: WARNING") for note in sheet.notes)
    assert "Not shown, since every cell of it is missing: Mean of 2 phantom targets." in sheet.notes


def test_intervals_are_those_of_the_images(out: Path) -> None:
    """CoOp on ham: 20 and 24 of 40. Only the four images on which the seeds differ, the first 20 and the rest vary."""
    found = made(out, draws=4000)
    (line,) = (one for one in found.cells if (one["trainer"], one["target"]) == ("CoOp", "ham"))
    each = [1.0] * 20 + [0.5] * 4 + [0.0] * 16  # the mean over the seeds, image by image
    by_class = [each[label::2] for label in (0, 1)]
    width = 1.96 * math.sqrt(sum(len(own) ** 2 * statistics.pvariance(own) / len(own) for own in by_class)) / IMAGES
    assert line["mean"] == pytest.approx(0.55)
    assert line["low"] == pytest.approx(0.55 - width, abs=0.02)
    assert line["high"] == pytest.approx(0.55 + width, abs=0.02)
    (sheet,) = (sheet for sheet in found.sheets if sheet.key == "derm-transfer-accuracy")
    below = {row[0].text: [cell.below for cell in row[2:]] for row in sheet.rows}
    assert below["CoOp"][1] == f"[{100 * line['low']:.1f}, {100 * line['high']:.1f}]"
    assert texts(sheet)["CoOp", "1"][1] == shown([0.5, 0.6])
    assert [bool(ends) for ends in below["XCoOp"]] == [True, True, True, True, False]  # of the mean over targets, none


def test_the_command_writes_them_in_all_formats(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--seeds", "1 2", "--draws", "20", "--no-figures", "--metrics", "accuracy"]
    assert main(["results", str(out), *words]) == 0
    told = capsys.readouterr().out
    assert "Accuracy of models trained on derm, on other datasets" in told
    page = (out / "results" / "benchmark.html").read_text()
    assert ">Cross-dataset transfer</h2>" in page
    assert 'class="banner"' in page  # of the drawn target alone
    for kind, ends in (("txt", "["), ("md", r"<br>\["), ("tex", r"{\scriptsize ["), ("csv", " [")):
        table = (out / "results" / "tables" / f"derm-transfer-accuracy.{kind}").read_text()
        assert "sketch (phantom)" in table
        assert ends in table
    lines = list(csv.DictReader((out / "results" / "cells.csv").read_text().splitlines()))
    moved = {(f"derm to {name}", "derm", name) for name in ("ham", "isic", "sketch")}
    places = [(line["dataset"], line["source"], line["target"]) for line in lines]
    assert {*places} == {("derm", "derm", "derm"), *moved}
    assert len(places) == 3 + 9
    assert list(lines[0])[-2:] == ["source", "target"]  # behind the columns of old
    assert {line["target"]: line["missing_seeds"] for line in lines if line["missing_seeds"]} == {"isic": "2"}
