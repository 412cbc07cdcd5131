"""`xcoop results`: what it writes and says, that nothing else changes; the page and its figures, safe and readable."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from html import unescape
from pathlib import Path

import pytest
from browser import needs_browser, on_a_phone
from html_page import Page
from synthetic_runs import write_cell

from xcoop.cli import main
from xcoop.page import DRAWN
from xcoop.results.benchmark import gather
from xcoop.results.compare import measure
from xcoop.results.figures import canvas, style
from xcoop.results.record import checksum
from xcoop.results.report import Report, Wanted, page, report

# The command.


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("records")
    for shots in (1, 2):
        write_cell(out, "derm", "XCoOp", shots, {1: range(36), 2: range(35)})
        write_cell(out, "derm", "CoOp", shots, {1: range(24), 2: range(26)})
    return out


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "to"


def run(out: Path, *words: object) -> int:
    return main(["results", str(out), "--seeds", "1 2", "--draws", "20", *map(str, words)])


def state(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_writes_page_tables_and_numbers_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, good in (("XCoOp", 36), ("CoOp", 24)):
        write_cell(tmp_path, "derm", name, 1, {1: range(good), 2: range(good + 1)})
    before = state(tmp_path)
    assert run(tmp_path, "--no-figures") == 0
    after = state(tmp_path)
    assert {name: after[name] for name in before} == before
    new = after.keys() - before.keys()
    assert {name.split("/")[0] for name in new} == {"results"}
    assert {f"results/tables/derm-accuracy.{kind}" for kind in ("txt", "md", "tex", "csv")} <= new
    assert {"results/benchmark.html", "results/cells.csv", "results/comparisons.csv"} <= new
    shown = capsys.readouterr().out
    assert "Accuracy on derm, by shots a class" in shown
    assert "4 finished runs of 2 methods" in shown
    assert run(tmp_path, "--no-figures") == 0  # its own folder is no dataset
    assert state(tmp_path) == after


def test_what_is_not_made_any_more_goes_and_what_somebody_changed_or_named_stays(records: Path, to: Path) -> None:
    assert run(records, "--to", to, "--no-figures", "--metrics", "accuracy", "ece") == 0
    tables, victim = to / "tables", to.parent / "victim.md"
    victim.write_text("x")
    (tables / "derm-ece.md").write_text("my own words")
    (tables / "mine.md").write_text("mine")
    listed = json.loads((to / "files.json").read_text())  # a list cannot name files elsewhere
    (to / "files.json").write_text(json.dumps(listed | {"../victim.md": hashlib.sha256(b"x").hexdigest()}))
    assert run(records, "--to", to, "--no-figures", "--metrics", "accuracy") == 0
    assert not (tables / "derm-ece.tex").exists()
    assert (tables / "derm-ece.md").read_text() == "my own words"
    assert (tables / "mine.md").exists()
    assert (tables / "derm-accuracy.tex").exists()
    assert victim.exists()


@pytest.mark.parametrize("name", ["cells.csv", "tables/derm-accuracy.md", "benchmark.html", "files.json"])
@pytest.mark.parametrize("link", [False, True])
def test_files_of_somebody_else_are_not_replaced(
    name: str, link: bool, records: Path, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, path = to.parent / "mine", to / name
    path.parent.mkdir(parents=True)
    mine.write_text('{"a": "b"}')
    path.symlink_to(mine) if link else path.write_text('{"a": "b"}')
    words = ("--to", to, "--no-figures", "--metrics", "accuracy")
    assert run(records, *words) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == mine.read_text() == '{"a": "b"}'
    assert len(state(to)) == 1


def test_figures_are_written_another_reference_is_compared_and_damage_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shots in (1, 2):
        for name, good in (("XCoOp", 36), ("CoOp", 24)):
            write_cell(tmp_path, "derm", name, shots, {1: range(good), 2: range(good + 1)})
    broken = tmp_path / "derm" / "CoOp" / "phantom_1shots" / "seed1" / "results.json"
    broken.write_text("{")
    assert run(tmp_path, "--metrics", "accuracy", "--reference", "CoOp") == 1
    names = {path.name for path in (tmp_path / "results" / "figures").iterdir()}
    assert names == {f"derm-{name}.{kind}" for name in ("accuracy-curve", "reliability") for kind in ("png", "pdf")}
    page = (tmp_path / "results" / "benchmark.html").read_text()
    assert "data:image/png;base64," in page
    assert str(broken.relative_to(tmp_path)) in page
    assert str(tmp_path) not in page
    told = capsys.readouterr()
    assert "each method compared with CoOp" in told.out
    assert f"damaged, counted as missing: {broken} is not valid JSON" in told.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "acuracy"], "Did you mean 'accuracy'"),
        (["--reference", "CoO"], "Did you mean 'CoOp'"),
        (["--datasets", "dern"], "Did you mean 'derm'"),
        (["--draws", "0"], "--draws 0: 1 or more"),
        (["none"], "no output root"),
    ],
)
def test_what_is_wrong_is_named(
    records: Path, to: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    out = [] if words == ["none"] else [str(records)]
    assert main(["results", *out, *words, "--to", str(to)]) == 2
    assert said in capsys.readouterr().err
    assert not to.exists()


# The page and its figures.

HOSTILE = "<script>alert(1)</script>\"onload='x' & http://evil.example $x^2$"
MEASURES = (measure("accuracy"), measure("ece"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    for place in range(5):
        for number, method in enumerate(("CoOp", "CoCoOp", "XCoOp")):
            for shots in (1, 2) if place == 0 else (2,):
                good = 20 + 4 * number + (shots if place else 0)
                write_cell(out, f"set-{place}", method, shots, {1: range(good), 2: range(good + 1)}, tag="tag-<b>&")
    return out


@pytest.fixture(scope="module")
def made(root: Path) -> Report:
    return report(gather(root, (1, 2)), Wanted(MEASURES, draws=20))


@pytest.fixture(scope="module")
def html(made: Report) -> str:
    return page(made, [f"runs below {HOSTILE}"])


def test_nothing_leads_outside_and_names_stay_text(html: str) -> None:
    tags = Page(html).tags
    assert not {tag for tag, _ in tags} & {"script", "iframe", "object", "form"}
    links = [attrs[name] or "" for _, attrs in tags for name in ("href", "src") if name in attrs]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "http://" not in html.replace("http://evil.example", "")
    assert "https:" not in html
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert "<script" not in html.lower()
    assert "<b>&" not in html
    assert "tag-&lt;b&gt;&amp;" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;onload=&#39;x&#39; &amp; http" in html


def test_the_structure_serves_keyboards_and_screen_readers(html: str) -> None:
    tags = Page(html).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {str(attrs["href"])[1:] for _, attrs in tags if str(attrs.get("href", "")).startswith("#")}
    assert targets <= set(ids)
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in tags if tag == "th")
    assert sum(tag == "table" for tag, _ in tags) == sum(tag == "caption" for tag, _ in tags) > 10
    assert all(len(str(attrs.get("alt"))) > 40 for tag, attrs in tags if tag == "img")
    assert DRAWN in html


def test_nothing_local_stands_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage, notes and commands name files and places below the output root, and nobody's folders."""
    home = tmp_path / "home" / "jane doe"
    out, elsewhere = home / "my runs", home / "images"
    for name, good in (("CoOp", range(30)), ("XCoOp", range(36)), ("KgCoOp", range(20))):
        write_cell(out, "derm", name, 1, {1: good, 2: good})
    write_cell(out, "derm", "ProGrad", 1, {1: range(20)}, several=True)  # whose patients contradict
    (out / "derm" / "CoOp" / "phantom_1shots" / "seed1" / "results.json").write_text("{")
    (out / "derm" / "KgCoOp" / "phantom_1shots" / "seed2" / "predictions.csv").unlink()
    record = out / "derm" / "XCoOp" / "phantom_1shots" / "seed1" / "results.json"
    flags = {"--root": home / "data", "--seed": 1, "--trainer": "XCoOp", "--dataset-config-file": "folder",
             "--config-file": elsewhere / "mine.yaml", "--output-dir": record.parent}  # fmt: skip
    pairs = f"DATASET.NUM_SHOTS 1 DATASET.PATH {shlex.quote(str(elsewhere / 'moles'))} OPTIM.LR 0.1"
    command = f"train.py {shlex.join(str(word) for flag in flags.items() for word in flag)} {pairs}"
    values = json.loads(record.read_text()) | {"command": command}
    record.write_text(json.dumps(values | {"checksum": checksum(values)}))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    for folder in (out, Path("my runs")):
        html = page(report(gather(folder, (1, 2, 3)), Wanted(MEASURES, figures=False, draws=20)), [])
        for word in (str(tmp_path), "jane", "/home", "doe/", str(Path.home()), "/somewhere"):
            assert word not in html, word
        assert "derm/CoOp/phantom_1shots/seed1/results.json is not valid JSON" in html
        assert "disagree on the patient" in html
        said = unescape(html)
        assert """folder XCoOp 1 3 DATASET.PATH "$IMAGES"/moles OPTIM.LR 0.1 --cfg "$IMAGES"/mine.yaml""" in said


def test_each_dataset_opens_with_its_table_and_one_curve(html: str) -> None:
    sections = re.split('<section id="part-', html)[1:]
    assert [re.search(r"<h2[^>]*>(.*?)</h2>", part)[1] for part in sections[:2]] == ["set-0", "set-1"]  # type: ignore[index]
    assert ">All datasets</h2>" in sections[5]
    shown, folded = sections[0].split("<details><summary>More on set-0: 3 tables, 2 figures</summary>")
    captions = re.findall(r"<caption><span>(.*?)</span>", shown)
    assert captions == ["Accuracy on set-0, by shots a class"]
    assert shown.count("<img ") == 1
    assert re.search(r"<strong>71\.2 ± 1\.8 \*</strong>\s*<small>\[\d", shown)
    assert "Expected calibration error on set-0, by shots a class" in folded


@needs_browser
def test_a_phone_shows_the_whole_width(tmp_path: Path, html: str) -> None:
    assert on_a_phone(html, tmp_path) == "360 over 0"


def test_figures_say_what_they_show_and_are_files_with_their_fonts(made: Report) -> None:
    drawings = {one.key: one for one in made.drawings}
    curve = drawings["set-0-accuracy-curve"]
    assert "CoOp (tag-<b>&) 51.2 ± 1.8 at 1, 51.2 ± 1.8 at 2" in curve.alt  # 20 and 21 of 40
    assert "Bands: the spread over seeds" in curve.caption[0]
    assert "the 95 % interval over the test images" in curve.caption[0]
    assert "phantom" in " ".join(curve.origin)
    assert "too sure" in drawings["set-0-reliability"].alt
    assert drawings.keys() >= {"set-0-ece-curve", "set-4-reliability"}
    for one in made.drawings:
        assert one.png.startswith(b"\x89PNG")
        assert one.pdf.startswith(b"%PDF")
        assert b"/FontFile2" in one.pdf
        assert b"/Type3" not in one.pdf
        assert min(len(one.png), len(one.pdf)) > 5000


def test_five_datasets_have_a_critical_difference_and_fewer_say_why_not(root: Path, made: Report) -> None:
    (ranks,) = [one for one in made.drawings if one.key.startswith("ranks")]
    assert "XCoOp (tag-<b>&) 1.00; CoCoOp (tag-<b>&) 2.00; CoOp (tag-<b>&) 3.00" in ranks.alt
    assert "rough approximations" in " ".join(ranks.caption)
    found = report(gather(root, (1, 2), ["set-0", "set-1"]), Wanted(MEASURES, figures=False, draws=20))
    (said,) = [part for part in found.sections["All datasets"] if isinstance(part, str)]
    assert "at least 5 datasets" in said


def test_the_same_records_give_the_same_files_whatever_others_set(root: Path, made: Report) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 33.0}):
        again = report(gather(root, (1, 2), ["set-0"]), Wanted(MEASURES, draws=20))
        with canvas(2, 2):
            assert matplotlib.rcParams["font.size"] == 9.0
        assert matplotlib.rcParams["font.size"] == 33.0
    first = {one.key: one for one in made.drawings}
    assert all(first[one.key].png == one.png and first[one.key].pdf == one.pdf for one in again.drawings)


def test_lines_differ_without_colour() -> None:
    looks = [style(place) for place in range(40)]
    assert len({(look["marker"], str(look["linestyle"]), look["color"]) for look in looks}) == 40
    assert len({look["marker"] for look in looks[:12]}) == 12
