"""How the scripts make `.venv`: from which Python, with which PyTorch, and what they say and refuse before they do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SETUP = (REPOSITORY / "setup.py").read_text()
PYTHONS = re.findall(r'"([\d.]+)"', re.search(r"^PYTHONS = .*", SETUP, re.MULTILINE)[0])
SPAN = f"{PYTHONS[0]} to {PYTHONS[-1]}"

# What stands in for pip: it notes what it is asked, and "installs" by leaving a package of that name.
PIP = """
import os, pathlib, subprocess, sys
words = sys.argv[1:]
site = pathlib.Path(__file__).parents[1]
if words[0] == "freeze":
    print("numpy==2.0.0\\ntorch==9.9.0+cpu\\ntorchvision==9.9.1+cpu")
elif words[0] == "install":
    with open(os.environ["CALLS"], "a") as file:
        file.write(" ".join(words) + "\\n")
    if os.environ.get("NO_WHEELS"):
        sys.exit("ERROR: No matching distribution found for torch")
    if "REAL" in os.environ and "--no-deps" in words:
        sys.exit(subprocess.call([os.environ["REAL"], "-m", "pip", *words, "--target", str(site)]))
    for name in ("torch", "torchvision"):
        (site / name).mkdir(exist_ok=True)
        (site / name / "__init__.py").touch()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a blank in its path, whose installation counts as whole once pip has been called."""
    folder = tmp_path / "a checkout"
    shutil.copytree(REPOSITORY / "scripts", folder / "scripts")
    (folder / "setup.py").write_text(SETUP)
    script = folder / "scripts" / "env.sh"
    whole = '_is_ready() { [ "$1" = "$VENV/bin/python" ] && [ -f "$CALLS" ]; }\n'
    text = script.read_text()
    at = text.rindex("case $OSTYPE in")
    script.write_text(text[:at] + whole + text[at:])
    return folder


def source(checkout: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Sources env.sh as the scripts do; without what this process was told of pip and of Pythons."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "XCOOP_"))}
    own |= {"CALLS": str(checkout.parent / "calls"), "PIP_CONFIG_FILE": os.devnull, **env}
    code = f"set -euo pipefail; source '{checkout}/scripts/env.sh' {' '.join(words)}; echo $PYTHON"
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False, timeout=60, env=own)


def environment(checkout: Path, site_of: str = sys.executable) -> Path:
    """A `.venv` of this Python, with `PIP` for its pip."""
    subprocess.run([site_of, "-m", "venv", "--without-pip", str(checkout / ".venv")], check=True)
    (site,) = (checkout / ".venv" / "lib").glob("python*/site-packages")
    (site / "pip").mkdir()
    (site / "pip" / "__main__.py").write_text(PIP)
    return site


def calls(checkout: Path) -> list[str]:
    return (checkout.parent / "calls").read_text().splitlines()


def programme(path: Path, code: str) -> str:
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)
    return str(path)


def python_that_is(path: Path, change: str) -> str:
    """This interpreter, but for what `change` does before it runs its code."""
    start = f"import sys; code = sys.argv.pop(1); sys.argv[0] = '-c'; {change}; exec(code)"
    return programme(path, f'[ "$1" = -c ] && shift\nexec "{sys.executable}" -c "{start}" "$@"')


def test_the_pythons_are_said_in_one_place() -> None:
    assert [sys.version_info[0], sys.version_info[1]] <= [int(part) for part in PYTHONS[-1].split(".")]
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert f'target-version = "py{PYTHONS[0].replace(".", "")}"' in project
    assert f'python_version = "{PYTHONS[0]}"' in project
    assert not re.search(r"3\.1\d", (REPOSITORY / "scripts" / "env.sh").read_text())
    setup = subprocess.run(
        [sys.executable, "setup.py", "--classifiers"], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert re.findall(r"Python :: (3\.\d+)", setup.stdout) == PYTHONS, setup.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sys.version_info = (3, 9, 2, 'final', 0)", f"is Python 3.9.2; XCoOp needs {SPAN}"),
        ("sys.version_info = (2, 7, 18, 'final', 0)", f"is Python 2.7.18; XCoOp needs {SPAN}"),
        ("sys.version_info = (3, 99, 0, 'final', 0)", "for newer ones PyTorch may have no packages yet"),
        ("sys.implementation.name = 'pypy'", "PyTorch has packages for CPython alone"),
        ("sys.modules['ensurepip'] = None", "without ensurepip, which makes environments"),
        ("sys.modules['venv'] = sys.modules['ensurepip'] = None", "without venv and ensurepip"),
    ],
)
def test_a_python_that_does_not_serve_is_refused_by_its_name(checkout: Path, change: str, said: str) -> None:
    named = python_that_is(checkout.parent / "my python", change)
    result = source(checkout, XCOOP_PYTHON=named)
    assert result.returncode == 1
    assert result.stderr.startswith(f"XCOOP_PYTHON={named} is ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere/python", "does not exist"),
        ("python9.99", "is not on the PATH"),
        ("folder", "is a folder; name the interpreter itself"),
        ("file", "cannot be run"),
        ("true", "is no Python that starts"),
        ("false", "is no Python that starts"),
        ("yes", "is no Python that starts"),
        ("echo", "is no Python that starts"),
    ],
)
def test_what_is_no_python_is_an_error_and_not_passed_over(checkout: Path, name: str, said: str) -> None:
    (checkout.parent / "folder").mkdir()
    (checkout.parent / "file").write_text("")
    named = str(checkout.parent / name) if name in ("nowhere/python", "folder", "file") else name
    result = source(checkout, XCOOP_PYTHON=named)
    assert (result.returncode, result.stderr) == (1, f"XCOOP_PYTHON={named} {said}.\n")


def test_without_one_that_serves_each_that_was_found_is_named(checkout: Path) -> None:
    tools = checkout.parent / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "cat", "awk", "flock"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    python_that_is(tools / "python3", "sys.version_info = (3, 6, 15)")
    python_that_is(tools / f"python{PYTHONS[1]}", "sys.modules['venv'] = None")
    result = source(checkout, PATH=str(tools))
    assert result.returncode == 1
    assert "python3 is Python 3.6.15; XCoOp needs" in result.stderr
    assert f"python{PYTHONS[1]} is Python" in result.stderr
    assert "without venv" in result.stderr
    assert f"Install one of Python {SPAN}" in result.stderr


def test_an_environment_of_another_python_is_left_as_it_is(checkout: Path) -> None:
    environment(checkout)
    other = python_that_is(checkout.parent / "other", "sys.base_prefix = '/opt/other'")
    result = source(checkout, XCOOP_PYTHON=other)
    assert result.returncode == 1
    assert f"XCOOP_PYTHON={other} is Python" in result.stderr
    assert "delete that folder" in result.stderr
    assert source(checkout, XCOOP_PYTHON=sys.executable).returncode == 0


def test_a_shell_of_windows_is_refused_in_one_line(checkout: Path) -> None:
    script = checkout / "scripts" / "env.sh"
    script.write_text(f"OSTYPE=msys\n{script.read_text()}")
    result = source(checkout)
    assert result.returncode == 1
    assert result.stderr == "XCoOp runs on Linux and macOS, and on Windows inside WSL; this shell is msys's.\n"


INDEX = "https://download.pytorch.org/whl/cpu"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no GPU libraries to leave out")
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("cpu", f"--no-deps --index-url {INDEX} torch torchvision"),
        ("https://example.org/whl/cu999", "--no-deps --index-url https://example.org/whl/cu999 torch torchvision"),
        ("WHEELS", "--no-deps --no-index --find-links WHEELS torch torchvision"),
        ("torch==2.9.1 torchvision==0.24.1", "--no-deps torch==2.9.1 torchvision==0.24.1"),
    ],
)
def test_pytorch_is_installed_first_and_then_kept(checkout: Path, asked: str, words: str) -> None:
    environment(checkout)
    wheels = checkout.parent / "my-wheels"
    wheels.mkdir()
    asked, words = asked.replace("WHEELS", str(wheels)), words.replace("WHEELS", str(wheels))
    result = source(checkout, XCOOP_TORCH=asked)
    assert result.returncode == 0, result.stderr
    torch, rest = calls(checkout)
    assert torch.endswith(f" {words}")
    assert f" -e . -c {checkout}/.venv/torch.txt" in rest
    assert (checkout / ".venv" / "torch.txt").read_text() == "torch==9.9.0+cpu\ntorchvision==9.9.1+cpu\n"
    # The tools of the test command come on top of the same PyTorch, without its being named again.
    assert source(checkout, "test").returncode == 0
    assert len(calls(checkout)) == 4
    assert "-e .[test] -c" in calls(checkout)[-1]


@pytest.mark.parametrize("asked", ["gpu", "CPU", "cu121", "./nothere", "http://example.org/whl", "torch"])
def test_a_choice_that_is_none_is_refused(checkout: Path, asked: str) -> None:
    environment(checkout)
    result = source(checkout, XCOOP_TORCH=asked)
    assert result.returncode == 1
    assert f"XCOOP_TORCH={asked} is neither cpu, an index (https://...)" in result.stderr
    assert "XCOOP_TORCH=/not/there: there is no such folder" in source(checkout, XCOOP_TORCH="/not/there").stderr


def test_without_a_choice_pip_chooses(checkout: Path) -> None:
    environment(checkout)
    assert source(checkout).returncode == 0
    (call,) = calls(checkout)
    assert call.endswith(" -e .")


def test_another_pytorch_needs_another_environment(checkout: Path) -> None:
    site = environment(checkout)
    assert source(checkout).returncode == 0
    result = source(checkout, XCOOP_TORCH="cpu")
    assert result.returncode == 1
    assert "XCOOP_TORCH=cpu" in result.stderr
    assert "delete that folder" in result.stderr
    assert len(calls(checkout)) == 1
    shutil.rmtree(site / "torch")  # as if the installation had been broken off while it was fetched
    assert source(checkout, XCOOP_TORCH="cpu").returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the sizes are those of Linux")
def test_sizes_are_said_before_anything_is_fetched_and_a_full_disk_ends_it(checkout: Path) -> None:
    environment(checkout)
    tools = checkout.parent / "bin"
    tools.mkdir()
    blocks = "echo Filesystem 1M-blocks Used Available Capacity Mounted; echo disk 9 9 $FREE 1% /"
    programme(tools / "df", blocks)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    full = source(checkout, PATH=path, FREE="5000")
    assert full.returncode == 1
    assert "PyTorch for GPUs and the rest: about 3.2 GB to fetch, 6.3 GB on the disk" in full.stdout
    assert "XCOOP_TORCH=cpu, without GPUs: 0.4 GB and 1.9 GB" in full.stdout
    assert "5.0 GB free; installing takes 9.5 GB" in full.stderr  # 3.2 of them for a while
    assert not (checkout.parent / "calls").exists()
    assert "TMPDIR" in source(checkout, PATH=path, FREE="3000").stderr
    assert source(checkout, PATH=path, FREE="5000", XCOOP_TORCH="cpu").returncode == 0


def test_a_python_without_wheels_is_told_so(checkout: Path) -> None:
    environment(checkout)
    result = source(checkout, NO_WHEELS="1")
    assert result.returncode == 1
    assert f"PyTorch has no packages for Python {sys.version.split()[0]} on" in result.stderr


def wheel(folder: Path, name: str, version: str) -> None:
    """The smallest wheel that there can be."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        rows = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
        archive.writestr(f"{info}/RECORD", rows)


def test_a_folder_of_wheels_is_what_pip_takes_them_from(checkout: Path) -> None:
    site = environment(checkout)
    wheels = checkout.parent / "some wheels"
    wheels.mkdir()
    for name in ("torch", "torchvision"):
        wheel(wheels, name, "2.9.0+cpu")
    result = source(checkout, XCOOP_TORCH=str(wheels), REAL=sys.executable)
    assert result.returncode == 0, result.stderr
    assert (site / "torch-2.9.0+cpu.dist-info").is_dir()
    assert (site / "torchvision" / "__init__.py").read_text() == "__version__ = '2.9.0+cpu'\n"


def test_pip_is_followed_line_by_line() -> None:
    """Each line is there before the next one comes; a description that is fetched is no package yet."""
    code = re.search(r"^_in_short\(\) \{.*?^\}", (REPOSITORY / "scripts" / "env.sh").read_text(), re.M | re.S)
    assert code
    with subprocess.Popen(
        ["bash", "-c", f"{code[0]}\n_in_short"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("  Downloading torch-2.14.1-cp314-cp314-manylinux_2_28_x86_64.whl.metadata (29 kB)\n")
        process.stdin.write("Downloading torch-2.14.1-cp314-cp314-manylinux_2_28_x86_64.whl (554.6 MB)\n")
        assert process.stdout.readline() == "  torch-2.14.1 (554.6 MB)\n"
        process.stdin.write("Installing collected packages: torch\n")
        assert process.stdout.readline() == "  unpacking\n"
