"""`variants:` of a grid file change one thing at a time; and every grid of the benchmarks can be planned."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from xcoop.cli import main
from xcoop.config.plugins import trainer_names
from xcoop.sweep.grid import Grid, jobs, plans
from xcoop.sweep.gridfile import make_grid, read_grid_file
from xcoop.utils.console import UserError

GRIDS = sorted(Path(__file__).resolve().parents[2].joinpath("benchmarks", "grids").glob("*.yaml"))
HEAD = "datasets: [phantom]\ntrainers: [XCoOp]\nshots: [1, 4]\nseeds: [1]\n"
X = "TRAINER.XCOOP"


def planned(tmp_path: Path, text: str) -> list[str]:
    """The names of the folders of a grid file's runs, in their order."""
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    return [job.folder.parent.name for job in jobs(make_grid(read_grid_file(path), "data", str(tmp_path / "out")))]


def test_variants_are_crossed_with_everything_but_each_other_in_their_order(tmp_path: Path) -> None:
    text = f"{HEAD}variants: [{{{X}.TOKEN_WEIGHT: 0.0, {X}.SENTENCES: share}}, {{}}, {{{X}.TUNE_NORMS: True}}]\n"
    parts = ["_sentences-share_token_weight-0.0", "", "_tune_norms-true"]
    assert planned(tmp_path, text) == [f"phantom_{shots}shots{part}" for shots in (1, 4) for part in parts]
    crossed = planned(tmp_path, text.replace("shots: [1, 4]", "shots: [1]") + "OPTIM.LR: [0.1, 0.2]\n")
    assert [name.partition("_1shots_")[2] for name in crossed] == [
        f"lr-{rate}{part}" for rate in (0.1, 0.2) for part in parts
    ]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("{}", r"grid\.yaml: `variants:` takes a list of mappings .*, not \{\}"),
        ("[]", r"grid\.yaml: `variants:` takes a list of mappings .*, not \[\]"),
        ("[{}, 3]", r"grid\.yaml: variant 2: .*; this one is 3"),
        ("[{N_CTXX: 3}]", r"grid\.yaml: variant 1: Unknown key 'N_CTXX'.*written as A\.B: value"),
        (f"[{{}}, {{{X}.N_CTXX: 3}}]", r"grid\.yaml: variant 2: unknown config key .*Did you mean .*XCOOP.N_CTX'"),
        (f"[{{{X}.N_CTX: four}}]", r"grid\.yaml: variant 1: .*N_CTX takes a whole number"),
        (f"[{{{X}.N_CTX: }}]", r"grid\.yaml: variant 1: .*N_CTX takes one value, not None"),
        (f"[{{{X}: {{N_CTX: 4}}}}]", r"grid\.yaml: variant 1: .*takes one value, not \{'N_CTX': 4\}"),
        ("[{}, {OPTIM.LR: 0.5}, {}]", r"grid\.yaml: variants 1 and 3 are the same \(\{\}\)"),
        ("[{OPTIM.LR: 0.5, SEED: 3}]", "SEED is set by `xcoop sweep` itself"),
        (f"[{{}}, {{{X}.SENTENCES: both}}]", r"\{\} and \{TRAINER.XCOOP.SENTENCES: both\} are the same run of XCoOp"),
        ("[{TRAINER.COOP.N_CTX: 3}]", r"variant \{TRAINER.COOP.N_CTX: 3\} changes nothing in XCoOp"),
    ],
)  # fmt: skip
def test_wrong_variants_are_named(variants: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        planned(tmp_path, f"{HEAD}variants: {variants}\n")


def test_the_same_keys_in_another_order_are_the_same(tmp_path: Path) -> None:
    one, two = f"{X}.N_CTX: 3", "OPTIM.LR: 0.5"
    with pytest.raises(UserError, match="variants 1 and 2 are the same"):
        planned(tmp_path, f"{HEAD}variants: [{{{one}, {two}}}, {{{two}, {one}}}]\n")


def test_a_key_is_in_one_place(tmp_path: Path) -> None:
    text = f"{HEAD}variants: [{{}}, {{OPTIM.LR: 0.5}}]\n"
    with pytest.raises(UserError, match=r"grid\.yaml: OPTIM\.LR stands in a variant \(0\.5\), and by itself"):
        planned(tmp_path, f"{text}OPTIM.LR: [0.1]\n")
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"command line: OPTIM\.LR stands in a variant \(0\.5\), and by itself"):
        make_grid(read_grid_file(path) | {"OPTIM.LR": ["0.1"]}, "data", "out")


def test_variants_of_all_trainers_are_what_all_of_them_read(tmp_path: Path) -> None:
    grid = Grid(datasets=("phantom",), trainers=("all",), shots=(1,), out=str(tmp_path))
    with pytest.raises(UserError, match=r"changes nothing in BiomedCoOp, which does not read TRAINER\.COOP\.N_CTX"):
        plans(Grid(**(vars(grid) | {"variants": ((("TRAINER.COOP.N_CTX", "3"),),)})))
    both = plans(Grid(**(vars(grid) | {"variants": ((), (("OPTIM.LR", "0.5"),))})))
    assert Counter(plan.trainer for plan in both) == {
        name: 2 * number for name, number in Counter(plan.trainer for plan in plans(grid)).items()
    }


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_grids_of_the_benchmarks_can_be_run(path: Path, tmp_path: Path) -> None:
    found = jobs(make_grid(read_grid_file(path), "data", str(tmp_path)))
    assert len({job.folder for job in found}) == len(found) > 100
    told = path.read_text()
    assert f"xcoop sweep --grid benchmarks/grids/{path.name}" in told
    assert "docs/benchmark.md" in told


def test_the_grid_of_everything_has_every_trainer() -> None:
    (path,) = (path for path in GRIDS if path.stem == "all")
    assert {plan.trainer for plan in plans(make_grid(read_grid_file(path), "data", "out"))} == set(trainer_names()) - {
        "XCoOpReleased"
    }  # it is compared with as the reading of a method, not as one


def test_the_ablation_has_every_part_of_its_table_once() -> None:
    (path,) = (path for path in GRIDS if path.stem == "ablation")
    names = [plan.folder.name for plan in plans(make_grid(read_grid_file(path), "data", "out"))]
    assert len(set(names)) == len(names) == 3 * len(yaml.safe_load(path.read_text())["variants"]) == 66
    assert names[:3] == ["phantom_1shots", "phantom_1shots_n_prompts-1", "phantom_1shots_ctx_init-a-photo-of-a"]
    section = (path.parents[2] / "docs" / "method.md").read_text().partition("### Ablation")[2].partition("\n### ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    off = {key for line in rows for key in re.findall(r"TRAINER\.XCOOP\.([A-Z_]+)", line)}
    changed = {key.rpartition(".")[2] for one in yaml.safe_load(path.read_text())["variants"] for key in one}
    assert changed == off | {"VARIANT"}


def test_a_dry_run_of_variants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(f"{HEAD}variants: [{{}}, {{{X}.KNOWLEDGE: none}}]\n")
    assert main(["sweep", "--grid", str(path), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "XCoOp phantom, knowledge-none, 4 shots, seed 1" in (told := capsys.readouterr().out)
    assert "4 runs: 0 done, 4 to do" in told
    assert main(["sweep", "--grid", str(path), "OPTIM.LR", "0.1", f"{X}.KNOWLEDGE", "bank", "--dry-run"]) == 2
    assert "KNOWLEDGE stands in a variant" in capsys.readouterr().err
