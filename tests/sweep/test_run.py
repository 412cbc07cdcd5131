"""`xcoop run`: what it skips, refuses, repeats and reports. Training is replaced by a stand-in that writes records."""

from __future__ import annotations

import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "results"))

from synthetic_runs import write

from xcoop.cli import main
from xcoop.results.folder import busy, locked
from xcoop.results.record import read_run
from xcoop.runs.plan import LONGEST_TAG, make_plans
from xcoop.sweep import launcher, worker
from xcoop.sweep.job import BUSY, FAILED, FINISHED, Job, Outcome
from xcoop.utils.console import UserError, to_paste

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in reaches workers that are forks")
Launch = Callable[..., int]
ERROR = Outcome(FAILED, message="the reason", again=False)


class Training:
    """Stands for the run itself, in workers that are forks: writes a record, or fails as told.

    `ends` holds how the runs to come end, None for well; when it is too short, all others succeed.
    """

    def __init__(self, notes: Path) -> None:
        self.notes = notes
        self.ends: list[Outcome | None] = []

    def __call__(self, job: Job) -> Outcome:
        assert job.cfg is not None
        number = len(self.seeds)
        with self.notes.open("a") as file:
            file.write(f"{job.cfg.SEED} {job.cfg.OUTPUT_DIR}\n")
        if number < len(self.ends) and (end := self.ends[number]):
            return end
        write(job.cfg.clone(), correct=10 + job.cfg.SEED)
        return Outcome(FINISHED, 0.1)

    @property
    def seeds(self) -> list[int]:
        return [int(line.split()[0]) for line in self._lines()]

    @property
    def folders(self) -> list[Path]:
        return [Path(line.partition(" ")[2]) for line in self._lines()]

    def _lines(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    stand_in, slots = Training(tmp_path / "notes"), launcher.make_slots(1, (), cores=1)
    monkeypatch.setattr(worker, "Runner", lambda: stand_in)
    monkeypatch.setattr(launcher, "make_slots", lambda most: slots)
    monkeypatch.setattr(launcher, "MODULES", ())
    monkeypatch.setattr(launcher, "start_method", lambda slots: "fork")
    monkeypatch.setattr(launcher, "LOOK", 0.1)
    return stand_in


@pytest.fixture
def launch(tmp_path: Path, training: Training) -> Launch:
    def run(*words: str, seeds: str = "1 2 3") -> int:
        out = str(tmp_path / "out")
        return main(["run", *words, "--out", out, "--data", str(tmp_path / "data"), "--seeds", seeds])

    return run


def test_all_seeds_then_the_table(launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch("phantom", "4", "CoOp") == 0
    shown = capsys.readouterr().out
    assert "60.0 ± 5.0" in shown
    assert "phantom: not a clinical result" in shown
    found = read_run(tmp_path / "out" / "phantom" / "CoOp" / "phantom_4shots" / "seed3")
    assert found is not None
    assert (found["seed"], found["shots"]) == (3, 4)


def test_the_hints_at_the_end_can_be_pasted(
    tmp_path: Path, training: Training, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEEDS", raising=False)
    out, programme = str(tmp_path / "my runs"), shlex.split(to_paste("xcoop"))
    for seeds, ending in (("1 2 3", []), ("2", ["--seeds", "2"]), ("2,3", ["--seeds", "2 3"])):
        words = ["phantom", "4", "CoOp", "--out", out, "--data", str(tmp_path / "data"), "--seeds", seeds]
        assert main(["run", *words]) == 0
        *_, table, results, _ = capsys.readouterr().out.splitlines()
        assert shlex.split(results.partition(": ")[2]) == [*programme, "results", out, *ending]
    command = shlex.split(table.partition(": ")[2].replace(" --format ...", ""))
    assert command == [*programme, "table", "phantom", "4", "--out", out]
    assert main(command[len(programme) :]) == 0


def test_finished_seeds_are_skipped_by_their_results_not_by_their_folder(
    launch: Launch, training: Training, tmp_path: Path
) -> None:
    assert launch("phantom", "4", "CoOp", seeds="1 2") == 0
    (tmp_path / "out" / "phantom" / "CoOp" / "phantom_4shots" / "seed2" / "results.json").unlink()
    assert launch("phantom", "4", "CoOp") == 0
    assert training.seeds == [1, 2, 2, 3]


def test_failing_seeds_do_not_stop_the_others_and_their_error_is_shown_once(
    launch: Launch, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    training.ends = [ERROR, ERROR]
    assert launch("phantom", "4", "CoOp") == 1
    shown = capsys.readouterr().out
    assert training.seeds == [1, 2, 3]
    assert "seed 1: FAILED\n    the reason\n" in shown
    assert shown.count("the reason") == 1
    assert "3 (missing: 1 2)" in shown


def test_a_finished_run_with_other_settings_is_never_overwritten(
    launch: Launch, training: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch("phantom", "4", "CoOp", seeds="1")
    folder = tmp_path / "out" / "phantom" / "CoOp" / "phantom_4shots" / "seed1"
    write(_changed(folder, "OPTIM.LR", 0.5), correct=20)
    before = (folder / "results.json").read_bytes()
    assert launch("phantom", "4", "CoOp") == 2
    error = capsys.readouterr().err
    assert "OPTIM.LR: 0.5 there" in error
    assert str(folder) in error
    assert "move that folder away" in error
    assert training.seeds == [1]  # nothing was started
    assert (folder / "results.json").read_bytes() == before


def _changed(folder: Path, *pairs: Any) -> Any:
    from xcoop.config.plugins import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    cfg.merge_from_list(list(pairs))
    return cfg


def test_an_interrupted_run_with_other_settings_is_not_resumed(
    launch: Launch, training: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch("phantom", "4", "CoOp", seeds="1")
    folder = tmp_path / "out" / "phantom" / "CoOp" / "phantom_4shots" / "seed1"
    (folder / "results.json").unlink()
    (folder / "config.yaml").write_text(_changed(folder, "TRAINER.COOP.N_CTX", 9).dump())
    assert launch("phantom", "4", "CoOp", seeds="1") == 0  # no checkpoint: nothing to mix with
    (folder / "results.json").unlink()
    (folder / "config.yaml").write_text(_changed(folder, "TRAINER.COOP.N_CTX", 9).dump())
    (folder / "prompt_learner").mkdir()
    (folder / "prompt_learner" / "model.pth.tar-1").touch()
    assert launch("phantom", "4", "CoOp", seeds="1") == 2
    assert "TRAINER.COOP.N_CTX: 9 there" in capsys.readouterr().err


def test_overrides_that_change_the_result_have_a_folder_of_their_own(launch: Launch, training: Training) -> None:
    launch("phantom", "4", "CoOp", seeds="1")
    launch("phantom", "4", "CoOp", "DATALOADER.NUM_WORKERS", "3", "TRAINER.COCOOP.N_CTX", "9", seeds="1")
    assert training.seeds == [1]
    launch("phantom", "4", "CoOp", "phantom", "TRAINER.COOP.N_CTX", "8", "OPTIM.LR", "0.01", seeds="1")
    launch("phantom", "4", "CoOp", "DATALOADER.TRAIN_X.BATCH_SIZE", "3", seeds="1")
    names = [folder.parent.name for folder in training.folders]
    assert names == ["phantom_4shots", "phantom_4shots_lr-0.01_n_ctx-8", "phantom_4shots_train_x_batch_size-3"]


def test_zero_shot_runs_once_whatever_the_shots(
    launch: Launch, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    launch("phantom", "4", "ZeroshotCLIP")
    launch("phantom", "8", "ZeroshotCLIP")
    assert training.seeds == [1]
    assert training.folders[0].parts[-3:] == ("ZeroshotCLIP", "phantom", "seed1")
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ZeroshotCLIP  phantom  "))
    assert row.split()[2:4] == ["-", "-"]


def test_all_runs_every_method_and_the_clinical_zero_shot(launch: Launch, training: Training, tmp_path: Path) -> None:
    assert launch("phantom", "4", "all", seeds="1") == 0
    done = sorted("/".join(folder.parts[-3:-1]) for folder in training.folders)
    assert {"CoCoOp/phantom_4shots", "CoOp/phantom_4shots"} < set(done)
    assert {"ZeroshotCLIP/phantom", "ZeroshotCLIP/phantom__clinical-true"} < set(done)


def test_a_busy_seed_is_left_for_the_end_and_a_failed_one_tried_again(
    launch: Launch, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    training.ends = [Outcome(BUSY), Outcome(FAILED, message="bad luck")]
    assert launch("phantom", "4", "CoOp") == 0
    assert sorted(training.seeds) == [1, 1, 2, 2, 3]
    assert training.seeds[:2] == [1, 2]
    shown = capsys.readouterr().out
    assert "seed 1: another process is at it; left for the end" in shown
    assert "seed 2: failed, and is tried once more: bad luck" in shown


def _hold(folder: Path, seconds: float, ready: Any) -> None:
    with locked(folder):
        ready.set()
        time.sleep(seconds)


def test_a_lock_of_another_process_is_seen_and_ends_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, 60.0, ready))
    holder.start()
    assert ready.wait(20)
    assert busy(tmp_path)
    with pytest.raises(UserError, match=f"process {holder.pid}"), locked(tmp_path):
        pass
    holder.kill()  # no chance to clean up
    holder.join()
    assert not busy(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["phantm", "4"], "Did you mean 'phantom'?"),
        (["phantom", "four"], "whole number"),
        (["phantom", "0"], "whole number"),
        (["phantom"], "expected <dataset> <shots>"),
        (["phantom", "4", "CoOpp"], "Did you mean 'CoOp'?"),
        (["phantom", "4", "coop"], "Did you mean 'CoOp'?"),
        (["phantom", "4", "CoOp", "vit_b17"], "Did you mean 'vit_b16'?"),
        (["phantom", "4", "CoOp", "TRAINER.COOP.N_CTXX", "3"], "Did you mean 'TRAINER.COOP.N_CTX'?"),
        (["phantom", "4", "CoOp", "TRAINER.COOP.N_CTX", "many"], "whole number"),
        (["phantom", "4", "CoOp", "TRAINER.COOP.N_CTX"], "stands alone"),
        (["phantom", "4", "CoOp", "TRAINER.COOP.N_CTX=3"], "TRAINER.COOP.N_CTX 3"),
        (["phantom", "4", "CoOp", "DATASET.NUM_SHOTS", "3"], "second argument"),
        (["phantom", "4", "CoOp", "OUTPUT_DIR", "x"], "OUT="),
        (["phantom", "4", "CoOp", "phantom", "more", "words"], "expected <dataset> <shots>"),
    ],
)
def test_wrong_words(launch: Launch, training: Training, capsys: pytest.CaptureFixture[str], words: list[str],
                     message: str) -> None:  # fmt: skip
    assert launch(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert training.seeds == []


@pytest.mark.parametrize("seeds", ["a", "", "1 1", "-1"])
def test_wrong_seeds(launch: Launch, capsys: pytest.CaptureFixture[str], seeds: str) -> None:
    assert launch("phantom", "4", "CoOp", seeds=seeds) == 2
    assert "SEEDS" in capsys.readouterr().err


def test_many_overrides_have_a_short_name_with_a_hash(tmp_path: Path) -> None:
    def name(*pairs: str) -> str:
        (plan,) = make_plans(["phantom", "4", "CoOp", *pairs], "data", str(tmp_path), [1])
        return plan.folder.name

    many = str(["random_resized_crop", "random_flip", "normalize"] * 3)
    one = name("OPTIM.LR", "0.01", "INPUT.TRANSFORMS", many, "TRAINER.COOP.N_CTX", "8")
    assert one.startswith("phantom_4shots_")
    assert len(one) <= len("phantom_4shots_") + LONGEST_TAG
    assert one == name("TRAINER.COOP.N_CTX", "8", "INPUT.TRANSFORMS", many, "OPTIM.LR", "0.01")  # order is nothing
    assert one != name("OPTIM.LR", "0.01", "INPUT.TRANSFORMS", many, "TRAINER.COOP.N_CTX", "9")


def test_workers_that_are_no_forks_know_what_a_run_needs(
    tmp_path: Path, tiny_weights_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs: a fresh process gets the config ready-made, and no module of ours is imported there yet."""
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(8):
            Image.new("L", (32, 32), level + number).save(tmp_path / "images" / name / f"{number}.png")
    monkeypatch.setattr(launcher, "start_method", lambda slots: "spawn")
    pairs = {"DATASET.PATH": str(tmp_path / "images"), "MODEL.BACKBONE.PATH": str(tiny_weights_file),
             "INPUT.SIZE": "(32, 32)", "OPTIM.MAX_EPOCH": "1"}  # fmt: skip
    words = ["run", "folder", "1", "CoOp", "vit_b16", *(word for pair in pairs.items() for word in pair)]
    assert main([*words, "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    assert [read_run(path.parent) is not None for path in (tmp_path / "out").rglob("results.json")] == [True]
