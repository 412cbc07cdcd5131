"""Pages from templates: closed to the outside, safe against hostile names, readable in light and dark."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from html_page import Page
from jinja2 import UndefinedError

from xcoop import page

HOSTILE = "<script>alert(1)</script>\"onload='x' & http\x1b\u202e\ud800"
TEMPLATE = """
{% extends "page/base.html.j2" %}
{% import "page/parts.html.j2" as parts %}
{% block title %}{{ name }}{% endblock %}
{% block header %}<h1>{{ name }}</h1>{{ parts.contents([("main", name)]) }}{% endblock %}
{% block main %}
{{ parts.facts([(name, 0.25 | percent)]) }}
{% call(row) parts.table(name, [name, "Share"], rows) %}
<th scope="row">{{ row.name }}</th><td>{{ row.share | number }} {{ (0.1, 0.5) | interval }}</td>
{% endcall %}
{% endblock %}
"""


def made(name: str = HOSTILE) -> str:
    rows = [{"name": name, "share": -0.12345}]
    return page._environment().from_string(TEMPLATE).render(name=name, rows=rows)


def test_hostile_names_stay_text() -> None:
    html = made()
    seen = Page(html)
    assert [tag for tag, _ in seen.tags] == [tag for tag, _ in Page(made("name")).tags]
    assert "<script" not in html
    assert not re.search("[\x1b\u202e\ud800]", html)
    labels = [attrs["aria-label"] for _, attrs in seen.tags if "aria-label" in attrs]
    assert labels == ["Contents", "<script>alert(1)</script>\"onload='x' & http\ufffd\ufffd?"]


def test_the_frame_is_closed_and_can_be_read_by_everyone() -> None:
    tags = Page(made()).tags
    assert ("html", {"lang": "en"}) in tags
    (policy,) = [attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none';")
    assert [attrs["href"] for _, attrs in tags if "href" in attrs] == ["data:,", "#main", "#main"]
    assert [attrs.get("scope") for tag, attrs in tags if tag == "th"] == ["col", "col", "row"]


def test_numbers_by_hand() -> None:
    assert "<td>\N{MINUS SIGN}0.123 [0.1, 0.5]</td>" in made()
    assert [page.number(value) for value in (None, float("nan"), -3.0, 12345.678)] == [
        *("not known", "not known", "\N{MINUS SIGN}3", "1.23e+04")
    ]
    assert [page.percent(share) for share in (0.25, 0.004, 0.999, 1.0, None)] == [
        *("25 %", "0.4 %", "99.9 %", "100 %", "not known")
    ]
    assert page.interval((None, 1.0)) == ""


def test_a_misspelt_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="nobody"):
        page._environment().from_string("{{ nobody }}").render()


def test_writing_has_contrast() -> None:
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    schemes = [dict(re.findall(r"--(\w+):(#\w{6})", found)) for found in re.findall(r":root\{([^}]*)\}", made())]
    assert len(schemes) == 3  # light, dark, print
    for scheme, ground, ink in itertools.product(schemes, ("ground", "card"), ("text", "soft", "link")):
        dark, light = sorted(luminance(scheme[name]) for name in (ground, ink))
        assert (light + 0.05) / (dark + 0.05) >= 4.5
