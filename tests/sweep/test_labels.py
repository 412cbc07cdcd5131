"""Own images are datasets of their own: what they are called, where their runs lie, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "results"))

from synthetic_runs import write, write_cell

from xcoop.cli import main
from xcoop.config.labels import fits
from xcoop.config.merge import config_hash
from xcoop.results.benchmark import gather
from xcoop.runs.plan import Plan, make_plans
from xcoop.sweep.grid import jobs, make_grid
from xcoop.utils.console import UserError


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """Two folders of one name and a third one, with different images."""
    found = [tmp_path / "a" / "skin", tmp_path / "b" / "skin", tmp_path / "chest X-rays (é)"]
    for number, place in enumerate(found):
        place.mkdir(parents=True)
        (place / "image.png").write_bytes(b"x" * (number + 1))
    return found


def plan_of(tmp_path: Path, *words: object, dataset: str = "folder") -> Plan:
    (plan,) = make_plans([dataset, "4", "CoOp", "vit_b16", *map(str, words)], "data", str(tmp_path / "out"), [1])
    return plan


def test_the_folder_names_the_dataset_and_is_no_part_of_the_method(tmp_path: Path, places: list[Path]) -> None:
    for place, label in zip(places[1:], ("skin", "chest-X-rays-e"), strict=True):
        plan = plan_of(tmp_path, "DATASET.PATH", place, "TRAINER.COOP.N_CTX", 8)
        assert plan.folder == tmp_path / "out" / label / "CoOp" / "vit_b16_4shots_n_ctx-8"
        assert label == plan.config(1).DATASET.LABEL
    assert plan_of(tmp_path, "DATASET.PATH", places[0] / "labels.csv").label == "skin"
    assert plan_of(tmp_path, "DATASET.PATH", places[0], "DATASET.LABEL", "mine").label == "mine"


def test_a_configuration_of_ones_own_keeps_its_name_and_no_name_changes_the_run(
    tmp_path: Path, places: list[Path]
) -> None:
    mine, named = tmp_path / "mine.yaml", tmp_path / "named.yaml"
    mine.write_text(f"DATASET: {{NAME: Folder, PATH: '{places[0]}'}}\n")
    named.write_text(f"DATASET: {{NAME: Folder, PATH: '{places[0]}', LABEL: moles}}\n")
    plans = [plan_of(tmp_path, dataset=str(file)) for file in (mine, named)]
    plans.append(plan_of(tmp_path, "DATASET.PATH", places[0]))
    assert [plan.label for plan in plans] == ["mine", "moles", "skin"]
    assert plan_of(tmp_path, "DATASET.PATH", places[2], dataset=str(mine)).label == "chest-X-rays-e"
    assert len({config_hash(plan.merged) for plan in plans}) == 1
    assert {plan.folder.name for plan in plans} == {"vit_b16_4shots"}
    phantom = plan_of(tmp_path, "DATASET.PATH", places[0], dataset="phantom")
    assert (phantom.label, phantom.folder.name) == ("phantom", "vit_b16_4shots_dataset_path-skin")


def test_two_folders_of_one_name_are_refused_by_name(tmp_path: Path, places: list[Path]) -> None:
    axes = {"datasets": "folder", "trainers": "CoOp", "shots": "4", "seeds": "1"}
    with pytest.raises(UserError, match=r"a/skin and .*b/skin would share the folder .*DATASET.LABEL"):
        jobs(make_grid(axes | {"DATASET.PATH": places[:2]}, "data", str(tmp_path / "out")))
    found = jobs(make_grid(axes | {"DATASET.PATH": places[1:]}, "data", str(tmp_path / "out")))
    assert [job.title.partition(":")[0] for job in found] == ["skin", "chest-X-rays-e"]
    first = plan_of(tmp_path, "DATASET.PATH", places[0])
    write(first.config(1), correct=12)
    assert plan_of(tmp_path, "DATASET.PATH", places[0]).folder == first.folder  # again: the same runs
    for words in (["DATASET.PATH", places[1]], ["DATASET.PATH", places[2], "DATASET.LABEL", "skin"]):
        with pytest.raises(UserError, match=r"(?s)skin holds runs of other images:.*DATASET.LABEL <name>"):
            make_plans(["folder", "8", "ZeroshotCLIP", "vit_b16", *map(str, words)], "", str(tmp_path / "out"), [1])


@pytest.mark.parametrize("label", ["phantom", "PH2", "results"])
def test_names_of_other_results_are_refused(tmp_path: Path, places: list[Path], label: str) -> None:
    with pytest.raises(UserError, match=f"{label} cannot name these images"):
        plan_of(tmp_path, "DATASET.PATH", places[0], "DATASET.LABEL", label)


@pytest.mark.parametrize("label", ["../x", "a b", "a/b", "a-", "a.b", "é", "x" * 61, "_a"])
def test_names_that_fit_no_file_are_refused(tmp_path: Path, places: list[Path], label: str) -> None:
    assert not fits(label)
    with pytest.raises(UserError, match=r"DATASET\.LABEL is .*it must be"):
        plan_of(tmp_path, "DATASET.PATH", places[0], "DATASET.LABEL", label)


def test_a_folder_without_a_letter_asks_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"図: its name cannot name results; add DATASET\.LABEL"):
        plan_of(tmp_path, "DATASET.PATH", tmp_path / "図")


def test_tables_of_own_images(tmp_path: Path, places: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    write(plan_of(tmp_path, "DATASET.PATH", places[0]).config(1), correct=12)
    out = ["--out", str(tmp_path / "out")]
    for name in ("skin", "folder"):
        assert main(["table", name, "4", *out]) == 0
        told = capsys.readouterr()
        assert told.out.startswith("skin, 20 test images")
    assert "are called skin" in told.err
    write(plan_of(tmp_path, "DATASET.PATH", places[2]).config(1), correct=12)
    assert main(["table", "folder", *out]) == 2
    assert "there are chest-X-rays-e, skin" in capsys.readouterr().err
    assert [group.title for group in gather(tmp_path / "out").groups] == ["chest-X-rays-e", "skin"]


def test_runs_of_older_versions_are_told_apart_by_their_places(tmp_path: Path) -> None:
    for place in ("chest", "my-skin"):
        write_cell(tmp_path, "folder", "CoOp", 4, {1: range(30)}, tag=f"n_ctx-8_dataset_path-{place}")
    groups = gather(tmp_path).groups
    assert [group.title for group in groups] == ["folder: chest", "folder: my-skin"]
    assert {method.tag for group in groups for method, _ in group.rows} == {"n_ctx-8"}
