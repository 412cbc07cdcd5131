"""Pages in a real browser, where a Chromium is installed."""

from __future__ import annotations

import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
# A screen is a frame of its size, since a browser's own window has a least width (Debian's Chromium: 500 px).
FRAME = """<!DOCTYPE html><body><iframe style="width: {width}px; height: {height}px; border: 0" srcdoc="{page}"
onload="view = contentWindow; page = contentDocument.documentElement; document.title = {asked}"></iframe></body>"""


def dump(html: str, folder: Path) -> tuple[str, str]:
    """The page's DOM, and what the browser said."""
    page = folder / "page.html"
    page.write_text(html, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command = [str(BROWSER), *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def in_a_frame(html: str, folder: Path, asked: str, width: int = 1280, height: int = 800) -> str:
    """What a script's expression gives of the page on a screen of that size; `view` is its window, `page` its root."""
    dom, _ = dump(FRAME.format(page=escape(html), asked=escape(asked), width=width, height=height), folder)
    return unescape(dom[dom.index("<title>") + len("<title>") : dom.index("</title>")])


def on_a_phone(html: str, folder: Path) -> str:
    """How wide the window is, and by how much the page is wider, in px: `360 over 0`."""
    return in_a_frame(html, folder, "`${view.innerWidth} over ${page.scrollWidth - page.clientWidth}`", width=360)
