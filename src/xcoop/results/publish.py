"""Writes a report: the page, and each table and figure as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from xcoop.files import atomic_write_bytes
from xcoop.results.cells_csv import lines_csv
from xcoop.results.page import page
from xcoop.results.report import Report
from xcoop.results.sheet_latex import latex
from xcoop.results.sheet_text import markdown, table_csv, terminal

PAGE = "benchmark.html"
STYLES = {"txt": terminal, "md": markdown, "tex": latex, "csv": table_csv}


def publish(found: Report, folder: Path, intro: Sequence[str], is_phantom: bool) -> list[Path]:
    """Writes all files below a folder; their paths, the page first."""
    written = []
    for name, data in _files(found, intro, is_phantom):
        atomic_write_bytes(folder / name, data)
        written.append(folder / name)
    return written


def _files(found: Report, intro: Sequence[str], is_phantom: bool) -> Iterator[tuple[str, bytes]]:
    warnings = [f"Damaged, and counted as missing: {line}" for line in found.damaged]
    yield PAGE, page(found.sections, [*intro, *found.notes], warnings, is_phantom).encode()
    yield "cells.csv", lines_csv(found.cells).encode()
    yield "comparisons.csv", lines_csv(found.comparisons).encode()
    for sheet in found.sheets:
        for kind, render in STYLES.items():
            yield f"tables/{sheet.key}.{kind}", render(sheet).encode()
    for drawing in found.drawings:
        yield f"figures/{drawing.key}.png", drawing.png
        yield f"figures/{drawing.key}.pdf", drawing.pdf
