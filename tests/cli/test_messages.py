"""What goes wrong outside of the programme ends in one line with the file, the flag or the port in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xcoop.cli import main
from xcoop.engine.tools import Logger
from xcoop.results.folder import logged
from xcoop.utils.console import LONGEST_MESSAGE, SHOWN, UserError, complain, escaped, guarded, is_plain, say

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")


@FULL
def test_a_log_on_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tee = Logger("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        tee.write("a line\n")
    tee.close()


@FULL
def test_a_run_whose_log_cannot_be_written_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout

    def run() -> int:
        with logged(tmp_path):
            sys.stdout.file.close()  # type: ignore[attr-defined]
            sys.stdout.file = open("/dev/full", "w", buffering=1)  # type: ignore[attr-defined]  # noqa: SIM115
            sys.stdout.write("a line\n")
        return 0

    assert guarded(run) == 2
    assert sys.stdout is before
    assert capsys.readouterr().err == "xcoop: [Errno 28] No space left on device: '/dev/full'\n"


@pytest.mark.parametrize("port", ["-1", "65536", "99999"])
def test_a_port_is_checked_first(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nowhere", "--demo", "--port", port]) == 2
    assert f"--port {port}: a number from 0 (any that is free) to 65535" in capsys.readouterr().err


def test_a_message_never_repeats_a_whole_file(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise UserError("x" * 10**6)

    assert guarded(fail) == 2
    assert len(capsys.readouterr().err) < LONGEST_MESSAGE + 100
    with pytest.raises(SystemExit):
        main(["train", "--seed", "9" * 10**6])
    assert len(capsys.readouterr().err) < LONGEST_MESSAGE + 3000
    assert main(["run", "phantom", "y" * 10**5]) == 2
    assert len(capsys.readouterr().err) < SHOWN + 200


@pytest.mark.parametrize("command", [["run", "phantom", "16"], ["data", "list"], ["train", "--trainer", "CoOp"]])
def test_commands_are_refused_where_there_is_no_posix_and_the_package_is_imported(command: list[str]) -> None:
    """As on Windows: none of these modules is there, and nothing is begun."""
    code = (
        "import sys\n"
        "for name in ('fcntl', 'grp', 'pwd', 'resource', 'termios'):\n"
        "    sys.modules[name] = None\n"
        "import xcoop, xcoop.runs.train\n"
        "from xcoop.cli import main\n"
        "sys.platform = 'win32'\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    line = "xcoop: XCoOp runs on Linux and macOS, and on Windows inside WSL; this Python is win32's\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["run", "phantom", "9" * 5000, "CoOp"], "<shots>"),
        (["run", "phantom", "1", "CoOp", "--seeds", "9" * 5000], "SEEDS"),
        (["sweep", "phantom", "CoOp", "1", "9" * 5000], "seeds"),
        (["sweep", "phantom", "CoOp", "1", "1", "--workers", "-3"], "--workers"),
        (["train", "--seed", "nan"], "--seed"),
        (["train", "--trainer", "x" * 10**5], "trainer"),
        (["train", "--trainer", "CoOp", "--dataset-config-file", "\0.yaml"], r"\x00.yaml"),
        (["train", "--trainer", "CoOp", "--dataset-config-file", "a" * 5000 + ".yaml"], "too long"),
        (["explain", "\0"], r"\x00"),
        (["explain", "a" * 5000], "aaa"),
        (["explain", "nowhere", "--images", "0"], "--images"),
        (["explain", "nowhere", "--asked", "-1"], "--asked"),
        (["results", "\0"], r"\x00"),
        (["data", "info", "z" * 10**5], "zzz"),
        (["concepts", "check", "\0.yaml"], r"\x00.yaml"),
        (["concepts", "elicit", "phantom", "--model", "m", "--base-url", "http://[", "--out", "a.yaml"], "--base-url"),
    ],
)
def test_nonsense_is_refused_without_a_traceback(
    command: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(command)
    except SystemExit as end:  # argparse's own
        code = int(end.code or 0)
    assert code == 2
    errors = capsys.readouterr().err
    assert named in errors
    assert len(errors) < LONGEST_MESSAGE + 100
    assert os.listdir(tmp_path) == []


# Names are written to a terminal as text, never as commands.

UNSAFE = ["\x1b[31m", "a\nb", "a\rb", "\x07", "\x9b1m", "\u2028", "\u202e", "\udce9", "\ud83d", "\x7f"]
PLAIN = [
    "nevus",
    "größe",
    "cafe\u0301",
    "نوع\u200cها",
    "\U0001f469\u200d\U0001f52c",
    "Screenshot 3.15\u202fPM.png",
    "a b",
]


@pytest.mark.parametrize("text", UNSAFE)
def test_unsafe_names_are_escaped(text: str) -> None:
    assert not is_plain(text)
    assert is_plain(escaped(text))
    assert "\\" in escaped(text)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_names_stay(text: str) -> None:
    assert is_plain(text)
    assert escaped(text) == text


def test_a_byte_that_is_no_text_is_shown_as_the_byte() -> None:
    assert escaped(b"caf\xe9\x1b.png".decode("utf-8", "surrogateescape")) == r"caf\xe9\x1b.png"
    assert escaped("a\n\x1bb", keep="\n") == "a\n\\x1bb"


def test_nothing_that_is_written_acts_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("name \x1b[2J", "next\tline")
    complain("file \x1b]0;title\x07")
    found = capsys.readouterr()
    assert found.out == "name \\x1b[2J\nnext\tline\n"
    assert found.err == "xcoop: file \\x1b]0;title\\x07\n"
