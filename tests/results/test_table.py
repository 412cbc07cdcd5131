"""Tables: the arithmetic, what is missing, what disagrees, and the formats."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path

import pytest
from synthetic_runs import config, outcome, trainer, write, write_seeds

from xcoop.cli import main
from xcoop.results.benchmark import collect, parse_folder
from xcoop.results.record import write_run
from xcoop.results.table import FORMATS, render


def test_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    write_seeds(tmp_path / "CoOp" / "phantom_4shots", {1: 12, 2: 15, 3: 18})
    (row,) = collect(tmp_path, 4, (1, 2, 3))
    assert row.mean("accuracy") == pytest.approx(0.75)
    assert row.std("accuracy") == pytest.approx(statistics.stdev([0.6, 0.75, 0.9]))
    text = render([row], "phantom")
    assert "75.0 ± 15.0" in text
    assert "ddof 1" in text
    assert "phantom: not a clinical result" in text
    assert "20 test images" in text


def test_one_seed_has_no_deviation_and_what_is_missing_is_marked(tmp_path: Path) -> None:
    write_seeds(tmp_path / "CoOp" / "phantom_4shots", {2: 15})
    (tmp_path / "CoOp" / "phantom_4shots" / "seed5").mkdir()
    (tmp_path / "XCoOp" / "phantom_4shots" / "seed1").mkdir(parents=True)
    row, begun = collect(tmp_path, 4, (1, 2, 3))
    assert row.std("accuracy") is None
    assert (row.seeds, begun.seeds) == ("2 (missing: 1 3 5)", "none (missing: 1 2 3)")
    *_, line, other = render([row, begun], "phantom").splitlines()
    assert "75.0" in line
    assert "±" not in line
    assert other.split()[-5:] == ["missing"] * 5


def test_zero_shot_stands_beside_any_shots(tmp_path: Path) -> None:
    write_seeds(tmp_path / "CoOp" / "phantom_4shots", {1: 15})
    write_seeds(tmp_path / "CoOp" / "phantom_8shots", {1: 15})
    write_seeds(tmp_path / "ZeroshotCLIP" / "phantom__clinical-true", {1: 12}, trainer="ZeroshotCLIP", shots=-1)
    rows = collect(tmp_path, 4, (1, 2, 3))
    assert [(row.setting.trainer, row.setting.shots, row.seeds) for row in rows] == [
        ("ZeroshotCLIP", None, "-"),
        ("CoOp", 4, "1 (missing: 2 3)"),
    ]
    assert "phantom clinical-true" in render(rows, "phantom")
    assert len(collect(tmp_path)) == 3


def test_different_configurations_data_and_splits_are_not_averaged(tmp_path: Path) -> None:
    folder = tmp_path / "CoOp" / "phantom_4shots"
    write_seeds(folder, {1: 10, 2: 12})
    write_seeds(folder, {3: 20}, "OPTIM.LR", 0.5)
    rows = collect(tmp_path, 4, (1, 2, 3))
    assert sorted(row.mean("accuracy") for row in rows) == [pytest.approx(0.55), pytest.approx(1.0)]
    assert "different configurations, which are not averaged" in render(rows, "phantom")
    elsewhere = trainer(config(folder / "seed3", seed=3))
    elsewhere.dm.dataset.split_hash = "elsewhere"
    write_run(elsewhere, *outcome(18))
    rows = collect(tmp_path)
    assert sorted(tuple(row.runs) for row in rows) == [(1, 2), (3,)]
    assert all("different data or splits" in row.note for row in rows)
    assert {row.note.partition(":")[0] for row in rows} == {"splits a-split", "splits elsewher"}


def test_different_test_images_are_pointed_out(tmp_path: Path) -> None:
    write(config(tmp_path / "CoOp" / "a_4shots" / "seed1"), 10, images=20)
    assert "WARNING" not in render(collect(tmp_path, 4), "phantom")
    write(config(tmp_path / "CoOp" / "b_4shots" / "seed1"), 10, images=18)
    assert "not all tested on the same images" in render(collect(tmp_path, 4), "phantom")


def test_an_unknown_metric_is_not_averaged_over_the_rest(tmp_path: Path) -> None:
    write_seeds(tmp_path / "CoOp" / "phantom_4shots", {1: 15, 2: 15})
    (row,) = collect(tmp_path, 4, (1, 2))
    row.runs[1]["metrics"]["macro_auc"] = None
    assert row.mean("macro_auc") is None
    assert "n/a" in render([row], "phantom")


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "CoOp" / "phantom_4shots"
    write_seeds(folder, {1: 15})
    (folder / "seed1" / "predictions.csv").write_text("nothing")
    with pytest.raises(ValueError, match=r"predictions\.csv"):
        collect(tmp_path)


@pytest.mark.parametrize(
    ("name", "cfg", "shots", "tag"),
    [
        ("vit_b16_16shots", "vit_b16", 16, ""),
        ("phantom_16shots_n_ctx-8_lr-0.01", "phantom", 16, "n_ctx-8_lr-0.01"),
        ("phantom", "phantom", None, ""),
        ("phantom__clinical-true", "phantom", None, "clinical-true"),
    ],
)
def test_folder_names(name: str, cfg: str, shots: int | None, tag: str) -> None:
    found = parse_folder(Path("out/phantom/CoOp", name))
    assert (found.trainer, found.cfg, found.shots, found.tag) == ("CoOp", cfg, shots, tag)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_seeds(tmp_path / "phantom" / "CoOp" / "phantom_4shots", {1: 12, 2: 15, 3: 18})
    return tmp_path


def test_formats_agree(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for style in FORMATS:
        assert main(["table", "phantom", "4", "--out", str(results), "--format", style]) == 0
        shown[style] = capsys.readouterr().out
    (record,) = json.loads(shown["json"])
    (line,) = csv.DictReader(io.StringIO(shown["csv"]))
    assert record["accuracy_mean"] == pytest.approx(0.75)
    assert float(line["accuracy_std"]) == pytest.approx(record["accuracy_std"])
    assert line["seeds"] == "1 2 3"
    assert "| 75.0 ± 15.0 " in shown["markdown"]
    assert r"75.0 $\pm$ 15.0" in shown["latex"]
    assert r"\toprule" in shown["latex"]
    assert all(row.startswith("%") for row in shown["latex"].splitlines()[:3])


def test_table_errors(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "phantm", "--out", str(results)]) == 2
    assert "Did you mean 'phantom'?" in capsys.readouterr().err
    assert main(["table", "phantom", "99", "--out", str(results)]) == 2
    assert "99 shots" in capsys.readouterr().err
