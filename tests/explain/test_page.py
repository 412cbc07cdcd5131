"""The page: well-formed, closed to the outside, safe against hostile names, readable by everyone, and small."""

from __future__ import annotations

import ast
import base64
import io
import itertools
import re
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from browser import dump, in_a_frame, needs_browser, on_a_phone
from html_page import Page
from page_samples import HOSTILE, content, explanations, image
from PIL import Image
from pydantic import ValidationError

from xcoop.explain import calibration, figures, readings, views
from xcoop.explain import content as explain_content
from xcoop.explain import html as explain_html
from xcoop.explain.content import Explanations, Trust
from xcoop.explain.figures import LESS, MORE, colours, heat_map, middle, outline, strongest, thumbnail
from xcoop.explain.html import Notice, image_page, report
from xcoop.explain.readings import AT_START, KNOWLEDGE, LEARNED, UNRELATED, headlines, reading
from xcoop.explain.views import view_of

NOTICE = Notice(is_phantom=False)


@pytest.fixture(scope="module")
def hostile() -> str:
    return report(explanations(evil=HOSTILE))


def test_hostile_names_stay_text(hostile: str) -> None:
    page = Page(hostile)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "form"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "<script" not in hostile.lower()
    assert f"nevus{HOSTILE}" in unescape(hostile)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in Page(report(explanations())).tags]


def test_what_images_are_compared_with_has_its_own_name() -> None:
    given = content()
    old = report(Explanations.model_validate(given))  # a file of an older version does not say
    assert old.count("What the prompts learned") == 2
    given["class_vector"] = {"noun": f"vector{HOSTILE}", "learned": False, "about": f"Nothing is learned.{HOSTILE}"}
    html = report(Explanations.model_validate(given))
    assert "What the prompts learned" not in html
    assert "<script" not in html.lower()
    assert "Before training" not in html
    assert html.count(">Cosine</th>") == 2
    assert "Nothing is learned.&lt;script&gt;" in html


def test_nothing_leads_outside() -> None:
    html = report(explanations())
    assert "http:" not in html
    assert "https:" not in html
    tags = Page(html).tags
    links = [attrs[name] or "" for _, attrs in tags for name in ("href", "src") if name in attrs]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "url(" not in html
    assert "@import" not in html
    assert any("default-src 'none'" in str(attrs.get("content")) for _, attrs in tags)


def test_the_structure_serves_keyboards_and_screen_readers(hostile: str) -> None:
    tags = Page(hostile).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [str(attrs["href"])[1:] for _, attrs in tags if str(attrs.get("href", "")).startswith("#")]
    assert targets
    assert set(targets) <= set(ids)
    assert {attrs["aria-labelledby"] for _, attrs in tags if "aria-labelledby" in attrs} <= set(ids)
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(attrs.get("alt") for tag, attrs in tags if tag == "img")
    assert all(attrs.get("aria-label") and attrs["role"] == "img" for tag, attrs in tags if tag == "svg")
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in tags if tag == "th")
    assert ("html", {"lang": "en"}) in tags


def test_alt_texts_say_what_a_map_shows() -> None:
    html = image_page(image(), NOTICE)
    assert 'aria-label="heat map for nevus: most in the upper left"' in html
    assert "most in the upper left; the line is the known border of concept 0" in html
    assert "known border of concept 0: 20 % of the image, around the centre" in html
    assert "<h1>images/case 0.jpg, explained</h1>" in html


def test_fifty_images_with_eight_maps_each_stay_below_5_mb() -> None:
    assert len(report(explanations(images=50)).encode()) < 5e6


def test_the_least_certain_image_comes_first_and_the_unknown_last() -> None:
    made = content(images=4)
    for one, certainty in zip(made["images"], (0.9, None, 0.2, 0.6), strict=True):
        one["certainty"] = certainty
    shown = re.findall(r'<h2 id="image-\d-title">images/case (\d)', report(Explanations.model_validate(made)))
    assert shown == ["2", "3", "0", "1"]


def test_a_phantom_and_the_limits_of_maps_are_named() -> None:
    assert "drawn, not photographed" in report(explanations(phantom=True))
    real = report(explanations(phantom=False))
    assert "drawn, not photographed" not in real
    assert "no evidence of clinical validity" in real


def test_each_metric_states_its_direction_beside_its_controls() -> None:
    html = report(explanations())
    row = html[html.index('<th scope="row">deletion') :]
    row = row[: row.index("</tr>")]
    assert "lower is better" in row
    assert "random map: 0.5 [0.45, 0.55]" in re.sub("<[^>]*>", "", row)
    assert "better than its controls" in row


@pytest.mark.parametrize(
    ("direction", "low", "high", "said"),
    [
        ("lower", 0.2, 0.3, "better than its controls"),
        ("higher", 0.2, 0.3, "worse than: random"),
        ("higher", 0.5, 0.6, "not clear of: random"),
        ("higher", None, None, "no interval"),
    ],
)
def test_reading(direction: str, low: float | None, high: float | None, said: str) -> None:
    random = {"name": "random", "value": 0.5, "low": 0.4, "high": 0.55}
    metric = {"metric": "m", "direction": direction, "unit": "", "value": 0.25, "low": low, "high": high}
    assert reading(Trust.model_validate({**metric, "n": 3, "controls": [random], "note": ""})) == said


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images", 1, "maps", 0, "kind"), "lesion", r"images\.1\.maps\.0\.kind\s.*'class' or 'concept'"),
        (("images", 0, "picture"), "https://example.org/x.png", r"images\.0\.picture"),
        (("images", 0, "maps", 0, "values"), [[float("nan")]], r"maps\.0\.values\.0\.0\s.*finite"),
        (("schema",), 7, r"schema\s.*should be 2"),
        (("trust", 0, "direction"), "up", r"trust\.0\.direction\s.*'higher' or 'lower'"),
        (("trust", 0, "n"), "3", r"trust\.0\.n\s.*valid integer"),
        (("run", "is_phantom"), "no", r"run\.is_phantom\s.*valid boolean"),
    ],
)
def test_what_is_wrong_is_named(place: tuple[object, ...], value: object, message: str) -> None:
    made = content()
    entries = made
    for key in place[:-1]:
        entries = entries[key]
    entries[place[-1]] = value
    with pytest.raises(ValidationError, match=message):
        Explanations.model_validate(made)
    del entries[place[-1]]
    if place != ("schema",):
        with pytest.raises(ValidationError, match="Field required"):
            Explanations.model_validate(made)


def test_what_is_written_can_be_read_again() -> None:
    made = explanations(evil=HOSTILE)
    again = Explanations.model_validate_json(made.to_json())
    assert again == made
    assert '"for": {' in made.to_json()


def test_the_scale_has_a_side_for_more_and_one_for_less_and_nothing_between() -> None:
    table = colours().astype(int)
    assert table[127, 3] == 0
    assert table[0].tolist() == [*LESS, 255]
    assert table[-1].tolist() == [*MORE, 255]
    assert (np.diff(table[127:, 3]) > 0).all()
    assert (table[::-1, 3] == table[:, 3]).all()
    # Who sees no hue still tells them apart: over mid-grey one is lighter and the other darker.
    luminance = [float(np.array(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (LESS, MORE)]
    assert luminance[0] < 115 < 140 < luminance[1]


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")).astype(int)


def test_a_picture_has_its_own_resolution_and_tells_nothing_but_its_pixels() -> None:
    file = io.BytesIO()
    Image.new("RGB", (1500, 900), (90, 60, 30)).save(file, "JPEG", comment=b"J. Doe", exif=b"Exif\0\0J. Doe")
    image = Image.open(file)
    found = base64.b64decode(thumbnail(image, 2048).partition(",")[2])
    assert b"J. Doe" in file.getvalue()
    assert b"J. Doe" not in found
    assert Image.open(io.BytesIO(found)).size == (1500, 900)
    assert Image.open(io.BytesIO(base64.b64decode(thumbnail(image).partition(",")[2]))).size == (1024, 614)


def test_a_map_is_as_opaque_as_its_values_are_far_from_zero() -> None:
    drawn = pixels(heat_map(np.array([[2.0, -1.0], [0.0, -4.0]]), limit=2.0))
    corners = drawn[0, 0], drawn[0, -1], drawn[-1, 0], drawn[-1, -1]
    assert [tuple(corner[:3]) for corner in corners if corner[3]] == [MORE, LESS, LESS]
    assert [corner[3] for corner in corners] == [255, pytest.approx(127, abs=3), 0, 255]


def test_all_maps_of_a_kind_share_one_scale() -> None:
    made = content(images=1)
    made["images"][0]["maps"] = [
        {"target": "nevus", "kind": "class", "values": [[0.0, 3.0]]},
        {"target": "melanoma", "kind": "class", "values": [[0.0, 1.0]]},
        {"target": "concept 0", "kind": "concept", "values": [[5.0, 9.0]], "zero": 7.0},
    ]
    figures = view_of(Explanations.model_validate(made).images[0]).figures
    assert [one.limit for one in figures[:3]] == [3.0, 3.0, 2.0]
    assert pixels(figures[1].heat)[0, -1, 3] == pytest.approx(255 / 3, abs=3)
    ends = pixels(figures[2].heat)[0, [0, -1]]
    assert [tuple(end) for end in ends] == [(*LESS, 255), (*MORE, 255)]
    assert "most in the middle right, least in the middle left" in figures[2].said


def test_what_is_seen_of_a_picture_is_where_maps_lie() -> None:
    made = content(images=1)
    made["images"][0]["window"] = [0.25, 0.0, 0.5, 1.0]
    html = image_page(Explanations.model_validate(made).images[0], NOTICE)
    assert 'class="heat" x="56.0" y="0.0" width="112.0" height="224.0"' in html
    assert "and what the model saw of it" in html
    assert 'transform="translate(56 0) scale(4 8)"' in html


def test_a_waterfall_starts_where_the_row_above_it_ended_and_adds_up() -> None:
    logit, margin = view_of(image()).waterfalls
    assert [(bar.title, bar.value, bar.total) for bar in logit.rows] == [
        ("a typical training image", -1.0, -1.0), ("concept 0", 2.5, 1.5), ("concept 1", -0.5, 1.0),
        ("logit of nevus", 1.0, 1.0),
    ]  # fmt: skip
    assert [bar.said for bar in logit.rows] == ["", "seen (90 %)", "not seen", ""]
    assert round(logit.zero) == 40  # from -1 to 1.5
    # From -1 to 1.5 the width is 2.5: the first step covers it, the second a fifth of it, from the right.
    assert [(round(bar.left), round(bar.width)) for bar in logit.rows] == [(0, 40), (0, 100), (80, 20), (40, 40)]
    assert [bar.title for bar in margin.rows][1:-1] == ["concept 0", "concept 1", "concept 2, of melanoma"]
    assert margin.rows[0].value + sum(bar.value for bar in margin.rows[1:-1]) == margin.rows[-1].total == 0.75


def test_a_concept_of_both_classes_stands_once_in_the_margin() -> None:
    made = content(images=1)
    made["images"][0]["sums"][1]["parts"][0]["concept"] = "concept 0"
    rows = view_of(Explanations.model_validate(made).images[0]).waterfalls[1].rows
    assert [(bar.title, bar.value) for bar in rows[1:-1]] == [("concept 0", 2.75), ("concept 1", -0.5)]


def many_concepts() -> Any:
    """An image whose margin has nine concepts, 0.9 down to 0.1, of which the sixth alone is not seen."""
    made = content(images=1, concepts=9)
    (one,) = made["images"]
    for place, concept in enumerate(one["concepts"]):
        concept |= {"seen": "not seen" if place == 5 else "seen", "probability": None}
    parts = [{"concept": f"concept {place}", "value": 0.9 - place / 10} for place in range(9)]
    one["sums"] = [{"name": "nevus", "base": 0.5, "logit": 5.0, "parts": parts},
                   {"name": "melanoma", "base": 1.0, "logit": 1.0, "parts": []}]  # fmt: skip
    return made


def test_beside_the_picture_the_strongest_concepts_and_the_rest_add_up() -> None:
    shown = view_of(Explanations.model_validate(many_concepts()).images[0]).first
    assert shown is not None
    assert [(bar.title, bar.said, round(bar.value, 6)) for bar in shown.rows] == [
        ("a typical training image", "", -0.5), ("concept 0", "seen", 0.9), ("concept 1", "seen", 0.8),
        ("concept 2", "seen", 0.7), ("concept 5", "not seen", 0.4), ("5 others", "", 1.7),
        ("margin over melanoma", "", 4.0),
    ]  # fmt: skip
    assert sum(bar.value for bar in shown.rows[:-1]) == pytest.approx(shown.rows[-1].total)


def test_what_is_no_sum_is_not_drawn_as_one() -> None:
    made = content(images=1)
    (one,) = made["images"]
    one["sums"] = []
    for concept, value in zip(one["concepts"], (0.5, -1.0, 0.0, None, 0.25, 0.1), strict=True):
        concept["for"] = {"nevus": value}
    entry = Explanations.model_validate(made).images[0]
    shown = view_of(entry).first
    assert shown is not None
    # From -1 to 0.5: each bar starts at zero, two thirds from the left.
    assert [(bar.title, round(bar.left), round(bar.width), bar.falls) for bar in shown.rows] == [
        ("concept 1", 0, 67, True), ("concept 0", 67, 33, False), ("concept 4", 67, 17, False),
        ("concept 5", 67, 7, False),
    ]  # fmt: skip
    assert not shown.adds_up
    assert "need not add up to the logit" in image_page(entry, NOTICE)
    one["concepts"] = []
    assert view_of(Explanations.model_validate(made).images[0]).first is None


def test_the_large_picture_can_be_seen_with_what_decides_first() -> None:
    made = content(images=1, concepts=9)
    (one,) = made["images"]
    one["masks"].append({"concept": "lesion", "grid": [[0.0, 1.0]]})
    view = view_of(Explanations.model_validate(made).images[0])
    assert [(layer.kind, layer.title) for layer in view.layers] == [
        ("class", "nevus"), ("class", "melanoma"), *(("concept", f"concept {place}") for place in (0, 1, 2, 3)),
    ]  # fmt: skip
    assert "lesion" in [figure.title for figure in view.figures]
    tags = Page(image_page(Explanations.model_validate(made).images[0], NOTICE)).tags
    choices = [attrs for tag, attrs in tags if tag == "input" and attrs["type"] == "radio"]
    assert len(choices) == 7  # and none of them
    assert len({choice["name"] for choice in choices}) == 1
    assert [choice["id"] for choice in choices if "checked" in choice] == ["image-1"]
    assert {attrs["for"] for tag, attrs in tags if tag == "label"} == {choice["id"] for choice in choices}


def test_each_image_has_its_place_in_the_index_and_one_alone_needs_none() -> None:
    tags = Page(report(explanations(images=5))).tags
    links = [attrs["href"] for tag, attrs in tags if tag == "a"]
    assert [f"#image-{n}" for n in range(1, 6)] == [link for link in links if str(link).startswith("#image-")]
    assert sum(tag == "details" and "open" in attrs for tag, attrs in tags) == 0
    alone = Page(report(explanations(images=1))).tags
    assert not [attrs for tag, attrs in alone if tag == "a" and str(attrs["href"]).startswith("#image-")]
    assert sum(tag == "details" and "open" in attrs for tag, attrs in alone) == 1


def test_images_stand_before_what_is_said_of_the_run() -> None:
    html = report(explanations(images=2))
    places = [html.index(mark) for mark in (
        'id="image-1-picture"', 'class="decided"', "margin over melanoma", "Where it looked", 'id="image-2-picture"',
        'id="classes-title"', "Result on the test images", "random map", "Provenance", ">abc<",
    )]  # fmt: skip
    assert places == sorted(places)


def test_a_sum_that_is_none_is_refused() -> None:
    made = content(images=1)
    made["images"][0]["sums"][0]["logit"] = 1.1
    with pytest.raises(ValidationError, match=r"parts of nevus sum to 1, not to its logit 1\.1"):
        Explanations.model_validate(made)


def test_what_makes_no_difference_stands_first() -> None:
    row = {"metric": KNOWLEDGE, "direction": "higher", "unit": "", "value": 0.9, "low": 0.85, "high": 0.95, "n": 9,
           "note": "", "controls": [{"name": UNRELATED, "value": 0.8, "low": 0.75, "high": 0.88}]}  # fmt: skip
    other = row | {"metric": LEARNED, "controls": [{"name": AT_START, "value": 0.5, "low": 0.4, "high": 0.6}]}
    (line,) = headlines([Trust.model_validate(one) for one in (row, other)])
    assert "as they are written, are not clearly better than unrelated phrases" in line
    (line,) = headlines([Trust.model_validate(other | {"low": 0.55})])
    assert "what the prompts learned makes no clear difference" in line
    made = content()
    made["trust"].append(row)
    html = report(Explanations.model_validate(made))
    assert html.index("unrelated phrases") < html.index("Result on the test images")
    assert headlines([Trust.model_validate(row | {"low": 0.89})]) == []


def test_outline_and_places_by_hand() -> None:
    mask = np.zeros((3, 6), dtype=bool)
    mask[0, 4:] = True
    assert outline(mask) == "M4 0h2M4 1h2M4 0v1M6 0v1"
    assert middle(mask) == "the upper right"
    assert strongest(np.eye(3)[[1, 1, 1]] * [[0], [1], [0]]) == "the centre"


@pytest.mark.parametrize("module", [calibration, explain_content, figures, explain_html, readings, views])
def test_no_torch_is_imported(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [node for node in imports if "torch" in ast.unparse(node)]


# In a real browser.


@needs_browser
@pytest.mark.parametrize("evil", ["", HOSTILE, "long" * 40])
def test_a_phone_shows_the_whole_width(tmp_path: Path, evil: str) -> None:
    assert on_a_phone(report(explanations(images=2, evil=evil)), tmp_path) == "360 over 0"


@needs_browser
def test_the_browser_has_nothing_to_complain_of(tmp_path: Path) -> None:
    dom, said = dump(report(explanations(images=2, evil=HOSTILE)), tmp_path)
    assert "Where it looked" in dom
    assert "CONSOLE" not in said


@needs_browser
def test_the_first_screen_holds_picture_decision_and_concepts(tmp_path: Path) -> None:
    made = many_concepts()
    made["images"] = made["images"] * 20
    made["trust"][0] |= {"metric": "Deletion AUC, mean baseline", "low": 0.4, "high": 0.6}
    made["trust"][0]["controls"][0] |= {"name": "random"}
    asked = "[...page.querySelectorAll('.stage > svg, .decided, .first tr:last-child')].slice(0, 3).map("
    asked += "one => Math.round(one.getBoundingClientRect().bottom))"
    bottoms = in_a_frame(report(Explanations.model_validate(made)), tmp_path, asked)
    assert len(bottoms.split(",")) == 3
    assert max(map(int, bottoms.split(","))) <= 800


@needs_browser
def test_keys_choose_what_lies_over_the_picture_without_a_script(tmp_path: Path) -> None:
    shown = "[...page.querySelectorAll('.stage g.m')].map(one => view.getComputedStyle(one).display == 'none' ? 0 : 1)"
    colours = "view.getComputedStyle(page.querySelector('.stage .under')).filter"
    asked = "[...['nothing', ...Array(2).keys()].map((_, n) => (page.querySelectorAll('input')[n].checked = true, "
    asked += f"page.querySelectorAll('input')[n].focus(), `${{{shown}.join('')}} ${{{colours}}}`)), "
    asked += "view.document.activeElement.type].join('; ')"
    said = in_a_frame(image_page(image(), NOTICE), tmp_path, asked)
    assert said == "000000 none; 100000 grayscale(1); 010000 grayscale(1); radio"
