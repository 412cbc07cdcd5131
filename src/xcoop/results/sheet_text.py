"""Tables as text: for the terminal, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import re

from tabulate import tabulate

from xcoop.results.sheet import BEST, LEGEND, TIED, Sheet, Shown
from xcoop.results.spreadsheets import spreadsheet_safe

SIGNS = {BEST: " *", TIED: " ~", "": ""}
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")


def terminal(sheet: Sheet) -> str:
    """For a terminal; marks are signs behind the figures."""
    body = [[cell.text + SIGNS[cell.mark] for cell in row] for row in sheet.rows]
    table = tabulate(body, sheet.head, tablefmt="simple", disable_numparse=True)
    legend = [f"{SIGNS[mark].strip()} {LEGEND[mark]}" for mark in sheet.marks]
    return "\n".join([sheet.title, "", table, "", *legend, *sheet.notes, *sheet.origin]) + "\n"


def markdown(sheet: Sheet) -> str:
    """As GitHub shows it; the best is bold, what is not significantly worse italic."""
    lines = [_line([escape(name) for name in sheet.head]), _line(["---"] * len(sheet.head))]
    lines += [_line([_marked(cell) for cell in row]) for row in sheet.rows]
    legend = {BEST: f"**Bold**: {LEGEND[BEST]}.", TIED: f"*Italic*: {LEGEND[TIED]}."}
    notes = [*(legend[mark] for mark in sheet.marks), *map(escape, (*sheet.notes, *sheet.origin))]
    return "\n\n".join([f"**{escape(sheet.title)}**", "\n".join(lines), *notes]) + "\n"


def table_csv(sheet: Sheet) -> str:
    """As it is shown, with the title and the notes as comment lines in front."""
    text = io.StringIO()
    for line in (sheet.title, *sheet.notes, *sheet.origin):
        text.write(f"# {' '.join(line.split())}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(spreadsheet_safe, sheet.head))
    writer.writerows([spreadsheet_safe(f"{cell.text}{SIGNS[cell.mark]}") for cell in row] for row in sheet.rows)
    return text.getvalue()


def escape(value: str) -> str:
    """A name as Markdown text."""
    return _SPECIAL.sub(r"\\\1", " ".join(value.split()))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(cell: Shown) -> str:
    inner = escape(cell.text)
    return {BEST: f"**{inner}**", TIED: f"*{inner}*"}.get(cell.mark, inner)
