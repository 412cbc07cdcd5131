"""A run's folder: files of somebody else stop a run, locks keep others out, other settings or data are refused."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic_runs import config, write

from xcoop.config.plugins import get_cfg
from xcoop.results.folder import LOCK, LOG, busy, check_free, locked, occupied, other_data, save_config
from xcoop.results.record import Origin
from xcoop.sweep.launcher import Launcher, make_slots
from xcoop.utils.console import UserError
from xcoop.utils.files import require_ours, unguarded, unlinked

KINDS = ["text", "link", "dangling link", "folder"]
ORIGIN = Origin("phantom", "train.py")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of somebody else's, to which links lead."""
    path = tmp_path / "mine"
    path.write_text("precious")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


def put(path: Path, kind: str, victim: Path, text: str = "TRAINER: mine\n") -> None:
    if kind == "text":
        path.write_text(text)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(victim if kind == "link" else victim.with_name("nowhere"))


def untouched(victim: Path) -> bool:
    return victim.read_text() == "precious" and not victim.with_name("nowhere").exists()


# Files of somebody else.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.yaml", "predictions.csv", "cmat.json", LOCK])
def test_files_of_somebody_else_stop_a_run(name: str, kind: str, folder: Path, victim: Path) -> None:
    put(folder / name, kind, victim)
    cfg = get_cfg()
    cfg.TEST.COMPUTE_CMAT = True
    with pytest.raises((UserError, OSError), match=rf"{folder / name}"), occupied(folder, cfg, Origin()):
        pytest.fail("it began")
    assert untouched(victim)
    assert {path.name for path in folder.iterdir()} <= {name, LOCK}
    assert kind != "text" or (folder / name).read_text() == "TRAINER: mine\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_somebody_else_stops_a_run(kind: str, folder: Path, victim: Path) -> None:
    mine = folder / "prompt_learner" / "model.pth.tar-2"
    mine.parent.mkdir()
    put(mine, kind, victim, "my own")
    with pytest.raises(FileExistsError, match=str(mine)), occupied(folder, get_cfg(), Origin()):
        pytest.fail("it began")
    assert untouched(victim)
    assert kind != "text" or mine.read_text() == "my own"


def test_a_checkpoint_without_a_config_makes_no_run_of_ours_before_it_fits(folder: Path) -> None:
    """Checkpoints of every torch are known; and the config is saved by whoever resumes, not by who takes the folder."""
    path = folder / "prompt_learner" / "model.pth.tar-2"
    path.parent.mkdir()
    for zipped in (True, False):
        torch.save({"state_dict": {}, "epoch": 2}, path, _use_new_zipfile_serialization=zipped)
        with occupied(folder, get_cfg(), Origin()):
            assert not (folder / "config.yaml").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("how", ["a", "a+", "ab"])
def test_a_pipe_in_place_of_a_lock_is_named_and_not_waited_for(how: str, folder: Path) -> None:
    os.mkfifo(folder / LOCK)
    with pytest.raises(OSError, match=str(folder / LOCK)), open(folder / LOCK, how, opener=unlinked):
        pytest.fail("it was opened")


@pytest.mark.parametrize("name", ["predictions.csv", "results.json"])
def test_a_record_does_not_replace_them_either(name: str, folder: Path) -> None:
    (folder / name).write_text("my own")
    with pytest.raises(FileExistsError, match=rf"{name} is not written by xcoop"):
        write(config(folder), correct=15)
    assert (folder / name).read_text() == "my own"
    assert {path.name for path in folder.iterdir()} == {name, "config.yaml"}  # the latter is of `config`


@pytest.mark.parametrize("kind", ["text", "link", "dangling link"])
def test_a_log_of_somebody_else_is_kept(kind: str, folder: Path, victim: Path) -> None:
    put(folder / LOG, kind, victim, "precious")
    with occupied(folder, get_cfg(), Origin()):
        sys.stdout.write("a line of ours\n")
    assert "a line of ours" in (folder / LOG).read_text()
    assert not (folder / LOG).is_symlink()
    assert untouched(victim)
    assert len(list(folder.glob("log.txt-*"))) == 1


def test_the_engines_own_log_is_not_written_through_a_link(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xcoop.engine.tools import setup_logger

    monkeypatch.setattr(sys, "stdout", sys.stdout)  # given back at the end
    (folder / LOG).symlink_to(folder / "nowhere")
    setup_logger(str(folder))
    sys.stdout.close()
    assert not (folder / "nowhere").exists()
    assert len(list(folder.glob("log.txt-*"))) == 1


def test_what_runs_write_is_theirs_to_replace(folder: Path) -> None:
    for _ in range(2):
        with occupied(folder, get_cfg(), Origin()):
            save_config(folder, get_cfg())
    for _ in range(2):
        write(config(folder), correct=15)
    require_ours(*(folder / name for name in ("config.yaml", "predictions.csv", "results.json")))
    (folder / "predictions.csv").write_text("")  # nothing is lost with an empty file
    require_ours(folder / "predictions.csv")


# Locks, and disks without any: `flock` answers as they do. One message, and everything goes on; other trouble is named.

Answers = Callable[[int], None]


@pytest.fixture
def flock(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Sets what `flock` answers from now on."""

    def answers(number: int) -> None:
        def fail(file: object, operation: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", fail)

    return answers


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_is_named_with_a_remedy(number: int, flock: Answers, folder: Path) -> None:
    flock(number)
    wanted = folder / "not" / "there"
    text = unguarded(wanted)
    assert text.startswith(f"{wanted} lies on a disk without locks ({os.strerror(number)})")
    assert "only one launcher" in text
    assert "--out" in text
    assert not list(folder.iterdir())


def test_a_run_without_locks_goes_on_and_says_so_in_its_log(
    flock: Answers, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flock(errno.ENOSYS)
    with occupied(folder, get_cfg(), Origin()):
        assert not busy(folder)  # nobody can tell
    assert (folder / LOG).read_text().count(f"warning: {folder} lies on a disk without locks") == 1
    assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) == 1


def test_other_trouble_is_no_missing_lock(flock: Answers, folder: Path) -> None:
    flock(errno.EIO)
    assert unguarded(folder) == ""
    with pytest.raises(OSError, match=r"cannot be locked \(Input/output error\)") as caught, locked(folder):
        pass
    assert caught.value.filename == str(folder / LOCK)


def test_a_launcher_says_it_once(flock: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flock(errno.ENOTSUP)
    assert Launcher([], make_slots(1, (), cores=1), str(tmp_path)).run() == {}
    assert capsys.readouterr().err.count(f"xcoop: warning: {tmp_path} lies on a disk without locks") == 1


def test_answers_are_asked_for_all_the_same(flock: Answers, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from xcoop.concepts.elicitation import Query, open_store

    flock(errno.ENOSYS)
    values = dict.fromkeys(("dataset", "template", "picture", "model", "host"), "")
    with open_store(tmp_path / "a.answers.jsonl", Query(**values, classes=(), concepts=1), resume=False):
        pass
    assert f"{tmp_path} lies on a disk without locks" in caplog.text


# Other settings, and other data of the same name.


def files(folder: Path, **contents: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in contents.items():
        (folder / f"{name}.png").write_text(text)
    return folder


def on(path: Path) -> dict[str, Any]:
    return {"DATASET": {"PATH": str(path)}}


def test_two_folders_of_one_name_are_told_apart_unless_one_is_a_copy_or_was_moved(tmp_path: Path) -> None:
    one = files(tmp_path / "a" / "my_images", leaf="1", root="2")
    other = files(tmp_path / "b" / "my_images", leaf="1", stem="2")
    longer = files(tmp_path / "c" / "my_images", leaf="1", root="22")
    copy = files(tmp_path / "d" / "my_images", leaf="1", root="2")
    (copy / "split-seed_0.json").write_text("{}")
    assert str(one) in other_data(on(one), on(other))
    assert other_data(on(one), on(longer))
    assert not other_data(on(one), on(copy))
    assert not other_data(on(one), on(one / ".." / "my_images"))
    assert not other_data(on(tmp_path / "gone" / "my_images"), on(one))
    tables = [
        files(tmp_path / name / "list", table=text) / "table.png" for name, text in zip("efg", "121", strict=True)
    ]
    assert other_data(on(tables[0]), on(tables[1]))  # of one size
    assert not other_data(on(tables[0]), on(tables[2]))
    assert not other_data({"DATASET": {}}, on(one))
    same_sizes = files(tmp_path / "h" / "my_images", leaf="2")
    assert other_data(on(files(tmp_path / "i" / "my_images", leaf="1")), on(same_sizes))


def test_a_run_on_another_folder_of_the_same_name_is_refused(tmp_path: Path) -> None:
    one = files(tmp_path / "a" / "my_images", leaf="1")
    other = files(tmp_path / "b" / "my_images", root="2")
    run = tmp_path / "run"
    write(config(run, "DATASET.PATH", str(one)), 15)
    check_free(run, config(run, "DATASET.PATH", str(one)), ORIGIN)
    with pytest.raises(UserError, match=r"with other settings:\n  DATASET\.PATH: .* which has other files"):
        check_free(run, config(run, "DATASET.PATH", str(other)), ORIGIN)
    one.rename(tmp_path / "gone")
    check_free(run, config(run, "DATASET.PATH", str(other)), ORIGIN)
