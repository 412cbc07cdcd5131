"""A user's own table of images: path and label, and optionally split and patient, in columns of the usual names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xcoop.data.items import DatasetError
from xcoop.data.tables import read_csv
from xcoop.names import unknown

logger = logging.getLogger(__name__)

COLUMNS = {
    "path": ("path", "image", "file", "filename", "image_path", "filepath"),
    "label": ("label", "class", "classname", "diagnosis"),
    "split": ("split", "set", "subset"),
    "patient": ("patient", "patient_id", "subject", "subject_id"),
}
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        path: relative to the folder, with `/`.
        split: train, val or test; empty if none is stated.
        line: of the table, from 1; 0 where there is no table.
    """

    path: str
    label: str
    split: str = ""
    patient: str = ""
    line: int = 0


def read_rows(table: Path) -> list[Row]:
    """The rows of a table whose fields are parted by `,`, `;` or tabs; the case of the headers does not count.

    Raises:
        DatasetError: no such columns, or a row without label, with a path that leads out, or an unknown split.
    """
    cells = read_csv(table, (), _delimiter(table))
    columns = _columns(table, list(cells[0]) if cells else [])
    rows = [_row(table, columns, values, line) for line, values in enumerate(cells, 2)]
    for column, values in (("split", {row.split for row in rows}), ("patient", {row.patient for row in rows})):
        if "" in values and len(values) > 1:
            lines = [row.line for row in rows if not getattr(row, column)]
            raise DatasetError(
                f"{table}: {len(lines)} of {len(rows)} rows have no {column}, the first in line {lines[0]}"
            )
    return rows


def _delimiter(table: Path) -> str:
    """The one of `,`, `;` and tab that stands most often in the header."""
    with table.open("rb") as file:
        header = file.readline(100_000)
    return max(",;\t", key=lambda mark: header.count(mark.encode()))


def _columns(table: Path, header: list[str]) -> dict[str, str]:
    """The name in the file of each column that is there."""
    found: dict[str, str] = {}
    for name in header:
        role = next((role for role, names in COLUMNS.items() if name.strip().casefold() in names), None)
        if role in found:
            raise DatasetError(f"{table}: the columns {found[role]!r} and {name!r} both tell the {role}: remove one")
        if role:
            found[role] = name
    for role in ("path", "label"):
        if role not in found:
            raise DatasetError(f"{table} has no column {' or '.join(map(repr, COLUMNS[role]))}; it has {header}")
    return found


def _row(table: Path, columns: Mapping[str, str], values: Mapping[str, str], line: int) -> Row:
    cell = {role: values[name].strip() for role, name in columns.items()}
    where = f"{table}, line {line}"
    path = cell["path"].replace("\\", "/")
    if not path or re.match(r"/|[A-Za-z]:", path) or ".." in path.split("/"):
        raise DatasetError(f"{where}: {cell['path']!r} is no path below the folder of the table")
    if not cell["label"]:
        raise DatasetError(f"{where}: {path} has no label")
    word = cell.get("split", "")
    if word and word.casefold() not in SPLIT_WORDS:
        raise DatasetError(f"{where}: {unknown('split', word, SPLIT_WORDS)}")
    return Row(path, cell["label"], SPLIT_WORDS.get(word.casefold(), ""), cell.get("patient", ""), line)
