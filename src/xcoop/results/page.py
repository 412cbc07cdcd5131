"""All tables and figures on one self-contained page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xcoop.page.document import DRAWN, contents, document
from xcoop.page.markup import table, text
from xcoop.results.drawing import Drawing
from xcoop.results.sheet import BEST, LEGEND, TIED, Sheet, Shown
from xcoop.results.sheet_text import SIGNS

STYLE = """
figure{margin:1rem 0}
figure img{display:block;width:100%;max-width:52rem;height:auto;background:#fff;border:1px solid var(--line)}
figcaption{font-size:.9rem;max-width:52rem}
caption span{display:block;max-width:calc(100vw - 2.5rem);font-weight:600;color:var(--text)}
tbody th{position:sticky;left:0;background:var(--ground);max-width:45vw}
.notes{color:var(--soft);font-size:.85rem;max-width:60rem;margin:.2rem 0 1.2rem}
.warning{border-left:.4rem solid var(--text);padding-left:.6rem;font-weight:bold}
td{white-space:nowrap}em{font-style:normal;text-decoration:underline}
@media print{td{white-space:normal}
table,.notes{font-size:7.5pt}tbody th{position:static}
th,td{min-width:0;padding-right:.5rem}figure img{max-width:100%;max-height:22cm;
width:auto}}
"""
TITLE = "Benchmark results"


Part = Sheet | Drawing | str
"""A table, a figure or a plain sentence."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: plain text.
        parts: tables, figures and plain sentences, in order.
    """

    title: str
    parts: Sequence[Part]


def page(sections: Sequence[Section], intro: Sequence[str], warnings: Sequence[str], is_phantom: bool) -> str:
    """The page as HTML.

    Args:
        sections: in order.
        intro: plain sentences that say what was read.
        warnings: what is wrong with records, e.g.
        is_phantom: whether any of the images are drawn.
    """
    banner = f'<p class="banner"><strong>{DRAWN}</strong></p>' if is_phantom else ""
    links = [(f"part-{place}", section.title) for place, section in enumerate(sections, start=1)]
    head = f"<header><h1>{TITLE}</h1>{banner}{''.join(f'<p>{text(line)}</p>' for line in intro)}"
    head += "".join(f'<p class="warning">{text(line)}</p>' for line in warnings) + f"{contents(links)}</header>"
    body = "".join(_section(key, section) for (key, _), section in zip(links, sections, strict=True))
    return document(TITLE, f'{head}<main id="main" tabindex="-1">{body}</main>', style=STYLE)


def html_table(sheet: Sheet) -> str:
    """A table with its notes as HTML."""
    legend = [f"{SIGNS[mark].strip()} {LEGEND[mark]}" for mark in sheet.marks]
    rows = [[_cell(cell) for cell in row] for row in sheet.rows]
    return table(sheet.title, sheet.head, rows) + _notes([*legend, *sheet.notes, " ".join(sheet.origin)])


def _section(key: str, section: Section) -> str:
    inner = "".join(_part(part) for part in section.parts)
    heading = f'<h2 id="{key}-title">{text(section.title)}</h2>'
    return f'<section id="{key}" aria-labelledby="{key}-title">{heading}{inner}</section>'


def _part(part: Part) -> str:
    if isinstance(part, str):
        return f"<p>{text(part)}</p>"
    if isinstance(part, Sheet):
        return html_table(part)
    data = base64.b64encode(part.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{text(part.alt)}"><figcaption><b>{text(part.title)}</b>'
        f"{_notes([*part.caption, ' '.join(part.origin)])}</figcaption></figure>"
    )


def _cell(cell: Shown) -> str:
    inner = text(cell.text)
    if not cell.mark:
        return inner
    tag = {BEST: "strong", TIED: "em"}[cell.mark]
    return f"<{tag}>{inner}{text(SIGNS[cell.mark])}</{tag}>"


def _notes(lines: Iterable[str]) -> str:
    inner = "".join(f'<span class="note">{text(line)}</span>' for line in lines)
    return f'<div class="notes">{inner}</div>' if inner else ""
