"""CSV tables of data folders, whose writers differ in encoding, line ends and the case of headers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from xcoop.data.items import DatasetError
from xcoop.reading import MOST_JSON, read_bytes


def read_csv(path: Path, columns: Iterable[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file that has at least these columns; a short row has empty values.

    Args:
        path: a text file in UTF-8, with or without a byte-order mark.
        columns: that must be there, spelt exactly.
        delimiter: between the fields.

    Raises:
        DatasetError: the file is no such text, or lacks a column.
    """
    try:
        text = read_bytes(path, MOST_JSON).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=delimiter)
        header = list(reader.fieldnames or [])
        rows = [{name: row[name] for name in header} for row in reader]
    except (ValueError, csv.Error) as error:
        raise DatasetError(f"{path} is no CSV text ({error})") from error
    if lacking := [name for name in columns if name not in header]:
        raise DatasetError(f"{path} lacks the columns {lacking}; it has {header}")
    return rows
