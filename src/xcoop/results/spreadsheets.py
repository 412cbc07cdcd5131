"""Cells of CSV files that a spreadsheet shows instead of computing them, and that are read back as they were."""

from __future__ import annotations

import re

# How a formula begins, in whichever width; marks in front of it are those of an earlier call.
_FORMULA = re.compile("['\\s]*[=+\\-@\t\r＝＋－＠]")
_FIGURE = re.compile(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?(?: ?[±\[][\d., ±\]-]*)?(?: [*~])?")


def spreadsheet_safe(cell: object) -> object:
    """A cell with `'` in front if it is a text that would be taken for a formula; figures stay as they are."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _FIGURE.fullmatch(cell):
        return f"'{cell}"
    return cell


def from_spreadsheet(cell: str) -> str:
    """What was given to `spreadsheet_safe`; cells of older files, which were not marked, are themselves."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
