"""README and docs/*.md: their size, their links, and that every command they show is one.

`test_walk.py` types the commands; here they are taken apart by the commands' own parsers, runs are planned but not
started, and what only looks is run.
"""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from shown_commands import FENCE, PAGES, README, REPOSITORY, Command, blocks, called, commands, outside_of_blocks
from yaml import safe_load

from xcoop import __version__, cli
from xcoop.utils.console import UserError, numbers

LINES, COLUMNS = 130, 100  # of the README; what programmes print there is as wide as they print it
SCRIPTS = {"main.sh": "run", "sweep.sh": "sweep", "explain.sh": "explain"}

# What no parser here knows, by the start of the command, and why that is well.
BY_HAND = {
    "git clone": "the repository's own address",
    "cd XCoOp": "where it was cloned to",
    "python3 -m venv .venv": "Python's own; `scripts/env.sh` does the same, and is tested in tests/cli",
    "source .venv/bin/activate": "made by the line before",
    "pip install -e .": "needs the network",
    "pip install /path/to/XCoOp": "needs the network; plugging in is tested in tests/trainers/test_real_forks.py",
    "pip install torch": "needs the network",
    "pip install huggingface_hub": "needs the network",
    "pip install 'xcoop[": "needs the network; the extra is looked up below",
    "pip install -e '.[": "needs the network; the extra is looked up below",
    "hf download": "needs the network",
    "bash scripts/main.sh phantom 16 SmoothCoOp": "the page's own trainer: tests/trainers/test_contributing_trainer.py",
    "python -X importtime train.py": "Python's own",
    "bash scripts/test.sh": "the tests themselves",
    "bash benchmarks/gpu.sh": "needs a GPU for eight minutes; tests/benchmarks has its parts",
}
# What only looks, and is run as it stands.
LOOKS = (
    "xcoop data list",
    "xcoop data info",
    "xcoop data check folder",
    "xcoop backbones list",
    "xcoop backbones info",
    "xcoop concepts check my_images",
    "xcoop path",
    "xcoop sweep phantom 'XCoOp CoOp' '1 16' '1 2 3' --dry-run",
)


# Commands.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one(
    page: Path, typed_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that a page shows and nothing here knows, or that its parser refuses, is a fault of the page."""
    monkeypatch.chdir(typed_in)
    faults = []
    for command in commands(page):
        try:
            check(command)
        except (SystemExit, UserError, ValueError, LookupError, OSError, AssertionError) as error:
            said = capsys.readouterr().err.strip().splitlines()
            faults.append(f"{command}: {said[-1] if said else error}")
    assert not faults, "\n".join(faults)


def check(command: Command) -> None:
    """Raises what is wrong with a command; `SystemExit` where its parser refuses it."""
    if any(str(command).startswith(start) for start in BY_HAND):
        return
    programme, *words = command.words
    if command.words[:3] == ("python", "-m", "xcoop"):
        programme, words = "xcoop", words[2:]
    if programme == "xcoop":
        _check_own(words, command.in_text)
    elif programme == "bash" and Path(words[0]).name in SCRIPTS:
        assert Path(words[0]).is_file(), "no such script"
        _check_own([SCRIPTS[Path(words[0]).name], *words[1:]], command.in_text)
    elif command.words[:2] == ("python", "train.py"):
        train = importlib.import_module("xcoop.runs.train")
        train.merged(train.parser().parse_intermixed_args(words[1:]))
    elif programme == "python" and words[0].endswith(".py"):
        _check_script(*words)
    else:
        raise AssertionError("a command that no test knows; see BY_HAND")
    if str(command).startswith(LOOKS) and not command.in_text:
        assert cli.main(list(words)) == 0


def _check_own(words: list[str], in_text: bool) -> None:
    """A sub-command of `xcoop` with its arguments; within a sentence, it may have none."""
    if words == ["--help"]:
        return
    name = next((name for name in cli.COMMANDS if words[: len(name.split())] == name.split()), "")
    if in_text and (not name or len(words) < 3 or "..." in words):
        assert name or words[0] in cli.GROUPS, "no such command"
        return
    assert name, "no such command"
    arguments = cli.parse(name, words[len(name.split()) :])
    seeds = numbers("1 2 3", "SEEDS")
    if name == "run":
        plan = importlib.import_module("xcoop.runs.plan")
        assert plan.make_plans(arguments.words, "data", "output", seeds)
    elif name == "sweep":
        grid = importlib.import_module("xcoop.sweep.grid")
        asked = importlib.import_module("xcoop.commands.sweep").read_grid(arguments)
        if not arguments.grid:  # those that ship are planned in tests/sweep
            assert grid.jobs(replace(asked, shots=asked.shots[:1], seeds=asked.seeds[:1]))
    elif name == "data" and "words" in arguments:
        assert arguments.words[0] in importlib.import_module("xcoop.config.merge").config_names(), "no such dataset"
    elif name == "backbones" and "words" in arguments and arguments.words[0] != "NAME":
        importlib.import_module("xcoop.backbones").require_backbone(arguments.words[0])


class ParsedError(Exception):
    """A script has parsed its arguments, and would begin."""


def _check_script(script: str, *words: str) -> None:
    """Starts a script, up to where its arguments are parsed."""
    import argparse

    plain = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, args: list[str] | None = None, namespace: object = None) -> None:
        plain(self, args, namespace)
        raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr(sys, "argv", [script, *words])
        with pytest.raises(ParsedError):
            runpy.run_path(script, run_name="__main__")


# Text.


def test_the_readme_is_one_page() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LINES
    printed = {line for kind, text in FENCE.findall(README.read_text(encoding="utf-8")) if not kind for line in
               text.splitlines()}  # fmt: skip
    assert [line for line in lines if len(line) > COLUMNS and line not in printed] == []


def test_every_page_is_found_from_the_readme() -> None:
    found, todo = set(), [README]
    while todo:
        page = todo.pop()
        if page not in found:
            found.add(page)
            todo += [target for target, _ in links(page) if target.suffix == ".md" and target.is_file()]
    assert [page.name for page in PAGES if page not in found] == []


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files of the repository, and headings in them; what lies outside is not asked."""
    broken = [
        f"{target.name}#{anchor}"
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]
    assert broken == []


def test_no_page_names_a_folder_of_a_machine() -> None:
    local = re.compile(
        rf"/(?:home|root|Users|work|tmp)/|{re.escape(str(Path.home()))}\b/?|{re.escape(str(REPOSITORY))}"
    )
    for page in PAGES:
        assert local.findall(page.read_text(encoding="utf-8")) == [], page.name


def links(page: Path) -> list[tuple[Path, str]]:
    """Relative links of a page: the file that each leads to, and the heading in it, "" for none."""
    targets = re.findall(r"\]\((?!\w+:)([^)\s]+)\)", outside_of_blocks(page))
    parts = [unquote(target).partition("#") for target in targets]
    return [((page.parent / file).resolve() if file else page, anchor) for file, _, anchor in parts]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes anchors of them."""
    headings = re.findall(r"^#{1,6} (.+)$", outside_of_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pythons_are_those_of_setup() -> None:
    stated = re.search(r"^PYTHONS = .*", (REPOSITORY / "setup.py").read_text(), re.MULTILINE)
    assert stated
    known = re.findall(r'"([\d.]+)"', stated[0])
    for page in (README, REPOSITORY / "docs" / "install.md"):
        assert set(re.findall(r"(3\.\d+ to 3\.\d+)", page.read_text())) == {f"{known[0]} to {known[-1]}"}, page.name


def test_extras_are_those_of_setup() -> None:
    known = set(re.findall(r'^    "(\w+)": \[', (REPOSITORY / "setup.py").read_text(), re.MULTILINE)) | {"all"}
    shown = {name for page in PAGES for name in re.findall(r"(?:xcoop|[.`])\[([a-z_]+)\][`']", page.read_text())}
    assert shown
    assert shown <= known


def test_pieces_of_python_are_python() -> None:
    for page in PAGES:
        for code in blocks(page, "python"):
            ast.parse(code)


def test_commands_are_read_as_bash_reads_them() -> None:
    loop = "for k in 1 '2 3'; do bash scripts/main.sh \"$k\" \\\n  $(xcoop path a/b); done\n"
    code = f"DATA=x xcoop data list  # all\n{loop}not-there 1\n"
    assert called(code) == [
        ("xcoop", "data", "list"),
        ("xcoop", "path", "a/b"),
        ("bash", "scripts/main.sh", "1", "a/b"),
        ("xcoop", "path", "a/b"),
        ("bash", "scripts/main.sh", "2 3", "a/b"),
        ("not-there", "1"),
    ]


@pytest.mark.parametrize(
    "words",
    [
        "xcoop dta list",
        "xcoop data info derm8pt",
        "xcoop explain RUN --imagse 3",
        "bash scripts/mein.sh phantom 16",
        "bash scripts/main.sh phantom 16 CoOpp",
        "bash scripts/sweep.sh phantom CoOp 16 1 TRAINER.COOP.N_CTXX 8",
        "python benchmarks/steps.py --ronds 3",
        "python docs/figures.py",
        "curl x",
    ],
)
def test_a_wrong_command_is_found(words: str, typed_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(typed_in)
    with pytest.raises((SystemExit, UserError, ValueError, LookupError, OSError, AssertionError)):
        check(Command(tuple(words.split())))


# Figures of the results: README and docs/results.md say what docs/benchmark.md says.

SETS = {  # headings of docs/benchmark.md
    "Phantom dermoscopy": "phantom dermoscopy",
    "Phantom chest": "phantom chest",
    "Chest X-rays": "X-rays (real)",
    "PneumoniaMNIST": "PneumoniaMNIST (real)",
}
SHOTS = (0, 2, 4)  # the columns of 1, 4 and 16 shots among those of 1, 2, 4, 8, 16
OURS = ("XCoOp", "XCoOpPublished")


def rows(text: str) -> dict[str, list[str]]:
    """The cells of the lines of a table by their first, without marks of the best."""
    lines = [line.strip("|").split("|") for line in text.replace("*", "").splitlines() if line.startswith("| ")]
    return {first.strip(): [cell.strip() for cell in cells] for first, *cells in lines}


def benchmark(name: str) -> dict[str, list[str]]:
    """The table of one set in docs/benchmark.md: cells such as `85.9 ± 3.9 / 95.7 ± 0.8`."""
    text = (REPOSITORY / "docs" / "benchmark.md").read_text()
    return rows(text.partition(f"\n## {name}\n")[2].partition("\n## ")[0])


def balanced(cells: list[str]) -> list[float]:
    return [float(cells[shot].split()[0]) for shot in SHOTS]


def test_the_readmes_results_are_the_benchmarks() -> None:
    text = README.read_text().partition("\n## Results\n")[2].partition("\n## ")[0]
    shown = rows(text)
    for column, name in enumerate(SETS):
        known = benchmark(name)
        for method in ("CoOp", *OURS):
            assert [float(word) for word in shown[method][column].split()] == balanced(known[method]), (name, method)
        trained = {method: balanced(cells) for method, cells in known.items() if "±" in cells[-1]}
        best = [
            max(values) for values in zip(*(v for m, v in trained.items() if m not in (*OURS, "CoOp")), strict=True)
        ]
        assert [float(word) for word in shown["best of 16 more"][column].split()] == best, name
        untrained = known["zero-shot, a sentence a concept"]
        assert float(shown["sentences, untrained"][column]) == float(untrained[0].split()[0]), name
        cells = [line.strip("|").split("|")[column + 1] for line in text.splitlines() if line.startswith("| ")][1:]
        bold = [float(word) for cell in cells for part in re.findall(r"\*\*(.*?)\*\*", cell) for word in part.split()]
        assert sorted(bold) == sorted(max(values) for values in zip(*trained.values(), strict=True)), name


def test_the_summary_is_the_benchmarks() -> None:
    """docs/results.md: each row of ours, of CoOp and of the best other one, with its deviations and AUCs."""
    lines = (REPOSITORY / "docs" / "results.md").read_text().splitlines()
    name, seen = "", 0
    for line in lines:
        if heading := re.match(r"\| \*\*([\w -]+?)(?: \(real\))?\*\* \|", line):
            name = heading[1]
        elif name and (first := line.strip("| ").split(" | ")[0]) in ("CoOp", *OURS):
            assert rows(line)[first] == [benchmark(name)[first][shot] for shot in SHOTS], (name, first)
            seen += 1
        elif name and first.startswith("best of"):
            for cell, shot in zip(rows(line)[first], SHOTS, strict=True):
                value, _, method = cell.strip(")").partition(" (")
                assert value == benchmark(name)[method][shot].replace("*", ""), (name, cell)
                seen += 1
    assert seen == len(SETS) * 6


# Figure and citation.


def test_the_figure_is_small_and_adds_up() -> None:
    import numpy as np
    from PIL import Image

    from xcoop.explain.trained import Explanation

    assert (REPOSITORY / "docs" / "figure.png").stat().st_size < 300_000
    with Image.open(REPOSITORY / "docs" / "figure.png") as picture:
        assert picture.size == (900, 720)
    steps_of = runpy.run_path(str(REPOSITORY / "docs" / "figure.py"))["steps_of"]
    parts = {f"c{i}": {"a": 0.1 * i} for i in range(5)} | {f"d{i}": {"b": 0.2 * i} for i in range(4)}
    empty: dict[str, np.ndarray] = {}
    found = Explanation("a", {"a": 0.6, "b": 0.4}, None, empty, empty, {}, parts, {"a": 0.5, "b": 0.2}, {}, [])  # type: ignore[arg-type]
    steps = steps_of(found)
    assert [name for name, _ in steps] == [
        *("a typical image", "d3 (b)", "c4", "d2 (b)", "c3", "c2", "4 other concepts"),
    ]
    lead = 0.5 + sum(0.1 * i for i in range(5)) - 0.2 - sum(0.2 * i for i in range(4))
    assert sum(value for _, value in steps) == pytest.approx(lead)


def test_the_citation_is_of_this_version() -> None:
    cited = safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (cited["cff-version"], cited["type"], cited["license"]) == ("1.2.0", "software", "MIT")
    assert cited["version"] == __version__
    assert "MIT License" in (REPOSITORY / "LICENSE").read_text()
    assert cited["authors"] == [{"name": "The XCoOp authors"}]  # as LICENSE has them
    (paper,) = cited["references"]
    assert "arXiv:2403.09410" in paper["identifiers"][0]["value"]
