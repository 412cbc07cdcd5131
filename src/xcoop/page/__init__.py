"""Pages for readers: self-contained HTML from Jinja templates, without scripts and outside links.

A page extends `page/base.html.j2`, which has the head, a content policy that closes the door to the outside, and the
style sheet; `page/parts.html.j2` has the tables and lists. Whatever comes from data is escaped in content and in
attributes alike. Nothing below this package knows of it.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

DRAWN = "Phantom: these images are drawn, not photographed. Nothing measured on them is a clinical result."
NOT_KNOWN = "not known"
# Control characters (those that turn the direction of writing, too) are replaced.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def render(template: str, **values: object) -> str:
    """A page as HTML.

    Args:
        template: its path in this package, e.g. "explain/report.html.j2".
        values: what the template shows.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt value is an error, not an empty place
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "signed": signed, "percent": percent, "interval": interval}
    made.globals["DRAWN"] = DRAWN
    return made


def _clean(value: object) -> object:
    """What is put out; escaping comes after it. Control characters and halves of characters are replaced."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    whole = value.encode("utf-8", "replace").decode("utf-8")
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", whole)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits; "not known" for None and what is not finite."""
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    if value == int(value) and abs(value) < 1e6:
        return str(int(value)).replace("-", "\N{MINUS SIGN}")
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def signed(value: float) -> str:
    """A number with its sign and two decimals, so that those of a sum stand in line."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def percent(share: float | None) -> str:
    """A fraction in percent, without decimals unless it is nearly all or nothing, which it is not if it is rounded."""
    if share is None or not math.isfinite(share):
        return NOT_KNOWN
    if 0 < share < 0.001 or 0.999 < share < 1:
        return "below 0.1 %" if share < 0.5 else "above 99.9 %"
    near = 0 < share < 0.01 or 0.99 < share < 1
    return f"{100 * share:.{1 if near else 0}f} %"


def interval(ends: tuple[float | None, float | None]) -> str:
    """The ends of a 95 % interval in brackets; empty if they are not known."""
    low, high = ends
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"
