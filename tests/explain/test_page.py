"""The page: well-formed, closed to the outside, safe against hostile names, readable by everyone, and small."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from page_samples import HOSTILE, content, entry

from xcoop.explain.page import card, report
from xcoop.explain.page.colours import scale
from xcoop.explain.page.pictures import middle, outline, strongest
from xcoop.explain.page.trust import reading
from xcoop.page.style import COLOURS


@pytest.fixture(scope="module")
def hostile() -> str:
    return report(content(evil=HOSTILE))


def test_hostile_names_stay_text(hostile: str) -> None:
    page = Page(hostile)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "form"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "<script" not in hostile.lower()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;onload=&#x27;x&#x27; &amp; http" in hostile
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in Page(report(content())).tags]


def test_what_images_are_compared_with_has_its_own_name() -> None:
    given = content()
    assert report(given).count("What the prompts learned") == 2  # a file of an older version does not say
    given["class_vector"] = {"noun": f"vector{HOSTILE}", "learned": False, "about": f"Nothing is learned.{HOSTILE}"}
    html = report(given)
    assert "What the prompts learned" not in html
    assert "<script" not in html.lower()
    assert "Before training" not in html
    assert html.count(">Cosine</th>") == 2
    assert "Nothing is learned.&lt;script&gt;" in html
    given["class_vector"] = {"noun": "vector", "learned": "no", "about": ""}
    with pytest.raises(ValueError, match=r"class_vector\.learned is 'no'; it must be of type bool"):
        report(given)


def test_nothing_leads_outside() -> None:
    html = report(content())
    assert "http:" not in html
    assert "https:" not in html
    links = [attrs[name] or "" for _, attrs in Page(html).tags for name in ("href", "src") if name in attrs]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src &#x27;none&#x27;" in html


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
    html = card(entry())
    assert 'aria-label="heat map for nevus: strongest in the upper left, deletion 0.31, inside 0.6"' in html
    assert "the line is the known border of concept 0" in html


def test_fifty_images_with_eight_maps_each_stay_below_5_mb() -> None:
    assert len(report(content(images=50)).encode()) < 5e6


def test_the_least_certain_image_comes_first_and_the_unknown_last() -> None:
    made = content(images=4)
    for image, certainty in zip(made["images"], (0.9, None, 0.2, 0.6), strict=True):
        image["certainty"] = certainty
    shown = re.findall(r'<h3 id="image-\d-title">images/case (\d)', report(made))
    assert shown == ["2", "3", "0", "1"]


def test_a_phantom_and_the_limits_of_maps_are_named() -> None:
    assert "drawn, not photographed" in report(content(phantom=True))
    real = report(content(phantom=False))
    assert "drawn, not photographed" not in real
    assert "no evidence of clinical validity" in real


def test_each_metric_states_its_direction_beside_its_controls() -> None:
    html = report(content())
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
    assert reading({**metric, "n": 3, "controls": [random], "note": ""}) == said  # type: ignore[typeddict-item]


def test_what_is_wrong_is_named() -> None:
    made = content()
    del made["images"][1]["maps"][0]["kind"]
    with pytest.raises(ValueError, match=r"explanations\.images\[1\]\.maps\[0\] lacks kind"):
        report(made)
    with pytest.raises(ValueError, match="has schema 7; this version of xcoop reads 2"):
        report({**content(), "schema": 7})
    with pytest.raises(ValueError, match=r"trust\[0\]\.direction is 'up'; it must be 'higher' or 'lower'"):
        report({**content(), "trust": [{**content()["trust"][0], "direction": "up"}]})
    with pytest.raises(ValueError, match=r"case 0\.jpg: a picture must be a data URI"):
        card({**entry(), "picture": "https://example.org/x.png"})


def test_the_scale_rises_in_lightness_by_even_steps() -> None:
    values = scale().astype(float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(np.maximum(linear @ [0.2126, 0.7152, 0.0722], 1e-9)) - 16  # CIE L*
    assert np.all(np.diff(lightness) > 0)
    assert lightness[0] < 25
    assert lightness[-1] > 90
    rises = np.diff(lightness[::15])
    assert rises.max() < 1.6 * rises.min()


def test_writing_has_contrast() -> None:
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        return float(
            np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        )

    for mode, ground, ink in itertools.product((0, 1), ("ground", "card"), ("text", "soft", "link")):
        dark, light = sorted(luminance(COLOURS[name][mode]) for name in (ground, ink))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_outline_and_places_by_hand() -> None:
    mask = np.zeros((3, 6), dtype=bool)
    mask[0, 4:] = True
    assert outline(mask) == "M4 0h2M4 1h2M4 0v1M6 0v1"
    assert middle(mask) == "the upper right"
    assert strongest(np.eye(3)[[1, 1, 1]] * [[0], [1], [0]]) == "the centre"


def test_no_torch_is_imported() -> None:
    folder = Path(__file__).parents[2] / "src/xcoop/explain"
    for file in [*(folder / "page").glob("*.py"), folder / "schema.py"]:
        names = [
            node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not [node for node in names if "torch" in ast.unparse(node)]
