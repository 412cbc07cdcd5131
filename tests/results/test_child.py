"""Watching a process: its lines, its end, and its death with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xcoop.sweep import subprocess_run as child
from xcoop.utils.console import BUSY

LINE = (
    "epoch [{}/4] batch [1/1] time 0.02 (0.02) data 0.0 (0.0) loss 0.7059 (0.5) acc 50.0 (50.0) lr 1.0e-03 eta 0:00:07"
)


def run(code: str, terminal: bool = False) -> child.End:
    return child.run((), "CoOp, seed 1", (sys.executable, "-u", "-c", code), terminal)


def test_plain_lines_in_a_log(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "EVERY", 0.0)
    end = run(f"for e in (1, 2): print({LINE!r}.format(e))\nprint('  40%|####    | bar')")
    out, err = capfd.readouterr()
    assert end.code == 0
    assert out.splitlines() == [
        "CoOp, seed 1: started",
        "CoOp, seed 1: epoch 1 of 4, loss 0.5, eta 0:00:07",
        "CoOp, seed 1: epoch 2 of 4, loss 0.5, eta 0:00:07",
        "CoOp, seed 1:   40%|####    | bar",
    ]
    assert err == ""
    assert len(end.tail) == 2  # the bar is no output worth keeping


def test_a_log_is_not_flooded(capfd: pytest.CaptureFixture[str]) -> None:
    run(f"for e in range(500): print({LINE!r}.format(e))")
    assert len(capfd.readouterr().out.splitlines()) == 1


def test_a_bar_on_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    run(f"for e in (1, 2): print({LINE!r}.format(e))", terminal=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "CoOp, seed 1" in err


def test_the_message_of_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    end = run("import sys; print('noise'); sys.stderr.write('xcoop: no data\\n  looked here\\n'); sys.exit(2)")
    assert (end.code, end.message) == (2, "xcoop: no data\n  looked here")
    assert end.reason == "exit code 2"


def test_without_a_message_the_last_lines(capfd: pytest.CaptureFixture[str]) -> None:
    end = run("for i in range(99): print(i)\nraise SystemExit(1)")
    assert end.message.split() == [str(i) for i in range(84, 99)]


def test_a_signal_has_its_name(capfd: pytest.CaptureFixture[str]) -> None:
    end = run("import os; os.kill(os.getpid(), 9)")
    assert end.reason == "killed by SIGKILL (out of memory?)"


def test_busy(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(f"raise SystemExit({BUSY})").busy


def test_a_launcher_that_is_terminated_takes_its_child_along(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    sleeper = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(120)"
    code = (
        "import sys\nfrom xcoop.sweep import subprocess_run as child\nfrom xcoop.sweep.sequential import terminable\n"
        f"with terminable(): child.run((), 'x', (sys.executable, '-c', {sleeper!r}), False)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (note.is_file() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    out, _ = launcher.communicate(timeout=30)
    assert launcher.returncode != 0
    assert "The same command goes on" in out
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)
