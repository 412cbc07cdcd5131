"""CSV tables of data folders, whose writers differ in encoding, delimiter, line ends and the case of headers."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xcoop.utils.errors import DatasetError
from xcoop.utils.reading import MOST_JSON, read_bytes
from xcoop.utils.suggest import escaped

DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        number: of its first line in the file, from 1.
        cells: by the names of the header, without blanks around them.
    """

    number: int
    cells: dict[str, str]


def read_csv(path: Path, columns: Iterable[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file that has at least these columns; see `read_table`.

    Args:
        path: of the file.
        columns: that must be there, spelt exactly.
        delimiter: between the fields.

    Raises:
        DatasetError: the file is no such table, or lacks a column.
    """
    header, lines = read_table(path, delimiter)
    if lacking := [name for name in columns if name not in header]:
        raise DatasetError(f"{path} lacks the columns {lacking}; it has {header}")
    return [line.cells for line in lines]


def read_table(path: Path, delimiter: str = "") -> tuple[list[str], list[Line]]:
    """The header and the rows of a CSV file; blank rows are left out, and a short row has empty values.

    Args:
        path: a text file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.
        delimiter: between the fields; "" is the one that stands most often in the header.

    Raises:
        DatasetError: the file is no such text, a quote is never closed, or a row has more fields than the header.
    """
    try:
        data = read_bytes(path, MOST_JSON)
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except ValueError as error:
        raise DatasetError(f"{path} is no CSV text ({error}): save it as UTF-8") from error
    if told := re.match(r"sep=(.)\r?\n", text):  # how Excel is told
        delimiter, text = told[1], "\n" + text[told.end() :]
    head = text.lstrip().partition("\n")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter or max(DELIMITERS, key=head.count),
        skipinitialspace=True,
        strict=True,
    )
    header: list[str] = []
    lines: list[Line] = []
    number = 1
    try:
        for row in reader:
            first, number = number, reader.line_num + 1
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not header:
                header = [escaped(cell) for cell in cells]
                continue
            if any(cells[len(header) :]):
                raise DatasetError(
                    f"{path}, line {first}: {len(cells)} fields, and the header has {len(header)}; a field that holds "
                    "the delimiter needs quotes around it"
                )
            cells += [""] * (len(header) - len(cells))
            lines.append(Line(first, dict(zip(header, cells, strict=False))))
    except csv.Error as error:  # a quote that is never closed, among others
        raise DatasetError(f"{path} is no CSV text (in what begins in line {number}: {error})") from error
    return header, lines
