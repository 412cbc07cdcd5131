"""Writes a report: the page, and each table and figure as files. What an earlier report left behind is removed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from xcoop.results.cells_csv import lines_csv
from xcoop.results.page import page
from xcoop.results.report import Report
from xcoop.results.sheet_latex import latex
from xcoop.results.sheet_text import markdown, table_csv, terminal
from xcoop.utils.files import atomic_write_bytes, atomic_write_text, sha256_file
from xcoop.utils.reading import read_json

PAGE, LIST = "benchmark.html", "files.json"
_NAME = re.compile(r"(?:(?:tables|figures)/)?[A-Za-z0-9_-]+\.(?:html|csv|txt|md|tex|png|pdf)")
_HASH = re.compile("[0-9a-f]{64}")
STYLES = {"txt": terminal, "md": markdown, "tex": latex, "csv": table_csv}


def publish(found: Report, folder: Path, intro: Sequence[str]) -> list[Path]:
    """Writes all files below a folder; their paths, the page first.

    A list of them is kept. Files of the list before that are not made any more, and that nobody has changed, go: a
    table of runs that are gone would be taken for a result. What is there and not on the list is somebody else's.

    Raises:
        ValueError: the list is damaged, or not ours; the message names it.
        FileExistsError: a file of somebody else's, or a link, would be replaced; nothing was written then.
    """
    before, files = _listed(folder), dict(_files(found, intro))
    written = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name in (*written, LIST):
        path = folder / name
        if path.is_symlink() or (path.exists() and name not in (*before, LIST)):
            raise FileExistsError(f"{path} is not xcoop's, and would be replaced: move it away, or name another --to")
    # First of all what is ours, so that a report that was interrupted can be written again.
    atomic_write_text(folder / LIST, json.dumps(written | before, indent=1) + "\n")
    for name, data in files.items():
        atomic_write_bytes(folder / name, data)
    for name in before.keys() - written.keys():
        path = folder / name
        if path.is_file() and sha256_file(path) == before[name]:
            path.unlink()
    atomic_write_text(folder / LIST, json.dumps(written, indent=1) + "\n")
    return [folder / name for name in written]


def _listed(folder: Path) -> dict[str, str]:
    """The files of the report before, with their hashes; none outside the folder."""
    if not (folder / LIST).is_file():
        return {}
    found = read_json(folder / LIST)
    if not isinstance(found, dict) or not all(isinstance(key, str) and _HASH.fullmatch(key) for key in found.values()):
        raise ValueError(
            f"{folder / LIST} is not the list of a report's files: move it away, or name another folder (--to)"
        )
    return {name: key for name, key in found.items() if _NAME.fullmatch(name)}


def _files(found: Report, intro: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    warnings = [f"Damaged, and counted as missing: {line}" for line in found.damaged]
    yield PAGE, page(found.sections, [*intro, *found.notes], warnings, found.is_phantom).encode()
    yield "cells.csv", lines_csv(found.cells).encode()
    yield "comparisons.csv", lines_csv(found.comparisons).encode()
    for sheet in found.sheets:
        for kind, render in STYLES.items():
            yield f"tables/{sheet.key}.{kind}", render(sheet).encode()
    for drawing in found.drawings:
        yield f"figures/{drawing.key}.png", drawing.png
        yield f"figures/{drawing.key}.pdf", drawing.pdf
