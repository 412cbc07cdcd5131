"""Reading what others wrote: one reader of YAML, one of JSON, one of CSV and one of spreadsheets, each with limits.

A file of a few hundred bytes may stand for gigabytes (an alias of an alias of an alias), refer to itself, be nested
more deeply than Python can follow, or be a device that never ends. All that is refused here, where things are read, so
that nothing behind it has to ask again. Every error names the file.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from xcoop.utils.console import DatasetError, cut, escaped, shown

MOST_YAML = 1 << 20  # bytes of what people write; the largest file of the package has 28,000
MOST_JSON = 1 << 26  # bytes of what programmes write: a line for each of a million images
MOST_SHEET = 1 << 24  # bytes of a spreadsheet, which is a zip file, and four times as many when it is unpacked
MOST_ROWS, MOST_COLUMNS = 1 << 20, 200  # of a sheet: as many rows as Excel has, and the columns that are looked at
MOST_NODES = 50_000  # values in a YAML file, those that an alias repeats counted again
DEEPEST = 50  # lists and mappings within each other
LARGEST = 1 << 63  # of whole numbers
POINTER = b"version https://git-lfs.github.com/"  # how a file begins that Git LFS has not fetched
LONGEST_REASON = 400  # characters
DELIMITERS = ",;\t|"  # of CSV tables


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read; FileNotFoundError if it is not there.
        ValueError: it is no regular file, has more than `most` bytes, or is the pointer of Git LFS to another file.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is no regular file, but a device or a pipe")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} is larger than {most:,} bytes: no file of this kind is")
    if data.startswith(POINTER):
        raise ValueError(f"{path} is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`")
    return data


def read_yaml(path: Path, where: str = "") -> Any:
    """The content of a YAML file; see `read_bytes` and `parse_yaml`."""
    return parse_yaml(read_bytes(path, MOST_YAML), where or str(path))


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file; see `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(Path(path), MOST_JSON), str(path))


def parse_yaml(data: bytes, where: str) -> Any:
    """Plain data from YAML in UTF-8; `where` is the file, for messages.

    Raises:
        ValueError: it is no YAML, has a key twice (YAML would drop the first), refers to itself, or goes beyond the
            limits.
    """
    try:
        content = yaml.load(data.decode("utf-8-sig"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        # Beside its own errors PyYAML lets through what a malformed tag or date makes of `int`, `datetime`, ...
        raise ValueError(f"{where} is not valid YAML: {cut(str(error), LONGEST_REASON)}") from error
    except RecursionError:
        raise ValueError(f"{where} is not valid YAML: it is nested too deeply") from None
    return _within_limits(content, where)


def parse_json(data: bytes | str, where: str) -> Any:
    """Plain data from JSON (in UTF-8, if they are bytes).

    Raises:
        ValueError: it is no JSON, or goes beyond the limits; the message begins with `where`.
    """
    try:
        content = json.loads(data.decode("utf-8") if isinstance(data, bytes) else data)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError among them
        raise ValueError(f"{where} is not valid JSON ({cut(str(error), LONGEST_REASON)})") from error
    except RecursionError:
        raise ValueError(f"{where} is not valid JSON: it is nested too deeply") from None
    return _within_limits(content, where)


def _within_limits(content: Any, where: str) -> Any:
    """The content, whose depth and whole numbers what comes after it can bear."""
    level, depth = [content], 0
    while level:
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += value
                inner += value.values()
            elif isinstance(value, (list, tuple, set)):
                inner += value
            elif isinstance(value, int) and not -LARGEST <= value < LARGEST:
                raise ValueError(f"{where}: {shown(value)} is too large a number")
        level, depth = inner, depth + 1
        if depth > DEEPEST:
            raise ValueError(f"{where}: more than {DEEPEST} lists or mappings within each other")
    return content


class _Loader(yaml.SafeLoader):
    """A SafeLoader that counts what it will construct before it constructs anything."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nodes = 0
        self._sizes: dict[int, int] = {}  # of a whole node, by its id; a node that is still open has none

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        before, alias = self._nodes, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if not alias:
            self._nodes += 1
            self._sizes[id(node)] = self._nodes - before
        elif id(node) in self._sizes:
            self._nodes += self._sizes[id(node)]
        else:
            raise ValueError("an alias refers to what it stands in")
        if self._nodes > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES:,} values, with what aliases repeat")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise ValueError(f"line {key.start_mark.line + 1}: the key {shown(key.value)} stands twice")
                seen.add(key.value)
        return node


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    number: int  # of its first line in the file, from 1
    cells: dict[str, str]  # by the names of the header, without blanks around them


def read_csv(path: Path, columns: Iterable[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file that has at least these columns; see `read_table`.

    Raises:
        DatasetError: the file is no such table, or lacks a column (spelt exactly).
    """
    header, lines = read_table(path, delimiter)
    if lacking := [name for name in columns if name not in header]:
        raise DatasetError(f"{path} lacks the columns {lacking}; it has {header}")
    return [line.cells for line in lines]


def read_table(path: Path, delimiter: str = "") -> tuple[list[str], list[Line]]:
    """The header and the rows of a CSV file; blank rows are left out, and a short row has empty values.

    pandas would guess types, mangle repeated names and forget the numbers of the lines, which messages name. The file
    is a text in UTF-8, with or without a byte-order mark, or in UTF-16 with one. The delimiter "" is the one that
    stands most often in the header.

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


class SheetRow(NamedTuple):
    """One row of a spreadsheet that holds anything."""

    where: str  # the file, the sheet and the number of the row, for messages
    cells: list[str]  # as text, without blanks around it; whole numbers without a point; empty ones are ""


def read_sheets(path: Path) -> list[SheetRow]:
    """The rows of all sheets of an .xlsx file, one after the other, without empty ones.

    Nothing is computed: of a formula the value is read that was stored with it, if any. Columns behind the first
    `MOST_COLUMNS` are not looked at.

    Raises:
        ImportError: openpyxl is not installed; the message names the extra.
        DatasetError: the file is no such spreadsheet, or goes beyond the limits.
    """
    import warnings

    from xcoop.utils.unpack import Archive, Limits

    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise ImportError(f"{path} is a spreadsheet: pip install 'xcoop[xlsx]' (openpyxl) to read it") from error
    try:
        read_bytes(path, MOST_SHEET)
        archive = Archive(path, Limits(members=1000, total=4 * MOST_SHEET))
        for member in archive.members():  # before anything is parsed: their sizes, and that they hold no entities
            if any(b"<!" + word in b"".join(archive.blocks(member)) for word in (b"DOCTYPE", b"ENTITY")):
                raise ValueError(f"its part {member.name!r} defines entities")
        with warnings.catch_warnings():  # of extensions (validation of input, ...) that mean nothing to a reader
            warnings.simplefilter("ignore")
            workbook = load_workbook(path, read_only=True, data_only=True, keep_links=False)
            try:
                return [row for sheet in workbook.worksheets for row in _rows(path, sheet)]
            finally:
                workbook.close()
    except Exception as error:  # whatever zipfile, the parser of XML and openpyxl make of a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a fault of the disk
        reason = cut(str(error) or type(error).__name__, LONGEST_REASON)
        raise DatasetError(f"{path} is no spreadsheet (.xlsx) that can be read: {reason}") from error


def _rows(path: Path, sheet: Any) -> Iterator[SheetRow]:
    sheet.reset_dimensions()  # as the file states them; what lies outside would be left out
    for number, values in enumerate(sheet.iter_rows(max_col=MOST_COLUMNS, values_only=True), start=1):
        if number > MOST_ROWS:
            raise ValueError(f"the sheet {sheet.title!r} has more than {MOST_ROWS:,} rows")
        if any(value is not None for value in values):
            yield SheetRow(f"{path}, sheet {sheet.title!r}, row {number}", list(map(_plain, values)))


def _plain(value: object) -> str:
    if value is None:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
