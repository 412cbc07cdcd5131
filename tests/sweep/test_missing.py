"""The commands that fill a table: each plans what is missing, with the settings of what is there, and nothing else."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "results"))

from synthetic_runs import write

from xcoop.cli import main
from xcoop.commands.sweep import add_arguments, read_grid
from xcoop.results.benchmark import gather
from xcoop.results.missing import Gap, gaps
from xcoop.results.record import checksum
from xcoop.sweep.grid import jobs, make_grid
from xcoop.sweep.job import DONE, Job
from xcoop.utils.console import Parser

FIVE = {"DATASET.TASK": "five-groups"}
PAIRS = {"TRAINER.COOP.N_CTX": "8", "OPTIM.LR": "0.01"}


def planned(words: Iterable[str]) -> list[Job]:
    """What the command of a gap would run, as the command line reads it."""
    parser = Parser()
    add_arguments(parser)
    command, sweep, *rest = words
    assert (command, sweep) == ("xcoop", "sweep")
    return jobs(read_grid(parser.parse_intermixed_args(rest)))


def make(out: Path, wanted: Callable[[Job], bool], **axes: object) -> tuple[set[Path], set[Path]]:
    """Records those runs of a sweep that are `wanted`; the folders of all of them, and of those left out."""
    usual = {"datasets": "phantom", "trainers": ("CoOp", "XCoOp"), "shots": ("4", "16"), "seeds": ("1", "2")}
    found = jobs(make_grid(usual | {"cfgs": "phantom"} | axes, "data", str(out)))
    for job in filter(wanted, found):
        assert job.cfg is not None
        path = write(job.cfg.clone(), correct=12)
        record = json.loads(path.read_text()) | {"command": shlex.join(["train.py", *job.words])}
        if job.after:
            record["evaluated_from"] = str(job.after)
        path.write_text(json.dumps(record | {"checksum": checksum(record)}, indent=2) + "\n")
    return {job.folder for job in found}, {job.folder for job in found if not wanted(job)}


def filled(out: Path, seeds: tuple[int, ...] = (1, 2)) -> tuple[list[Gap], list[Path]]:
    """What is missing, and the folders of all that its commands would run."""
    found = gaps(gather(out, seeds))
    runs = [job for gap in found for job in planned(gap.words(str(out)))]
    return found, [job.folder for job in runs if job.state() != DONE]


def test_seeds_cells_and_methods_with_their_settings(tmp_path: Path) -> None:
    def wanted(job: Job) -> bool:
        return not any(part in job.title for part in ("16 shots, seed 2", "CoOp phantom, lr-0.01_n_ctx-8, 4"))

    _, missing = make(tmp_path, wanted)
    _, more = make(tmp_path, wanted, trainers=("CoOp",), **PAIRS)
    make(tmp_path, wanted, trainers=("ZeroshotCLIP",))
    found, runs = filled(tmp_path)
    assert sorted(runs) == sorted(missing | more)
    assert [gap.said for gap in found] == [
        "phantom: CoOp XCoOp, 16 shots, seed 2",
        "phantom: CoOp (lr-0.01_n_ctx-8), 4 shots, seeds 1 2",
        "phantom: CoOp (lr-0.01_n_ctx-8), 16 shots, seed 2",
    ]
    data = str(Path("data").absolute())
    assert found[2].words("out") == [
        *("xcoop", "sweep", "phantom", "CoOp", "16", "2", "TRAINER.COOP.N_CTX", "8", "OPTIM.LR", "0.01"),
        *("--cfg", "phantom", "--data", data, "--out", "out"),
    ]


def test_a_seed_more_is_one_command(tmp_path: Path) -> None:
    make(tmp_path, lambda job: True)
    (gap,), runs = filled(tmp_path, (1, 2, 3))
    assert gap.said == "phantom: CoOp XCoOp, 4 16 shots, seed 3"
    assert len(runs) == 4


def test_new_classes_and_all_images(tmp_path: Path) -> None:
    """An evaluation is missing, a training with its evaluation, a method's every evaluation, a run on all images."""

    def wanted(job: Job) -> bool:
        return "seed 3" not in job.title and not (job.after and ("seed 2" in job.title or "KgCoOp" in job.title))

    axes = {"setting": "base-to-new", "shots": ("4",), "seeds": ("1", "2", "3"), **FIVE}
    _, missing = make(tmp_path, wanted, trainers=("CoOp", "KgCoOp", "LinearProbe"), **axes)
    assert len(missing) == 2 + 1 + 2 + 2 + 1  # LinearProbe is never evaluated on new classes
    _, whole = make(tmp_path, lambda job: "seed 1" in job.title, setting="full", trainers=("CoOp",))
    found, runs = filled(tmp_path, (1, 2, 3))
    assert sorted(runs) == sorted(missing | whole | {next(iter(whole)).parent / "seed3"})
    assert {gap.setting for gap in found} == {"base-to-new", "full"}


def test_other_datasets(tmp_path: Path) -> None:
    target = tmp_path / "other.yaml"
    target.write_text("DATASET: {NAME: Phantom, CASES: 40}\n")
    axes = {"setting": "cross", "targets": (str(target), "derm7pt"), "trainers": ("CoOp",), "shots": ("4",)}
    _, missing = make(tmp_path / "out", lambda job: not (job.after and "seed 2" in job.title), **axes)
    found, runs = filled(tmp_path / "out")
    assert sorted(runs) == sorted(missing)
    (gap,) = found
    assert set(gap.targets) == {str(target), "derm7pt"}
    assert "other.yaml" in gap.portable()
    assert str(tmp_path) not in gap.portable()


def test_own_images_and_what_a_page_says_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mine", "my other"):
        (tmp_path / "private" / name).mkdir(parents=True)
        (tmp_path / "private" / name / "image.png").write_bytes(name.encode())
    places = tuple(str(tmp_path / "private" / name) for name in ("mine", "my other"))
    axes = {"datasets": "folder", "trainers": ("CoOp",), "shots": ("4",), "DATASET.PATH": places}
    _, missing = make(tmp_path / "out", lambda job: "seed 2" not in job.title, **axes)
    found, runs = filled(tmp_path / "out")
    assert sorted(runs) == sorted(missing)
    assert shlex.split(found[1].portable()) == [
        *("xcoop", "sweep", "folder", "CoOp", "4", "2", "DATASET.PATH", "$IMAGES/my other", "--cfg", "phantom"),
        *("--data", "$DATA", "--out", "$OUT"),
    ]
    assert main(["table", "mine", "--out", str(tmp_path / "out"), "--seeds", "1 2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2:] == ["  mine: CoOp, 4 shots, seed 2", f"    {found[0].command(str(tmp_path / 'out'))}"]


def test_what_nothing_tells_is_said(tmp_path: Path) -> None:
    make(tmp_path, lambda job: "CoOp phantom, 4 shots, seed 1" in job.title, trainers=("CoOp",), shots=("4",))
    record = tmp_path / "phantom" / "CoOp" / "phantom_4shots" / "seed1" / "results.json"
    values = json.loads(record.read_text()) | {"command": "train.py --trainer CoOp --seed 1"}
    record.write_text(json.dumps(values | {"checksum": checksum(values)}))
    (tmp_path / "phantom" / "XCoOp" / "phantom_4shots_lr-0.1" / "seed1").mkdir(parents=True)
    one, other = gaps(gather(tmp_path, (1, 2)))
    assert "not started by `xcoop run` or `xcoop sweep`" in one.said
    assert "nothing tells its KEY VALUE pairs: lr-0.1" in other.said
    assert one.command("out") == other.portable() == ""


def test_the_script_is_written_and_its_commands_plan_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, missing = make(tmp_path, lambda job: "seed 2" not in job.title, trainers=("CoOp",))
    assert main(["results", str(tmp_path), "--seeds", "1 2", "--draws", "20", "--no-figures"]) == 0
    assert "Missing:\n  phantom: CoOp, 4 16 shots, seed 2\n" in capsys.readouterr().out
    (command,) = (tmp_path / "results" / "missing.sh").read_text().splitlines()[3:]
    assert main([*shlex.split(command)[1:], "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split("  ")[-1] for line in lines[:-1]} == set(map(str, missing))
    assert lines[-1].startswith("2 runs: 0 done, 2 to do.")
