"""The `xcoop` command: help, names, paths, and errors in one line."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xcoop import cli
from xcoop.cli import main
from xcoop.utils import console as base

REPOSITORY = Path(__file__).resolve().parents[2]


def exit_code(*words: str) -> int:
    """Of a command that may end by argparse's own exit."""
    try:
        return main(list(words))
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    "words",
    [
        [], ["run"], ["train"], ["table"], ["list"], ["path"], ["version"], ["phantom"], ["explain"],
        ["data"], ["data", "list"], ["data", "info"], ["data", "prepare"], ["data", "check"],
        ["phantom", "derm7pt"], ["phantom", "pneumonia"], ["phantom", "pretrain"], ["phantom", "probe"],
        ["concepts"], ["concepts", "check"], ["concepts", "mine"], ["concepts", "elicit"],
    ],
)  # fmt: skip
def test_help_of_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*words, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage:")
    assert len(shown.splitlines()) > 4


def packages_after(code: str) -> set[str]:
    """The packages from outside of Python's own library that some code imports in a fresh process."""
    before = "import sys; before = set(sys.modules)"  # a site may have its own, e.g. a `sitecustomize`
    names = "{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)"
    lines = f"{before}\n{code}\nprint(*{names})"
    done = subprocess.run([sys.executable, "-c", lines], check=True, capture_output=True, text=True)
    return {name for name in done.stdout.splitlines()[-1].split() if not name.startswith("_")}


HELP = """
from xcoop.cli import main
try:
    main([*{}, "--help"])
except SystemExit:
    pass
"""


@pytest.mark.parametrize("code", ["import xcoop", HELP.format([])], ids=["import", "help"])
def test_what_is_asked_first_imports_nothing_but_the_package(code: str) -> None:
    assert packages_after(code) == {"xcoop"}


@pytest.mark.parametrize("command", ["run", "sweep", "train", "explain", "data list"])
def test_the_help_of_a_command_is_light(command: str) -> None:
    heavy = {"torch", "torchvision", "numpy", "scipy", "sklearn", "pandas", "matplotlib", "PIL", "pydantic", "jinja2"}
    assert not packages_after(HELP.format(command.split())) & heavy


def test_list_names_everything_that_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in ("CoOp", "CoCoOp", "ZeroshotCLIP", "derm7pt", "phantom", "pneumonia", "ViT-B/16", "RN50"):
        assert name in shown


def test_path_prints_a_file_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path", "configs/datasets/derm7pt.yaml"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    shown = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["xcoop"] == cli.__version__
    assert shown["engine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tabel"], "did you mean table?"),
        (["table", "phantom", "--formta", "csv"], "did you mean --format"),
        (["table", "phantom", "csv", "--formta"], "did you mean --format"),  # beside another error
        (["table", "phantom", "--format", "markdow"], "did you mean markdown?"),
        (["run", "phantom", "4", "--seed", "x", "--ouput", "y"], "did you mean --out"),
        (["run", "phantom", "4", "--seed", "3"], "did you mean --seeds"),
        (["data", "check", "phantom", "--pat", "x"], "did you mean --path"),
        (["concepts", "check", "--back", "x"], "did you mean --backbone"),
        (["phantom", "derm7pt", "--out", "x", "--case", "3"], "did you mean --cases"),
        (["path", "configs/datasets/derm7p.yaml"], "Did you mean 'derm7pt.yaml'?"),
        (["path", "../secrets"], "configs"),
        (["phantom", "derm7pt", "--out", "x", "--cases", "0"], "at least 12"),
        (["phantom", "derm7p"], "did you mean derm7pt?"),
    ],
)
def test_errors_end_in_a_line_and_code_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_phantom_is_not_drawn_over_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["phantom", "pneumonia", "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_phantom_tells_what_can_be_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", "derm7pt", "--out", str(tmp_path / "new"), "--cases", "12", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "not" in shown
    assert "clinical" in shown
    assert "accuracy 0." in shown
    assert (tmp_path / "new" / "release_v0" / "meta" / "meta.csv").is_file()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (base.UserError("the thing"), 2),
        (base.BusyError("the thing"), base.BUSY),
        (FileNotFoundError("the thing"), 2),
        (ValueError("the thing"), 2),
        (KeyError("the thing"), 2),
        (FloatingPointError("the thing"), 2),
        (KeyboardInterrupt(), base.INTERRUPTED),
    ],
)
def test_expected_errors(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise error

    assert base.guarded(fail) == code
    shown = capsys.readouterr().err
    assert shown in ("xcoop: the thing\n", "xcoop: interrupted\n")


@pytest.mark.parametrize(
    "told",
    [
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 512 bytes.",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB",
    ],
)
def test_too_little_memory_is_one_line(told: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(message: str) -> int:
        raise RuntimeError(message)

    assert base.guarded(lambda: fail(told)) == 2
    assert capsys.readouterr().err.startswith("xcoop: out of memory (")
    with pytest.raises(RuntimeError, match="a bug"):
        base.guarded(lambda: fail("a bug"))


def test_debugging_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XCOOP_DEBUG", "1")
    assert base.guarded(lambda: int("x")) == 2
    assert "Traceback" in capsys.readouterr().err


def test_errors_of_the_programme_itself_are_not_hidden() -> None:
    def fail() -> int:
        raise AttributeError("a bug")

    with pytest.raises(AttributeError):
        base.guarded(fail)


def test_pretraining_gets_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(arguments: argparse.Namespace) -> int:
        seen.update(vars(arguments))
        return 0

    module = SimpleNamespace(add_arguments=lambda parser: parser.add_argument("--out"), run=run)
    monkeypatch.setitem(sys.modules, "xcoop.phantom.pretrain", module)
    assert main(["phantom", "pretrain", "--out", "file"]) == 0
    assert seen["out"] == "file"


def test_keys_may_stand_after_the_options_and_have_negative_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sweep", "phantom", "CoOp", "1", "1", "--dry-run", "--out", str(tmp_path))
    assert exit_code(*words, "DATASET.VAL_SHOTS", "-1") == 0
    assert "val_shots-1" in capsys.readouterr().out
    assert exit_code(*words, "DATASET.VAL_SHOTS", "-1", "--dry") == 2
