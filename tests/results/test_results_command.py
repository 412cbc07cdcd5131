"""`xcoop results`: what it writes and says, and that nothing outside its folder changes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from many_runs import write_cell

from xcoop.cli import main
from xcoop.results import report as reports
from xcoop.results.drawing import NEEDS


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for shots in (1, 2):
        write_cell(tmp_path / "out", "derm", "XCoOp", shots, {1: range(36), 2: range(35)})
        write_cell(tmp_path / "out", "derm", "CoOp", shots, {1: range(24), 2: range(26)})
    return tmp_path / "out"


def run(out: Path, *words: str) -> int:
    return main(["results", str(out), "--seeds", "1 2", "--draws", "20", *words])


def state(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_writes_page_tables_and_numbers(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(out)
    assert run(out, "--no-figures") == 0
    after = state(out)
    assert {name: after[name] for name in before} == before
    new = after.keys() - before.keys()
    assert {name.split("/")[0] for name in new} == {"results"}
    for kind in ("txt", "md", "tex", "csv"):
        assert f"results/tables/derm-accuracy.{kind}" in new
    assert {"results/benchmark.html", "results/cells.csv", "results/comparisons.csv"} <= new
    shown = capsys.readouterr().out
    assert "Accuracy on derm, by shots a class" in shown
    assert "8 finished runs of 2 methods" in shown
    assert run(out, "--no-figures") == 0  # its own folder is no dataset
    assert state(out) == after


def test_what_is_not_made_any_more_goes_and_what_somebody_changed_stays(out: Path) -> None:
    assert run(out, "--no-figures", "--metrics", "accuracy", "ece") == 0
    tables = out / "results" / "tables"
    (tables / "derm-ece.md").write_text("my own words")
    (tables / "mine.md").write_text("mine")
    assert run(out, "--no-figures", "--metrics", "accuracy") == 0
    assert not (tables / "derm-ece.tex").exists()
    assert (tables / "derm-ece.md").read_text() == "my own words"
    assert (tables / "mine.md").exists()
    assert (tables / "derm-accuracy.tex").exists()


def test_a_list_cannot_name_files_elsewhere(out: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.md"
    victim.write_text("x")
    (out / "results").mkdir()
    listed = {"../../victim.md": hashlib.sha256(b"x").hexdigest()}
    (out / "results" / "files.json").write_text(json.dumps(listed))
    assert run(out, "--no-figures", "--metrics", "accuracy") == 0
    assert victim.exists()


@pytest.mark.parametrize("name", ["cells.csv", "tables/derm-accuracy.md", "benchmark.html", "files.json"])
@pytest.mark.parametrize("link", [False, True])
def test_files_of_somebody_else_are_not_replaced(
    name: str, link: bool, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, path = tmp_path / "mine", tmp_path / "to" / name
    path.parent.mkdir(parents=True)
    mine.write_text('{"a": "b"}')
    path.symlink_to(mine) if link else path.write_text('{"a": "b"}')
    words = ("--to", str(tmp_path / "to"), "--no-figures", "--metrics", "accuracy")
    assert run(out, *words) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == mine.read_text() == '{"a": "b"}'
    assert len(state(tmp_path / "to")) == 1
    path.unlink()
    assert run(out, *words) == run(out, *words) == 0  # its own it replaces


def test_without_matplotlib_tables_still_come(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reports, "can_draw", lambda: False)
    assert run(out, "--to", str(tmp_path / "to")) == 0
    assert NEEDS in capsys.readouterr().err
    assert NEEDS.replace("'", "&#x27;") in (tmp_path / "to" / "benchmark.html").read_text()
    assert (tmp_path / "to" / "tables" / "derm-accuracy.md").is_file()
    assert not (tmp_path / "to" / "figures").exists()


def test_figures_are_written_beside_the_tables(out: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run(out, "--to", str(tmp_path / "to"), "--metrics", "accuracy") == 0
    names = {path.name for path in (tmp_path / "to" / "figures").iterdir()}
    assert names == {f"derm-{name}.{kind}" for name in ("accuracy-curve", "reliability") for kind in ("png", "pdf")}
    assert "data:image/png;base64," in (tmp_path / "to" / "benchmark.html").read_text()


def test_damage_is_named_and_fails(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = out / "derm" / "CoOp" / "phantom_1shots" / "seed1" / "results.json"
    broken.write_text("{")
    assert run(out, "--no-figures") == 1
    assert f"damaged, counted as missing: {broken} is not valid JSON" in capsys.readouterr().err
    assert str(broken) in (out / "results" / "benchmark.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "acuracy"], "Did you mean 'accuracy'"),
        (["--reference", "CoO"], "Did you mean 'CoOp'"),
        (["--datasets", "dern"], "Did you mean 'derm'"),
        (["--draws", "0"], "--draws 0: 1 or more"),
    ],
)
def test_what_is_wrong_is_named(out: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(["results", str(out), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (out / "results").exists()


def test_no_output_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(tmp_path / "none")]) == 2
    assert "no output root" in capsys.readouterr().err


def test_another_reference(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(out, "--no-figures", "--reference", "CoOp", "--metrics", "accuracy", "--to", str(tmp_path)) == 0
    assert "each method compared with CoOp" in capsys.readouterr().out
