"""Disks without locks: `flock` answers as they do. One message, and everything goes on; other trouble is named."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xcoop.config.defaults import get_cfg
from xcoop.results.folder import LOCK, LOG, busy, locked, occupied
from xcoop.results.record import Origin
from xcoop.sweep.display import Display
from xcoop.sweep.launcher import Launcher, make_slots, warn_without_locks
from xcoop.utils.console import BusyError
from xcoop.utils.files import unguarded

Answers = Callable[[int], None]
NO_LOCKS = [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.fixture
def flock(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Sets what `flock` answers from now on."""

    def answers(number: int) -> None:
        def fail(file: object, operation: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", fail)

    return answers


def test_where_there_are_locks_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unguarded(tmp_path / "not" / "there") == ""
    warn_without_locks(tmp_path)
    with locked(tmp_path):
        assert busy(tmp_path)
        with pytest.raises(BusyError, match=f"process {os.getpid()}"), locked(tmp_path):
            pass
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_disk_without_locks_is_named_with_a_remedy(number: int, flock: Answers, tmp_path: Path) -> None:
    flock(number)
    wanted = tmp_path / "not" / "there"
    text = unguarded(wanted)
    assert text.startswith(f"{wanted} lies on a disk without locks ({os.strerror(number)})")
    assert "only one launcher" in text
    assert "--out" in text
    assert not list(tmp_path.iterdir())


def test_a_run_without_locks_goes_on_and_says_so_in_its_log(
    flock: Answers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flock(errno.ENOSYS)
    folder = tmp_path / "run"
    with occupied(folder, get_cfg(), Origin()):
        assert not busy(folder)  # nobody can tell
    assert (folder / LOG).read_text().count(f"warning: {folder} lies on a disk without locks") == 1
    assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) == 1


def test_other_trouble_is_no_missing_lock(flock: Answers, tmp_path: Path) -> None:
    flock(errno.EIO)
    assert unguarded(tmp_path) == ""
    with pytest.raises(OSError, match=r"cannot be locked \(Input/output error\)") as caught, locked(tmp_path):
        pass
    assert caught.value.filename == str(tmp_path / LOCK)


def test_a_launcher_says_it_once(flock: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flock(errno.ENOTSUP)
    assert Launcher([], make_slots(1, (), cores=1), str(tmp_path), Display(0, 1, terminal=False)).run() == {}
    assert capsys.readouterr().err.count(f"xcoop: warning: {tmp_path} lies on a disk without locks") == 1


def test_answers_are_asked_for_all_the_same(flock: Answers, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from xcoop.concepts.elicitation import Query, open_store

    flock(errno.ENOSYS)
    values = dict.fromkeys(("dataset", "template", "picture", "model", "host"), "")
    with open_store(tmp_path / "a.answers.jsonl", Query(**values, classes=(), concepts=1), resume=False):
        pass
    assert f"{tmp_path} lies on a disk without locks" in caplog.text
