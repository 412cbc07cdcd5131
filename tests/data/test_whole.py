"""Files and folders are whole or absent: whoever fills them holds a lock, and what the dead have left goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xcoop.data.folders import make_once
from xcoop.utils.files import atomic_path, atomic_write_text, held, make_folder, sweep

AGO = time.time() - 7200
# A process that makes a folder or a file at argv[1], says so when half of it is there, and ends when it is told.
FOLDER = """
import sys, pathlib
from xcoop.utils.files import make_folder
def write(folder):
    (folder / "part").mkdir()
    (folder / "part" / "1").write_text("1")
    print(folder, flush=True)
    sys.stdin.readline()
    (folder / "part" / "2").write_text("2")
    return 2
make_folder(pathlib.Path(sys.argv[1]), write)
"""
FILE = """
import sys
from xcoop.utils.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    sys.stdin.readline()
"""
Start = Callable[[str, Path], "tuple[subprocess.Popen[str], Path]"]


def fill(out: Path) -> int:
    (out / "a.txt").write_text("whole")
    return 1


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def start() -> Start:
    def begin(code: str, target: Path) -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        return process, Path(process.stdout.readline().strip())

    return begin


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []
    for _ in range(2):
        make_once(tmp_path / "x" / "y", lambda out: calls.append(out) or fill(out))  # type: ignore[func-returns-value]
    assert len(calls) == 1
    assert (tmp_path / "x" / "y" / "a.txt").read_text() == "whole"
    assert names(tmp_path / "x") == ["y"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: Path) -> int:
        fill(out)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_once(tmp_path / "y", fail)
    assert not names(tmp_path)


def test_an_empty_folder_may_be_filled_and_one_that_holds_something_is_kept(tmp_path: Path) -> None:
    def write(folder: Path) -> int:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").write_text("theirs")  # meanwhile
        return fill(folder)

    (tmp_path / "new").mkdir()
    make_folder(tmp_path / "new", fill)
    assert names(tmp_path / "new") == ["a.txt"]
    (tmp_path / "new" / "a.txt").write_text("theirs")
    with pytest.raises(FileExistsError, match="new exists already"):
        make_folder(tmp_path / "new", fill)
    assert (tmp_path / "new" / "a.txt").read_text() == "theirs"
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "other", write)
    assert names(tmp_path) == ["new", "other"]
    assert names(tmp_path / "other") == ["file"]


def test_of_two_makers_one_makes_it_and_the_other_finds_it(tmp_path: Path) -> None:
    made: list[Path] = []

    def slow(out: Path) -> int:
        made.append(out)
        time.sleep(0.2)
        return fill(out)

    threads = [threading.Thread(target=make_once, args=(tmp_path / "y", slow)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1
    assert names(tmp_path) == ["y"]
    assert names(tmp_path / "y") == ["a.txt"]


@pytest.mark.parametrize("code", [FOLDER, FILE], ids=["folder", "file"])
def test_what_somebody_fills_stays_however_old_it_looks(code: str, tmp_path: Path, start: Start) -> None:
    process, temporary = start(code, tmp_path / "y")
    os.utime(temporary, (AGO, AGO))
    sweep(tmp_path)
    assert temporary.exists()
    _, said = process.communicate("\n", timeout=30)
    assert process.returncode == 0, said
    assert names(tmp_path) == ["y"]


@pytest.mark.parametrize("code", [FOLDER, FILE], ids=["folder", "file"])
def test_what_a_killed_process_left_goes_at_the_next_start(code: str, tmp_path: Path, start: Start) -> None:
    process, temporary = start(code, tmp_path / "y")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert temporary.exists()
    atomic_write_text(tmp_path / "another", "of the same folder")
    assert names(tmp_path) == ["another"]


@pytest.mark.parametrize("what", ["", "part", "part/1"])
def test_a_folder_that_lost_something_is_not_published(what: str, tmp_path: Path, start: Start) -> None:
    process, temporary = start(FOLDER, tmp_path / "y")
    lost = temporary / what
    subprocess.run(["rm", "-r", str(lost)], check=True)
    _, said = process.communicate("\n", timeout=30)
    assert process.returncode != 0
    assert "2 files were written, and 1 are there" in said if what == "part/1" else "FileNotFoundError" in said
    assert not names(tmp_path)


def test_other_names_are_nobodys_leftovers(tmp_path: Path) -> None:
    for name in ("notes.tmp", ".notes.tmp", ".y.short.tmp", ".y.ABCDEFGH.tmp", ".y.12345678.TMP"):
        (tmp_path / name).touch()
    (tmp_path / ".y.12345678.tmp").symlink_to(tmp_path / "notes.tmp")
    sweep(tmp_path)
    assert len(names(tmp_path)) == 5
    assert (tmp_path / "notes.tmp").exists()


def test_without_locks_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcoop.utils.files.take", lambda *_: None)
    (tmp_path / ".y.12345678.tmp").mkdir()  # nobody can tell whose it is
    make_folder(tmp_path / "y", fill)
    assert names(tmp_path) == [".y.12345678.tmp", "y"]


def test_a_lock_is_waited_for_and_goes_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / ".y.lock"
    with held(lock) as taken:
        assert taken
        with held(lock, wait=False) as other:
            assert other is False
        writer = threading.Thread(target=atomic_write_text, args=(tmp_path / "y", "text"))
        writer.start()
        time.sleep(0.15)
        assert names(tmp_path) == [".y.lock"]
    writer.join(10)
    assert names(tmp_path) == ["y"]


def test_a_link_is_not_followed_to_what_is_locked(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".y.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=r"is a link, .*\.y\.lock"), atomic_path(tmp_path / "y"):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_system_without_fcntl_is_one_without_locks(tmp_path: Path) -> None:
    code = "import xcoop.cli, xcoop.utils.download, xcoop.results.folder"
    code = f"import sys; sys.modules.update(fcntl=None, resource=None); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
