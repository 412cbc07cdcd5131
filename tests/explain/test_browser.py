"""The page in a real browser, where one is installed: nothing over the edge of a phone, nothing complained of."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from page_samples import HOSTILE, content

from xcoop.explain.page import report

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
MEASURE = (
    "<script>root = document.documentElement;"
    "document.title = `${innerWidth} over ${root.scrollWidth - root.clientWidth}`</script></body>"
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


def dump(page: Path, profile: Path) -> tuple[str, str]:
    """The page's DOM, and what the browser said."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=360,800"]
    command = [str(BROWSER), *flags, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize("evil", ["", HOSTILE, "long" * 40])
def test_a_phone_shows_the_whole_width(tmp_path: Path, evil: str) -> None:
    html = report(content(images=2, evil=evil))
    policy = html[html.index("<meta http-equiv") : html.index('<meta name="viewport"')]
    page = tmp_path / "page.html"
    page.write_text(html.replace(policy, "").replace("</body>", MEASURE), encoding="utf-8")
    dom, _ = dump(page, tmp_path / "profile")
    assert "<title>360 over 0</title>" in dom


def test_the_browser_has_nothing_to_complain_of(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(report(content(images=2, evil=HOSTILE)), encoding="utf-8")
    dom, said = dump(page, tmp_path / "profile")
    assert "Where it looked" in dom
    assert "CONSOLE" not in said
