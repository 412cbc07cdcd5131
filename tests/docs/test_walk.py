"""The README typed from its first command to its last, in one folder, and after it what the pages of docs/ show.

Each block goes to bash as it stands. What a machine without network, data and hours cannot do stands below, with what
is done in its place.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shown_commands import PAGES, README, blocks, checkout, commands

pytestmark = pytest.mark.slow

# What fetches, and what changes the shell, does nothing: the environment of the tests is active, the folder is there.
# Trust is measured on few images.
FETCHING = "".join(f"{name}() {{ :; }}\n" for name in ("git", "pip", "hf", "python3", "source", "cd"))
FEW = "--asked 4"
EXPLAINING = f'xcoop() {{ if [ "$1" = explain ]; then command xcoop "$@" {FEW}; else command xcoop "$@"; fi; }}\n'
# OpenAI's weights need the network: the backbone that ships takes their place.
INSTEAD = (("vit_b16", "phantom"),)
# Commands of the pages of docs/ that are not typed here, by their start; what can be planned is planned instead.
NOT_TYPED = {
    "bash scripts/test.sh": "the tests themselves",
    "bash benchmarks": "a GPU",
    "bash scripts/explain.sh output/phantom/XCoOp/phantom_16shots/seed1 --demo": "waits for a reader",
    "bash scripts/main.sh btmri": "data and weights",
    "bash scripts/main.sh derm7pt": "data and weights",
    "bash scripts/main.sh pneumonia": "data and weights",
    "bash scripts/main.sh phantom 16 all": "minutes; each method is trained by other tests",
    "python train.py": "data and weights",
    "xcoop backbones check BiomedCLIP": "weights",
    "xcoop run folder 16 XCoOp vit_b16 DATASET.PATH my_images DATASET.CONCEPT_BANK": "images of that bank's classes",
    "xcoop concepts check my_bank": "a bank of the reader's",
    "xcoop concepts mine": "data",
    "xcoop concepts elicit": "a server",
    "xcoop data prepare": "the network",
    "xcoop data check pneumoniamnist": "data",
    "xcoop results output --reference CoOp": "runs of CoOp",
}


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is typed in."""
    return checkout(tmp_path_factory.mktemp("walk") / "XCoOp")


def typed(code: str, folder: Path) -> str:
    """What a piece of bash prints in a folder, with the environment active; it must not fail."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "XCOOP_CACHE": str(folder.parent / "cache")}
    for name in ("DATA", "OUT", "SEEDS"):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, check=False, cwd=folder,
        env=environment, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, f"$ {code}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def draw_own_images(folder: Path) -> None:
    """`my_images`, as a reader has them: a folder a class, and the README's bank."""
    typed("xcoop phantom derm7pt --out to_copy --cases 100", folder)
    drawn, mine = folder / "to_copy" / "release_v0", folder / "my_images"
    with (drawn / "meta" / "meta.csv").open() as table:
        for row in csv.DictReader(table):
            for name in ("melanoma", "nevus"):
                if name in row["diagnosis"]:
                    (mine / name).mkdir(parents=True, exist_ok=True)
                    shutil.copy(drawn / "images" / row["derm"], mine / name)
    (bank,) = blocks(README, "yaml")
    (mine / "concepts.yaml").write_text(bank)
    for name in ("lesion.jpg", "my_lesion.jpg"):
        shutil.copy(next((mine / "melanoma").iterdir()), folder / name)


def test_the_readme_is_typed_from_top_to_bottom(walk: Path) -> None:
    draw_own_images(walk)
    printed = ""
    for block in blocks(README, "bash"):
        for word, other in INSTEAD:
            block = block.replace(word, other)
        printed += typed(FETCHING + EXPLAINING + block, walk)
    (table,) = (text for text in blocks(README, "") if text.startswith("Trainer"))
    shape = re.sub(r"\d", "0", table)
    assert shape in re.sub(r"\d", "0", printed)  # as printed; figures may differ in the last digit between machines
    assert len(re.findall("^XCoOp  .* ± ", printed, re.MULTILINE)) == 2, printed  # the drawn set's, and one's own
    assert (walk / "output/phantom/XCoOp/phantom_16shots/seed1/explanations/report.html").is_file()
    for code in blocks(README, "python"):
        typed(f"python - <<'PYTHON'\nimport xcoop\n{code}\nPYTHON", walk)
    typed("python docs/figure.py --to figure.png", walk)
    assert (walk / "figure.png").stat().st_size < 300_000
    (own,) = (walk / "output").glob("[!p]*/XCoOp/phantom_16shots*/seed1/explanations/report.html")
    told = typed(f"xcoop explain {own.parents[1]} lesion.jpg --out one", walk)
    assert "1 images explained" in told


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "docs"], ids=lambda page: page.name)
def test_pages_are_typed_after_it(page: Path, walk: Path) -> None:
    """Every command of a page but those of `NOT_TYPED`; sweeps are planned."""
    for command in commands(page):
        line = str(command)
        if command.in_text or line.startswith(tuple(NOT_TYPED)):
            continue
        for word, other in INSTEAD:
            line = line.replace(word, other)
        if "explain" in command.words[:2] or command.words[1].endswith("explain.sh"):
            line += f" {FEW}"
        if "sweep" in line and "--slurm" not in line and "--dry-run" not in line:
            line += " --dry-run"
        if "--slurm" not in line:
            typed(FETCHING + line, walk)


def test_what_is_not_typed_is_still_shown() -> None:
    """An entry of the list that no page shows any more is to be removed."""
    shown = [str(command) for page in PAGES for command in commands(page)]
    assert [start for start in NOT_TYPED if not any(line.startswith(start) for line in shown)] == []
