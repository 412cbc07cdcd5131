"""Pieces of HTML. Whatever comes from data goes through `text`, in content and in attributes alike."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
NOT_KNOWN = "not known"


def text(value: object) -> str:
    """A value as HTML text, safe in attributes too.

    Control characters (those that turn the direction of writing, too) and halves of characters are replaced.
    """
    whole = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", whole), quote=True)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits; "not known" for None and what is not finite."""
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    if value == int(value) and abs(value) < 1e6:
        return str(int(value)).replace("-", "\N{MINUS SIGN}")
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def percent(share: float | None) -> str:
    """A fraction in percent, without decimals unless it is nearly all or nothing."""
    if share is None or not math.isfinite(share):
        return NOT_KNOWN
    near = 0 < share < 0.01 or 0.99 < share < 1
    return f"{100 * share:.{1 if near else 0}f} %"


def interval(low: float | None, high: float | None) -> str:
    """A 95 % interval in brackets; empty if it is not known."""
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def paragraphs(lines: Iterable[str]) -> str:
    """Plain lines as paragraphs."""
    return "".join(f"<p>{text(line)}</p>" for line in lines)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column heads its rows.

    Args:
        caption: plain text.
        head: the columns' names, plain text.
        rows: cells as HTML.
    """
    top = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    return (
        f'<div class="wide" role="group" tabindex="0" aria-label="{text(caption)}"><table>'
        f"<caption><span>{text(caption)}</span></caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names (plain text) and values (HTML)."""
    inner = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f"<dl>{inner}</dl>" if inner else ""


def bar(share: float | None) -> str:
    """A bar of that share of the cell; the number stands beside it, so readers of the page's text skip it."""
    width = 100 * min(1.0, max(0.0, share)) if share is not None and math.isfinite(share) else 0.0
    return f'<span class="bar" aria-hidden="true"><span style="width:{width:.1f}%"></span></span>'
