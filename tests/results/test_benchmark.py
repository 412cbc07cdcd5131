"""The tables of a benchmark: hand-computed cells, what is missing, what cannot be compared, and the formats."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import write_cell

from xcoop.evaluation.statistics import image_counts
from xcoop.results.benchmark import Benchmark, Method, gather
from xcoop.results.compare import against_reference, marks, measure, outcomes
from xcoop.results.record import checksum
from xcoop.results.report import Wanted, report
from xcoop.results.table import BEST, MISSING, NONE, TIED, Sheet, Shown, latex, markdown, table_csv, terminal
from xcoop.results.tables import mean_sheets

ACCURACY = measure("accuracy")
FIRST, LAST = range(20), range(20, 40)


def texts(sheet: Sheet) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in sheet.rows}


def sheets(benchmark: Benchmark, **wanted: object) -> dict[str, Sheet]:
    found = report(benchmark, Wanted((ACCURACY,), figures=False, draws=50, **wanted))  # type: ignore[arg-type]
    return {sheet.key: sheet for sheet in found.sheets}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """XCoOp is right on 36, 37, 38 of 40; CoOp on 24 at both shots, but lacks a seed at 4; zero-shot on 20."""
    for shots in (1, 4):
        write_cell(tmp_path, "derm", "XCoOp", shots, {1: range(36), 2: range(37), 3: range(38)})
        seeds = (1, 2, 3) if shots == 1 else (1, 2)
        write_cell(tmp_path, "derm", "CoOp", shots, dict.fromkeys(seeds, range(24)))
    write_cell(tmp_path, "derm", "ZeroshotCLIP", None, {1: FIRST})
    return tmp_path


def test_cells_are_the_means_over_seeds(out: Path) -> None:
    sheet = sheets(gather(out, (1, 2, 3)))["derm-accuracy"]
    spread = 100 * statistics.stdev([36 / 40, 37 / 40, 38 / 40])
    assert sheet.head == ("Method", "0 shots", "1 shot", "4 shots")
    assert texts(sheet) == {
        "ZeroshotCLIP": ["50.0", NONE, NONE],
        "CoOp": [NONE, "60.0 ± 0.0", "60.0 ± 0.0 (seeds 1 2)"],
        "XCoOp": [NONE, f"92.5 ± {spread:.1f}", f"92.5 ± {spread:.1f}"],
    }
    assert any("ddof 1" in note for note in sheet.notes)
    assert any("In brackets: the 95 % interval over the test images" in note for note in sheet.notes)
    (coop,) = (row for row in sheet.rows if row[0].text == "CoOp")
    low, high = map(float, coop[2].below.strip("[]").split(", "))
    assert low < 60.0 < high


def test_what_is_missing_everywhere_does_not_show(tmp_path: Path) -> None:
    write_cell(tmp_path, "derm", "XCoOp", 1, {1: range(36)})
    for folder in ("CoOp/phantom_1shots/seed1", "XCoOp/phantom_4shots/seed1", "ZeroshotCLIP/phantom/seed1"):
        (tmp_path / "derm" / folder).mkdir(parents=True)
    (tmp_path / "skin" / "CoOp" / "phantom_1shots" / "seed1").mkdir(parents=True)
    found = report(gather(tmp_path, (1,)), Wanted((ACCURACY,), figures=False, draws=50))
    sheet = found.sheets[0]
    assert (sheet.head, texts(sheet)) == (("Method", "1 shot"), {"XCoOp": ["90.0"]})
    assert "every cell of it is missing: ZeroshotCLIP, CoOp, 0 shots, 4 shots." in sheet.notes[-1]
    assert found.sections["skin"] == ["Nothing is finished on skin."]


def test_every_table_says_where_it_comes_from(out: Path) -> None:
    for sheet in sheets(gather(out, (1, 2, 3))).values():
        said = " ".join(sheet.origin)
        assert "phantom: drawn images; not a clinical result." in said
        for word in ("test_hash", "split_hash", "config_hash", "commit", "last_step", "xcoop", "torch"):
            assert word in said, (sheet.key, word)


def test_the_best_is_marked_and_what_lacks_seeds_is_not(out: Path) -> None:
    sheet = sheets(gather(out, (1, 2, 3)))["derm-accuracy"]
    found = {(row[0].text, name): cell.mark for row in sheet.rows for name, cell in zip(sheet.head, row, strict=True)}
    assert {place for place, mark in found.items() if mark} == {("XCoOp", "1 shot")}
    assert found["XCoOp", "1 shot"] == BEST


def test_what_is_not_significantly_worse_is_marked(tmp_path: Path) -> None:
    write_cell(tmp_path, "derm", "XCoOp", 1, {1: range(36)})
    write_cell(tmp_path, "derm", "CoOp", 1, {1: range(35)})
    write_cell(tmp_path, "derm", "CoCoOp", 1, {1: range(10)})
    (group,) = gather(tmp_path, (1,)).groups
    found = marks(group, ACCURACY, outcomes(group, []), draws=500)
    assert {place[0].trainer: mark for place, mark in found.items()} == {"XCoOp": BEST, "CoOp": TIED}
    assert list(marks(group, measure("ece"), outcomes(group, [])).values()) == [BEST]  # nothing can be tested


def test_comparisons_with_the_reference_state_their_number(out: Path) -> None:
    sheet = sheets(gather(out, (1, 2, 3)))["derm-comparisons"]
    assert [row[0].text for row in sheet.rows] == ["ZeroshotCLIP", "CoOp", "ZeroshotCLIP"]  # CoOp lacks a seed at 4
    zero, coop, _ = sheet.rows
    assert zero[2].text == "-42.5"
    assert coop[2].text == "-32.5"
    assert coop[6].text == "13 / 0"  # majority of XCoOp: the first 37; CoOp: the first 24
    assert coop[7].text == "< 0.001"  # 2 / 2^13
    assert any("over the 3 comparisons of this table" in note for note in sheet.notes)


def test_one_number_of_draws_is_behind_everything(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def drawn(units: Any, strata: Any, draws: int, seed: int) -> Any:
        seen.append(draws)
        return image_counts(units, strata, draws, seed)

    monkeypatch.setattr("xcoop.evaluation.statistics.image_counts", drawn)
    found = report(gather(out, (1, 2, 3)), Wanted((ACCURACY,), figures=False, draws=50))
    assert len(seen) > 5
    assert set(seen) == {50}
    (sheet,) = (sheet for sheet in found.sheets if sheet.key == "derm-comparisons")
    few = (
        "50 draws are few for 3 comparisons: the least corrected p-value is 0.118; give --draws 240 or more."  # 6 / 51
    )
    assert few in sheet.notes


def test_a_run_on_all_images_has_a_column_of_its_own_and_errors_of_calibration_no_interval(tmp_path: Path) -> None:
    write_cell(tmp_path, "derm", "CoOp", -1, {1: range(30)})
    ece = measure("ece")
    (sheet, *_) = report(gather(tmp_path, (1,)), Wanted((ece,), figures=False, draws=50)).sheets
    assert sheet.head == ("Method", "all images")
    assert sheet.rows[0][1].below == ""
    assert "neither intervals nor tests" in sheet.notes[0]


def test_no_mcnemar_where_patients_have_several_images(tmp_path: Path) -> None:
    for name, good in (("XCoOp", range(36)), ("CoOp", range(30))):
        write_cell(tmp_path, "derm", name, 1, {1: good}, several=True)
    sheet = sheets(gather(tmp_path, (1,)))["derm-comparisons"]
    assert [cell.text for cell in sheet.rows[0][6:]] == ["n/a", "n/a", "n/a"]
    assert any("McNemar's test is not given" in note for note in sheet.notes)


def test_runs_on_different_images_are_not_compared(tmp_path: Path) -> None:
    write_cell(tmp_path, "derm", "XCoOp", 1, {1: range(36)})
    write_cell(tmp_path, "derm", "CoOp", 1, {1: range(30)}, images=38)
    benchmark = gather(tmp_path, (1,))
    (group,) = benchmark.groups
    assert marks(group, ACCURACY, outcomes(group, [])) == {}
    assert against_reference(group, ACCURACY, outcomes(group, []), "XCoOp") == []
    found = report(benchmark, Wanted((ACCURACY,), figures=False, draws=50))
    (said,) = [part for part in found.sections["derm"] if isinstance(part, str)]
    assert "not all runs were tested on the same images" in said
    assert "CoOp" in said
    assert any("not all tested on the same images" in note for note in found.sheets[0].notes)


def test_means_over_datasets_only_where_all_cells_are(out: Path) -> None:
    for shots in (1, 4):
        write_cell(out, "skin", "XCoOp", shots, {1: range(20), 2: range(21), 3: range(22)})
        write_cell(out, "skin", "CoOp", shots, dict.fromkeys((1, 2, 3), range(12)))
    benchmark = gather(out, (1, 2, 3))
    (sheet,) = mean_sheets(benchmark, ACCURACY, benchmark.labels(), "XCoOp")
    of_seeds = [100 * (one / 40 + other / 40) / 2 for one, other in ((36, 20), (37, 21), (38, 22))]
    both = f"{statistics.fmean(of_seeds):.1f} ± {statistics.stdev(of_seeds):.1f}"
    assert texts(sheet) == {"CoOp": ["45.0 ± 0.0", MISSING], "XCoOp": [both, both]}
    assert "Not shown, since every cell of it is missing: ZeroshotCLIP, 0 shots." in sheet.notes
    assert any(note == "derm lacks CoOp (4 shots)." for note in sheet.notes)
    assert any(note == "skin lacks ZeroshotCLIP (0 shots)." for note in sheet.notes)


def test_drawn_and_real_images_are_never_averaged(tmp_path: Path) -> None:
    for dataset, drawn in (("derm", True), ("chest", False), ("skin", False)):
        write_cell(tmp_path, dataset, "CoOp", 1, {1: FIRST}, phantom=drawn)
    benchmark = gather(tmp_path, (1,))
    (sheet,) = mean_sheets(benchmark, ACCURACY, benchmark.labels(), "XCoOp")
    assert "chest, skin" in sheet.notes[0]
    assert "phantom" not in " ".join((*sheet.origin, sheet.title))


def test_cost_says_what_is_not_known(out: Path) -> None:
    sheet = sheets(gather(out, (1, 2, 3)))["derm-cost"]
    assert sheet.head[:4] == ("Method", "Shots", "Trained parameters", "Training s")
    assert texts(sheet)["XCoOp"][:5] == ["4", "24", "1.50", "n/a", "n/a"]
    assert texts(sheet)["ZeroshotCLIP"][0] == NONE


def test_damaged_records_and_predictions_are_named_and_count_as_missing(out: Path) -> None:
    folder = out / "derm" / "XCoOp" / "phantom_1shots"
    (folder / "seed2" / "results.json").write_text("{}")
    record = json.loads((folder / "seed1" / "results.json").read_text()) | {"n_test": 39}
    record["checksum"] = checksum(record)
    (folder / "seed1" / "results.json").write_text(json.dumps(record))
    found = report(gather(out, (1, 2, 3)), Wanted((ACCURACY,), figures=False, draws=50))
    assert any("seed2/results.json" in line for line in found.damaged)
    assert any("seed1" in line and "39" in line for line in found.damaged)
    (cell,) = (row[2] for row in found.sheets[0].rows if row[0].text == "XCoOp")
    assert "(seeds 1 3)" in cell.text
    assert cell.below == ""


def test_cells_that_disagree_on_patients_are_named_and_not_compared(tmp_path: Path) -> None:
    write_cell(tmp_path, "derm", "CoOp", 1, {1: range(30)})
    write_cell(tmp_path, "derm", "XCoOp", 1, {1: range(36)}, several=True)
    found = report(gather(tmp_path, (1,)), Wanted((ACCURACY,), figures=False, draws=50))
    assert any("disagree on the patient" in line for line in found.damaged)
    assert found.comparisons == []


def test_names_are_short_and_different(out: Path) -> None:
    write_cell(out, "derm", "CoOp", 4, {1: FIRST}, cfg="vit_b16", tag="n_ctx-8")
    labels = gather(out).labels()
    assert labels[Method("CoOp", "vit_b16", "n_ctx-8")] == "CoOp (vit_b16, n_ctx-8)"
    assert len(set(labels.values())) == len(labels)


def test_every_figure_stands_in_the_csv(out: Path) -> None:
    found = report(gather(out, (1, 2, 3)), Wanted((ACCURACY,), figures=False, draws=50))
    lines = {(line["trainer"], line["shots"]): line for line in found.cells}
    one = lines["XCoOp", 1]
    assert one["mean"] == pytest.approx(0.925)
    assert one["low"] < one["mean"] < one["high"]
    assert one["mark"] == BEST
    assert lines["CoOp", 4]["missing_seeds"] == "3"
    assert len(one["config_hash"]) == len(one["test_hash"]) == 64
    (first, *_) = found.comparisons
    assert first["n_comparisons"] == 3


EVIL = r"a_b & 50% $x^2$ #1 {\input{x}} ~ <script>|`*"


def test_names_are_escaped_in_every_format() -> None:
    sheet = Sheet("k", EVIL, ("Method", EVIL), ((Shown(EVIL), Shown("1.0 ± 0.1", BEST)),), (EVIL,))
    made = latex(sheet)
    assert r"a\_b \& 50\% \$x\^{}2\$ \#1 \{\textbackslash{}input\{x\}\} \textasciitilde{}" in made
    assert r"\input" not in made
    assert r"\textbf{1.0 $\pm$ 0.1}" in made
    assert r"\<script\>\|\`\*" in markdown(sheet)
    assert "**1.0 ± 0.1**" in markdown(sheet)
    signed = Sheet("k", "t", ("Method", "x"), ((Shown("a-1"), Shown("[-3.0, +1.0]")),))
    assert r"a-1 & [$-$3.0, +1.0] \\" in latex(signed)
    assert "\n{}[x] & 1 \\\\\n" in latex(Sheet("k", "t", ("a", "b"), ((Shown("[x]"), Shown("1")),)))  # no argument
    assert "1.0 ± 0.1 *" in terminal(sheet)
    body = [line for line in table_csv(sheet).splitlines() if not line.startswith("#")]
    assert list(csv.reader(io.StringIO("\n".join(body))))[1] == [EVIL, "1.0 ± 0.1 *"]
    formula = Sheet("k", "t", ("method", "=gain"), ((Shown("@own"), Shown("-0.12 ± 0.30", BEST)),))
    assert table_csv(formula).splitlines()[-2:] == ["method,'=gain", "'@own,-0.12 ± 0.30 *"]
