"""Commands that are printed to be pasted work in the shell that they are printed in, environment active or not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from xcoop.utils.console import to_paste

REPOSITORY = Path(__file__).resolve().parents[2]


def programme(path: Path, code: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an environment's programmes; the current folder is the one above the environment."""
    folder = tmp_path / "a project" / ".venv" / "bin"
    programme(folder / "xcoop")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(folder))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(folder.parents[1])
    return folder


def test_a_programme_on_the_path_is_called_by_its_name(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{scripts}:/usr/bin")
    assert to_paste("xcoop", "table", "my set", "--out", "o") == "xcoop table 'my set' --out o"


def test_else_by_its_place_seen_from_the_current_folder(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert to_paste("xcoop", "list") == ".venv/bin/xcoop list"
    monkeypatch.chdir("/usr")
    assert to_paste("xcoop") == f"'{scripts}/xcoop'"
    monkeypatch.chdir(scripts)  # "xcoop" alone would be looked for on the PATH
    assert to_paste("xcoop") == f"'{scripts}/xcoop'"


def test_a_programme_of_the_same_name_is_not_taken_for_it(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(programme(tmp_path / "other" / "xcoop").parent))
    assert to_paste("xcoop", "list") == ".venv/bin/xcoop list"


def test_without_a_programme_the_module_is_run(scripts: Path) -> None:
    assert to_paste("pip", "install", "xcoop[hf]") == ".venv/bin/python -m pip install 'xcoop[hf]'"


def test_the_module_runs_as_the_programme_does() -> None:
    command = [sys.executable, "-m", "xcoop", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("xcoop ")


@pytest.mark.slow
def test_what_main_sh_prints_can_be_pasted(tmp_path: Path) -> None:
    """In a checkout with a blank in its path, whose .venv is not active; the environment's libraries are this one's."""
    checkout = tmp_path / "a checkout"
    shutil.copytree(REPOSITORY / "scripts", checkout / "scripts")
    shutil.copy(REPOSITORY / "setup.py", checkout)
    env_sh = checkout / "scripts" / "env.sh"
    whole = '_is_ready() { [ "$1" = "$VENV/bin/python" ]; }\n_install() { :; }\n'
    env_sh.write_text(env_sh.read_text().replace("\nPYTHON=$(command -v", f"\n{whole}PYTHON=$(command -v", 1))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(checkout / ".venv")], check=True)
    (site,) = (checkout / ".venv" / "lib").glob("python*/site-packages")
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text("")
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (site / "shared.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in shared))
    programme(checkout / ".venv" / "bin" / "xcoop", 'exec "$(dirname "$0")/python" -m xcoop "$@"')
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XCOOP_CACHE": os.environ["XCOOP_CACHE"]}

    def bash(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=120
        )

    told = bash("bash 'a checkout/scripts/main.sh' derm7pt 16")
    hint = re.search(r"A phantom in its place .*: (.*) --out DIR", told.stdout + told.stderr)
    assert hint, told.stdout + told.stderr
    assert hint[1] == "'a checkout/.venv/bin/xcoop' phantom derm7pt"
    pasted = bash(f"{hint[1]} --out drawn --cases 12")
    assert pasted.returncode == 0, pasted.stderr
    assert (tmp_path / "drawn").is_dir()
