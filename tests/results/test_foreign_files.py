"""A folder may hold files of somebody else: one under a name that a run writes stops it, and nothing is changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from synthetic_runs import config, write

from xcoop.config.defaults import get_cfg
from xcoop.results.folder import LOCK, LOG, occupied, save_config
from xcoop.results.record import Origin
from xcoop.utils.console import UserError
from xcoop.utils.files import require_ours, unlinked

KINDS = ["text", "link", "dangling link", "folder"]
NAMES = ["config.yaml", "predictions.csv", "cmat.json", LOCK]


def put(path: Path, kind: str, victim: Path, text: str = "TRAINER: mine\n") -> None:
    if kind == "text":
        path.write_text(text)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(victim if kind == "link" else victim.with_name("nowhere"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_files_of_somebody_else_stop_a_run(name: str, kind: str, tmp_path: Path) -> None:
    folder, victim = tmp_path / "run", tmp_path / "mine"
    folder.mkdir()
    victim.write_text("precious")
    put(folder / name, kind, victim)
    cfg = get_cfg()
    cfg.TEST.COMPUTE_CMAT = True
    with pytest.raises((UserError, OSError), match=rf"{folder / name}"), occupied(folder, cfg, Origin()):
        pytest.fail("it began")
    assert victim.read_text() == "precious"
    assert not victim.with_name("nowhere").exists()
    assert {path.name for path in folder.iterdir()} <= {name, LOCK}
    if kind == "text":
        assert (folder / name).read_text() == "TRAINER: mine\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_somebody_else_stops_a_run(kind: str, tmp_path: Path) -> None:
    (tmp_path / "prompt_learner").mkdir()
    mine, victim = tmp_path / "prompt_learner" / "model.pth.tar-2", tmp_path / "mine"
    victim.write_text("precious")
    put(mine, kind, victim, "my own")
    with pytest.raises(FileExistsError, match=str(mine)), occupied(tmp_path, get_cfg(), Origin()):
        pytest.fail("it began")
    assert victim.read_text() == "precious"
    assert kind != "text" or mine.read_text() == "my own"


def test_checkpoints_of_every_torch_are_known(tmp_path: Path) -> None:
    (tmp_path / "prompt_learner").mkdir()
    path = tmp_path / "prompt_learner" / "model.pth.tar-2"
    for zipped in (True, False):
        torch.save({"state_dict": {}, "epoch": 2}, path, _use_new_zipfile_serialization=zipped)
        require_ours(path, kind="checkpoint")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("how", ["a", "a+", "ab"])
def test_a_pipe_in_place_of_a_lock_is_named_and_not_waited_for(how: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(OSError, match=str(tmp_path / LOCK)), open(tmp_path / LOCK, how, opener=unlinked):
        pytest.fail("it was opened")


@pytest.mark.parametrize("name", ["predictions.csv", "results.json"])
def test_a_record_does_not_replace_them_either(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("my own")
    with pytest.raises(FileExistsError, match=rf"{name} is not written by xcoop"):
        write(config(tmp_path), correct=15)
    assert (tmp_path / name).read_text() == "my own"
    assert {path.name for path in tmp_path.iterdir()} == {name, "config.yaml"}  # the latter is of `config`


@pytest.mark.parametrize("kind", ["text", "link", "dangling link"])
def test_a_log_of_somebody_else_is_kept(kind: str, tmp_path: Path) -> None:
    folder, victim = tmp_path / "run", tmp_path / "mine"
    folder.mkdir()
    victim.write_text("precious")
    put(folder / LOG, kind, victim, "precious")
    with occupied(folder, get_cfg(), Origin()):
        sys.stdout.write("a line of ours\n")
    assert "a line of ours" in (folder / LOG).read_text()
    assert not (folder / LOG).is_symlink()
    assert victim.read_text() == "precious"
    assert not victim.with_name("nowhere").exists()
    assert len(list(folder.glob("log.txt-*"))) == 1


def test_the_engines_own_log_is_not_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xcoop.engine.tools import setup_logger

    monkeypatch.setattr(sys, "stdout", sys.stdout)  # given back at the end
    (tmp_path / LOG).symlink_to(tmp_path / "nowhere")
    setup_logger(str(tmp_path))
    sys.stdout.close()
    assert not (tmp_path / "nowhere").exists()
    assert len(list(tmp_path.glob("log.txt-*"))) == 1


def test_what_runs_write_is_theirs_to_replace(tmp_path: Path) -> None:
    for _ in range(2):
        with occupied(tmp_path, get_cfg(), Origin()):
            save_config(tmp_path, get_cfg())
    for _ in range(2):
        write(config(tmp_path), correct=15)
    require_ours(*(tmp_path / name for name in ("config.yaml", "predictions.csv", "results.json")))
    (tmp_path / "predictions.csv").write_text("")  # nothing is lost with an empty file
    require_ours(tmp_path / "predictions.csv")
