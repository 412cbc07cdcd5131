"""The page in a real browser, where one is installed: nothing over the edge of a phone, nothing complained of."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import dump, needs_browser, on_a_phone
from page_samples import HOSTILE, content

from xcoop.explain.page import report

pytestmark = needs_browser


@pytest.mark.parametrize("evil", ["", HOSTILE, "long" * 40])
def test_a_phone_shows_the_whole_width(tmp_path: Path, evil: str) -> None:
    assert on_a_phone(report(content(images=2, evil=evil)), tmp_path) == "360 over 0"


def test_what_is_too_wide_for_a_phone_is_seen(tmp_path: Path) -> None:
    assert on_a_phone("<body style='margin: 0'><div style='width: 400px'>wide</div></body>", tmp_path) == "360 over 40"


def test_the_browser_has_nothing_to_complain_of(tmp_path: Path) -> None:
    dom, said = dump(report(content(images=2, evil=HOSTILE)), tmp_path)
    assert "Where it looked" in dom
    assert "CONSOLE" not in said
