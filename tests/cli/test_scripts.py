"""The shell scripts: their syntax, and that they work from any folder and with blanks in a path."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHONS = re.findall(r'"([\d.]+)"', re.search(r"^PYTHONS = .*", (REPOSITORY / "setup.py").read_text(), re.MULTILINE)[0])
SCRIPTS = [*sorted((REPOSITORY / "scripts").glob("*.sh")), REPOSITORY / ".ci" / "run"]


def bash(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **env}
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script: Path) -> None:
    result = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_sudo(script: Path) -> None:
    code = [line for line in script.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert "sudo" not in "\n".join(code)


def test_what_makes_an_environment_ready_is_what_setup_py_installs() -> None:
    """A package that is asked for and not installed would make every fresh environment one that is never ready."""
    other_names = {
        **{"Pillow": "PIL", "clip-anytorch": "clip", "pyyaml": "yaml", "scikit-learn": "sklearn"},
        **{"scikit-posthocs": "scikit_posthocs", "pytest-xdist": "xdist", "open_clip_torch": "open_clip"},
    }
    setup = (REPOSITORY / "setup.py").read_text()
    lists = {
        key: re.findall(r'^ +"([\w-]+)', re.search(rf"{key}.*?\[\n(.*?)\n +\]", setup, re.DOTALL)[1], re.MULTILINE)
        for key in ("install_requires=", '"test": ')
    }
    run, test = ({other_names.get(name, name) for name in names} for names in lists.values())
    asked = re.findall(r'^needed \+?= "(.*)"\.split', (REPOSITORY / "scripts" / "env.sh").read_text(), re.MULTILINE)
    assert sorted(" ".join(asked[:-1]).split()) == sorted(run)
    assert set(asked[-1].split()) == {name for name in test if not name.startswith("types-")}


def active() -> str:
    """A PATH on which `python` is this interpreter."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def test_an_active_environment_is_used(tmp_path: Path) -> None:
    result = bash(
        f"cd '{tmp_path}'; set -euo pipefail; source '{REPOSITORY}/scripts/env.sh'; echo $PYTHON", PATH=active()
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).parent == Path(sys.executable).parent


def checkout(tmp_path: Path) -> Path:
    """A checkout with a blank in its path, without any library."""
    folder = tmp_path / "a checkout"
    shutil.copytree(REPOSITORY / "scripts", folder / "scripts")
    shutil.copy(REPOSITORY / "setup.py", folder)
    return folder


def test_another_checkout_does_not_use_the_environment_of_this_one(tmp_path: Path) -> None:
    code = f"source '{checkout(tmp_path)}/scripts/env.sh'; echo $PYTHON"
    stubs = "_prepare_alone() { :; }; "  # do not install
    script = tmp_path / "a checkout" / "scripts" / "env.sh"
    script.write_text(script.read_text().replace("PYTHON=$(command -v", f"{stubs}\nPYTHON=$(command -v", 1))
    result = bash(f"cd /; set -euo pipefail; {code}", PATH=active())
    assert result.stdout.strip() == f"{tmp_path}/a checkout/.venv/bin/python"


def test_without_a_python_the_message_says_what_to_do(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "cat", "awk", "tee", "flock", "rm", "tail"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    result = bash(f"set -euo pipefail; source '{checkout(tmp_path)}/scripts/env.sh'", PATH=str(tools))
    assert result.returncode == 1
    assert "XCOOP_PYTHON" in result.stderr
    assert f"{PYTHONS[0]} to {PYTHONS[-1]}" in result.stderr


def test_a_whole_installation_is_not_repeated_and_a_changed_setup_is(tmp_path: Path) -> None:
    """`pip` is replaced by a note that it was called; the interpreter is this one."""
    folder = checkout(tmp_path)
    script = folder / "scripts" / "env.sh"
    stubs = '_is_ready() { [ "$1" = "$VENV/bin/python" ]; }\n_install() { echo installed; }\n'
    script.write_text(script.read_text().replace("PYTHON=$(command -v", f"{stubs}\nPYTHON=$(command -v", 1))
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    code = f"cd /; set -euo pipefail; source '{script}'"
    assert "installed" in bash(code, PATH=active()).stdout
    assert "installed" not in bash(code, PATH=active()).stdout
    assert "installed" in bash(f"{code} test", PATH=active()).stdout  # more is needed
    assert "installed" not in bash(code, PATH=active()).stdout  # and then all is there
    (folder / "setup.py").write_text("changed = 1")
    assert "installed" in bash(code, PATH=active()).stdout
    (folder / ".venv" / ".ready-run").unlink()  # as an interrupted installation leaves it
    assert "installed" in bash(code, PATH=active()).stdout
