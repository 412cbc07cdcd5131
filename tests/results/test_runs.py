"""The launcher: what it skips, refuses, repeats and reports. Training is replaced by a stand-in that writes records."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import write

from xcoop.cli import main
from xcoop.results.folder import busy, locked
from xcoop.results.record import read_run
from xcoop.runs import train
from xcoop.runs.plan import make_plans
from xcoop.sweep import subprocess_run as child
from xcoop.utils.console import BUSY, UserError

Launch = Callable[..., int]


class Training:
    """Stands for the training process: writes the record that its arguments ask for, or fails as told.

    `ends` holds the exit codes of the runs to come; when it is empty, all succeed.
    """

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.folders: list[Path] = []
        self.ends: list[int] = []

    def __call__(self, words: Sequence[str], title: str, program: Any = None, terminal: Any = None) -> child.End:
        cfg = train.merged(train.parser().parse_intermixed_args(list(words)))
        self.seeds.append(cfg.SEED)
        self.folders.append(Path(cfg.OUTPUT_DIR))
        code = self.ends.pop(0) if self.ends else 0
        if code == 0:
            write(cfg.clone(), correct=10 + cfg.SEED)
        return child.End(code, ("some line", "xcoop: the reason") if code else (), 0.1)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    stand_in = Training()
    monkeypatch.setattr(child, "run", stand_in)
    return stand_in


@pytest.fixture
def launch(tmp_path: Path, training: Training) -> Launch:
    def run(*words: str, seeds: str = "1 2 3") -> int:
        return main(["run", *words, "--out", str(tmp_path), "--data", str(tmp_path / "data"), "--seeds", seeds])

    return run


def test_all_seeds_then_the_table(launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch("phantom", "4", "CoOp") == 0
    shown = capsys.readouterr().out
    assert "60.0 ± 5.0" in shown
    assert "phantom: not a clinical result" in shown
    assert (tmp_path / "phantom" / "CoOp" / "phantom_4shots" / "seed3" / "results.json").is_file()


def test_the_end_names_the_command_that_compares(
    launch: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEEDS", raising=False)
    for seeds, ending in (("1 2 3", ""), ("2", " --seeds 2"), ("2,3", " --seeds '2 3'")):
        assert launch("phantom", "4", "CoOp", seeds=seeds) == 0
        *_, line, _ = capsys.readouterr().out.splitlines()
        assert line.endswith(f": xcoop results {tmp_path}{ending}")


def test_finished_seeds_are_skipped_by_their_results_not_by_their_folder(
    launch: Launch, training: Training, tmp_path: Path
) -> None:
    assert launch("phantom", "4", "CoOp", seeds="1 2") == 0
    (tmp_path / "phantom" / "CoOp" / "phantom_4shots" / "seed2" / "results.json").unlink()
    assert launch("phantom", "4", "CoOp") == 0
    assert training.seeds == [1, 2, 2, 3]


def test_a_failing_seed_does_not_stop_the_others(
    launch: Launch, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    training.ends = [0, 1, 0]
    assert launch("phantom", "4", "CoOp") == 1
    shown = capsys.readouterr().out
    assert training.seeds == [1, 2, 3]
    assert "seed 2: FAILED (exit code 1)" in shown
    assert "the reason" in shown
    assert "1 3 (missing: 2)" in shown


def test_the_same_error_is_shown_once(launch: Launch, training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    training.ends = [2, 2, 2]
    assert launch("phantom", "4", "CoOp") == 1
    assert capsys.readouterr().out.count("the reason") == 1


def test_a_finished_run_with_other_settings_is_never_overwritten(
    launch: Launch, training: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch("phantom", "4", "CoOp", seeds="1")
    folder = tmp_path / "phantom" / "CoOp" / "phantom_4shots" / "seed1"
    saved = (folder / "config.yaml").read_text()
    write(_changed(folder, "OPTIM.LR", 0.5), correct=20)
    before = (folder / "results.json").read_bytes()
    assert launch("phantom", "4", "CoOp") == 2
    error = capsys.readouterr().err
    assert "OPTIM.LR: 0.5 there" in error
    assert str(folder) in error
    assert "move that folder away" in error
    assert training.seeds == [1]  # nothing was started
    assert (folder / "results.json").read_bytes() == before
    assert saved


def _changed(folder: Path, *pairs: Any) -> Any:
    from xcoop.config.defaults import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    cfg.merge_from_list(list(pairs))
    return cfg


def test_an_interrupted_run_with_other_settings_is_not_resumed(
    launch: Launch, training: Training, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch("phantom", "4", "CoOp", seeds="1")
    folder = tmp_path / "phantom" / "CoOp" / "phantom_4shots" / "seed1"
    (folder / "results.json").unlink()
    (folder / "config.yaml").write_text(_changed(folder, "TRAINER.COOP.N_CTX", 9).dump())
    assert launch("phantom", "4", "CoOp", seeds="1") == 0  # no checkpoint: nothing to mix with
    (folder / "results.json").unlink()
    (folder / "config.yaml").write_text(_changed(folder, "TRAINER.COOP.N_CTX", 9).dump())
    (folder / "prompt_learner").mkdir()
    (folder / "prompt_learner" / "model.pth.tar-1").touch()
    assert launch("phantom", "4", "CoOp", seeds="1") == 2
    assert "TRAINER.COOP.N_CTX: 9 there" in capsys.readouterr().err


def test_overrides_have_a_folder_of_their_own(launch: Launch, training: Training) -> None:
    launch("phantom", "4", "CoOp", seeds="1")
    launch("phantom", "4", "CoOp", "phantom", "TRAINER.COOP.N_CTX", "8", "OPTIM.LR", "0.01", seeds="1")
    launch("phantom", "4", "CoOp", "DATALOADER.TRAIN_X.BATCH_SIZE", "3", seeds="1")
    names = [folder.parent.name for folder in training.folders]
    assert names == ["phantom_4shots", "phantom_4shots_lr-0.01_n_ctx-8", "phantom_4shots_train_x_batch_size-3"]


def test_overrides_that_change_no_result_share_the_folder(launch: Launch, training: Training) -> None:
    launch("phantom", "4", "CoOp", seeds="1")
    launch("phantom", "4", "CoOp", "DATALOADER.NUM_WORKERS", "3", "TRAINER.COCOOP.N_CTX", "9", seeds="1")
    assert training.seeds == [1]


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


def test_a_busy_seed_is_left_for_the_end(
    launch: Launch, training: Training, capsys: pytest.CaptureFixture[str]
) -> None:
    training.ends = [BUSY, 0, 0, 0]
    assert launch("phantom", "4", "CoOp") == 0
    assert training.seeds == [1, 2, 3, 1]


def test_a_seed_that_another_launcher_finished_meanwhile_is_not_run_again(
    launch: Launch, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = training.__call__

    def also_seed_2(words: list[str], title: str, *rest: Any) -> child.End:
        others = [word.replace("seed1", "seed2") for word in words]
        others[others.index("--seed") + 1] = "2"
        own(others, title)  # what the other launcher does while we are at seed 1
        return own(words, title)

    monkeypatch.setattr(child, "run", also_seed_2)
    assert launch("phantom", "4", "CoOp", seeds="1 2") == 0
    assert training.seeds == [2, 1]


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


def test_too_many_overrides_for_a_name(tmp_path: Path) -> None:
    many = str(["random_resized_crop", "random_flip", "normalize"] * 3)
    with pytest.raises(UserError, match="YAML"):
        make_plans(["phantom", "4", "CoOp", "INPUT.TRANSFORMS", many], "data", str(tmp_path), [1])


def test_results_carry_the_seed_and_the_shots(launch: Launch, tmp_path: Path) -> None:
    launch("phantom", "4", "CoOp", seeds="7")
    found = read_run(tmp_path / "phantom" / "CoOp" / "phantom_4shots" / "seed7")
    assert found is not None
    assert (found["seed"], found["shots"]) == (7, 4)
    assert json.dumps(found)
