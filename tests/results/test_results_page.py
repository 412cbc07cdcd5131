"""The page and the figures of a benchmark: closed to the outside, safe, readable by everyone; PNG and PDF as asked."""

from __future__ import annotations

import itertools
import re
import statistics
from pathlib import Path
from unittest.mock import Mock

import pytest
from browser import needs_browser, on_a_phone
from html_page import Page
from many_runs import write_cell

from xcoop.page.document import DRAWN
from xcoop.results import curves, drawing
from xcoop.results.benchmark import gather
from xcoop.results.drawing import COLOURS, style
from xcoop.results.measures import measure
from xcoop.results.page import page
from xcoop.results.report import Report, Wanted, report

pytest.importorskip("matplotlib")

HOSTILE = "<script>alert(1)</script>\"onload='x' & http://evil.example $x^2$"
MEASURES = (measure("accuracy"), measure("ece"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    for place in range(5):
        dataset = f"set-{place}"
        for number, method in enumerate(("CoOp", "CoCoOp", "XCoOp")):
            for shots in (1, 2):
                good = 20 + 4 * number + (shots if place else 0)
                write_cell(out, dataset, method, shots, {1: range(good), 2: range(good + 1)}, tag="tag-<b>&")
    return out


@pytest.fixture(scope="module")
def made(root: Path) -> Report:
    return report(gather(root, (1, 2)), Wanted(MEASURES, draws=20))


@pytest.fixture(scope="module")
def html(made: Report) -> str:
    return page(made.sections, [f"runs below {HOSTILE}"], ["damaged: x"], is_phantom=True)


def test_nothing_leads_outside_and_nothing_runs(html: str) -> None:
    tags = Page(html).tags
    assert not {tag for tag, _ in tags} & {"script", "iframe", "object", "form"}
    links = [attrs[name] or "" for _, attrs in tags for name in ("href", "src") if name in attrs]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "http://" not in html.replace("http://evil.example", "")
    assert "https:" not in html
    assert "url(" not in html
    assert "default-src &#x27;none&#x27;" in html


def test_names_stay_text(html: str) -> None:
    assert "<script" not in html.lower()
    assert "<b>&" not in html
    assert "tag-&lt;b&gt;&amp;" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;onload=&#x27;x&#x27; &amp; http" in html


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
    assert sum(tag == "table" for tag, _ in tags) == sum(tag == "caption" for tag, _ in tags)
    assert all(len(str(attrs.get("alt"))) > 40 for tag, attrs in tags if tag == "img")
    assert DRAWN in html


def test_alt_texts_say_what_a_figure_shows(made: Report) -> None:
    alts = {drawing.key: drawing.alt for drawing in made.drawings}
    curve = alts["set-0-accuracy-curve"]
    assert "CoOp (tag-<b>&) 51.2 at 1, 51.2 at 2" in curve  # (20 + 21) / 2 of 40
    assert "too sure" in alts["set-0-reliability"]


def test_curves_say_what_bands_and_bars_are(made: Report) -> None:
    curve = next(one for one in made.drawings if one.key == "set-0-accuracy-curve")
    said = " ".join(curve.caption)
    assert "Bands: the spread over seeds" in said
    assert "the 95 % interval over the test images" in said
    assert "phantom" in " ".join(curve.origin)


def test_the_band_is_the_spread_over_seeds(root: Path) -> None:
    axes = Mock()
    (group,) = gather(root, (1, 2), ["set-0"]).groups
    rows = {shots: row for (method, shots), row in group.rows.items() if method.trainer == "CoOp"}
    curves._line(axes, rows, [1, 2], MEASURES[0], "CoOp", 0, heavy=False)
    (_, low, high), _ = axes.fill_between.call_args
    spread = 100 * statistics.stdev([20 / 40, 21 / 40])
    assert low == pytest.approx([51.25 - spread] * 2)
    assert high == pytest.approx([51.25 + spread] * 2)


def test_five_datasets_have_a_critical_difference(made: Report) -> None:
    (ranks,) = [one for one in made.drawings if one.key.startswith("ranks")]
    assert "XCoOp (tag-<b>&) 1.00; CoCoOp (tag-<b>&) 2.00; CoOp (tag-<b>&) 3.00" in ranks.alt
    assert "rough approximations" in " ".join(ranks.caption)


def test_few_datasets_have_none_and_it_is_said(root: Path) -> None:
    found = report(gather(root, (1, 2), ["set-0", "set-1"]), Wanted(MEASURES, figures=False, draws=20))
    said = [part for part in found.sections[0].parts if isinstance(part, str)]
    assert len(said) == 1
    assert "at least 5 datasets" in said[0]


def test_files_are_pictures_with_their_fonts(made: Report) -> None:
    assert {one.key for one in made.drawings} >= {"set-0-accuracy-curve", "set-0-ece-curve", "set-0-reliability"}
    for one in made.drawings:
        assert one.png.startswith(b"\x89PNG")
        assert one.pdf.startswith(b"%PDF")
        assert b"/FontFile2" in one.pdf
        assert b"/Type3" not in one.pdf
        assert min(len(one.png), len(one.pdf)) > 5000


def test_the_same_records_give_the_same_files(root: Path, made: Report) -> None:
    again = report(gather(root, (1, 2), ["set-0"]), Wanted(MEASURES, draws=20))
    first = {one.key: one for one in made.drawings}
    assert all(first[one.key].png == one.png and first[one.key].pdf == one.pdf for one in again.drawings)


def test_lines_differ_without_colour() -> None:
    looks = [style(place) for place in range(40)]
    assert len({(look["marker"], str(look["linestyle"]), look["color"]) for look in looks}) == 40
    assert len({look["marker"] for look in looks[:12]}) == 12
    assert len(set(COLOURS)) == len(COLOURS)


def test_matplotlib_settings_of_others_stay(root: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 33.0}), drawing.canvas(2, 2):
        pass
    with matplotlib.rc_context({"font.size": 33.0}):
        with drawing.canvas(2, 2):
            assert matplotlib.rcParams["font.size"] == 9.0
        assert matplotlib.rcParams["font.size"] == 33.0


@needs_browser
def test_a_phone_shows_the_whole_width(tmp_path: Path, html: str) -> None:
    assert on_a_phone(html, tmp_path) == "360 over 0"
