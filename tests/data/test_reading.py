"""What is read from files is bounded: nothing that stands for gigabytes, never ends or refers to itself is followed."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from xcoop.concepts import load_bank
from xcoop.concepts.elicitation import read_store
from xcoop.concepts.sentences import read_ensemble
from xcoop.config.merge import merge_file, read_config
from xcoop.config.plugins import get_cfg
from xcoop.data.about import read_about
from xcoop.data.splitfile import read_splits
from xcoop.results.record import read_run
from xcoop.sweep.grid import read_grid_file
from xcoop.utils import reading
from xcoop.utils.console import SHOWN, DatasetError, shown
from xcoop.utils.reading import MOST_YAML, parse_json, parse_yaml, read_bytes, read_csv, read_sheets

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
LETTERS = "abcdefgh"
CFG = get_cfg()


def laughs(row: str) -> bytes:
    """Nine copies of nine copies of ...: 9^8 values in some hundred bytes."""
    pairs = pairwise(LETTERS)
    return ("a: &a {k: 1}\n" + "".join(f"{b}: &{b} {row % ','.join([f'*{a}'] * 9)}\n" for a, b in pairs)).encode()


YAML = {
    "aliases": (laughs("[%s]"), "more than 50,000 values"),
    "merge keys": (laughs("{<<: [%s]}"), "more than 50,000 values"),
    "a list in itself": (b"classes: &a [*a]", "refers to what it stands in"),
    "a mapping in itself": (b"classes: &a {x: *a}", "refers to what it stands in"),
    "deep": (b"[" * 60 + b"]" * 60, "more than 50 lists"),
    "deeper than Python": (b"- " * 5000, "nested too deeply"),
    "a long number": (b"classes: " + b"9" * 5000, "4300 digits"),
    "a large number": (b"classes: " + b"9" * 30, "too large a number"),
    "no date": (b"classes: 2024-13-45", "month must be in"),
    "no number": (b'classes: !!int ""', "not valid YAML"),
    "no switch": (b"classes: !!bool perhaps", "not valid YAML"),
    "an object": (b"!!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "a long tag": (b"!<" + b"t" * 80_000 + b"> x", "could not determine a constructor"),
    "a key twice": (b"classes: 1\nname: 2\nclasses: 3\n", "line 3: the key 'classes' stands twice"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00", "not valid YAML"),
    "a pointer": (POINTER, r"pointer of Git LFS.*git lfs pull"),
    "too large": (b"#" * (MOST_YAML + 1), "larger than 1,048,576 bytes"),
}
JSON = {
    "deep": (b"[" * 60 + b"]" * 60, "more than 50 lists"),
    "deeper than Python": (b"[" * 100_000, "nested too deeply"),
    "a long number": (b"9" * 5000, "4300 digits"),
    "a large number": (b'{"seed": 1' + b"0" * 400 + b"}", "too large a number"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00", "not valid JSON"),
    "a pointer": (POINTER, r"pointer of Git LFS.*git lfs pull"),
}
YAML_READERS: dict[str, Callable[[Path], Any]] = {
    "bank": load_bank,
    "config": lambda path: merge_file(CFG.clone(), path),
    "grid": read_grid_file,
    "facts": read_about,
    "saved config": read_config,
}
JSON_READERS: dict[str, Callable[[Path], Any]] = {
    "sentences": lambda path: read_ensemble(path, ["a"], 1),
    "splits": read_splits,
    "record": lambda path: read_run(path.parent),
}


# One reader meets every attack, the others one: all read through the same functions.
@pytest.mark.parametrize(
    ("reader", "attack"), [("facts", attack) for attack in YAML] + [(reader, "aliases") for reader in YAML_READERS]
)
def test_yaml(tmp_path: Path, reader: str, attack: str) -> None:
    content, message = YAML[attack]
    refused(tmp_path / "some.yaml", content, YAML_READERS[reader], message)


@pytest.mark.parametrize(
    ("reader", "attack"), [("splits", attack) for attack in JSON] + [(reader, "deep") for reader in JSON_READERS]
)
def test_json(tmp_path: Path, reader: str, attack: str) -> None:
    content, message = JSON[attack]
    refused(tmp_path / "results.json", content, JSON_READERS[reader], message)


def refused(path: Path, content: bytes, read: Callable[[Path], Any], message: str) -> None:
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(Exception, match=f"(?s){message}") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.process_time() - start < 10


def test_what_is_within_the_limits_is_read() -> None:
    assert parse_yaml(b"\xef\xbb\xbfa: &a [1, 2]\nb: {<<: {x: 1}, x: 2, y: *a}\n", "f") == {
        "a": [1, 2],
        "b": {"x": 2, "y": [1, 2]},
    }
    assert parse_yaml(b"", "f") is None
    assert parse_json(b'{"a": [1, -9223372036854775808, 1e3, null]}', "f") == {"a": [1, -(2**63), 1000.0, None]}


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path} is no regular file"):
            read_bytes(path, 100)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bank.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 36)  # a hole: it takes no room on the disk
    with pytest.raises(ValueError, match=r"bank\.yaml is larger than"):
        load_bank(path)


def test_a_table_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for content, message in (
        (POINTER, "pointer of Git LFS"),
        (b"\x89PNG\r\n\x1a\n\xff", "no CSV text"),
        (b"image,label\na.png," + b"x" * 200_000, "no CSV text"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"table\.csv.*{message}"):
            read_csv(path, ["image"])


def test_a_store_of_answers(tmp_path: Path) -> None:
    for content in (b"[" * 100_000 + b"\n", b"9" * 5000 + b"\n", json.dumps({"a": 10**400}).encode() + b"\n"):
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.jsonl, line 1: not a line of a file of answers"):
            read_store(tmp_path / "a.jsonl")


def test_messages_show_the_beginning_of_a_value() -> None:
    own: list[Any] = []
    own.append(own)
    for value in ("x" * 10**6, ["x" * 10**6] * 3, 10**4999, {"a": {"b": {"c": {"d": {"e": 1}}}}}, own, [[]] * 10**6):
        assert len(shown(value)) <= SHOWN + 5
    assert shown("it's") == '"it\'s"'
    assert shown([1, "a", None]) == "[1, 'a', None]"


@pytest.mark.parametrize(
    "bank",
    [
        "classes: {a: [{concept: %s, source: s}]}" % ("x" * 80_000),
        "classes: {a: [{concept: floppy, source: %s}]}" % ("x" * 80_000),
        "classes: {%s: []}" % ("x" * 80),
        "template: %s" % ("x" * 80_000),
        "version: [%s]" % ("x, " * 30_000),
    ],
)
def test_a_long_value_in_a_bank_is_not_repeated_whole(tmp_path: Path, bank: str) -> None:
    rows = {
        "name": "x", "version": '"1"', "dataset": "X", "template": '"{class}, {concepts}"', "reviewed_by": "[]",
        "sources": "{book: a}", "classes": "{a: [{concept: b, source: book}]}",
    }  # fmt: skip
    key, _, value = bank.partition(": ")
    path = tmp_path / "bank.yaml"
    path.write_text("".join(f"{name}: {row}\n" for name, row in {**rows, key: value}.items()))
    with pytest.raises(ValueError, match=r"bank\.yaml") as caught:
        load_bank(path)
    assert len(str(caught.value)) < 1000


# Spreadsheets.

SHEET = "xl/worksheets/sheet1.xml"


def workbook(path: Path, **changes: tuple[str, str]) -> Path:
    """Two sheets; `changes` are replaced in the XML of the first, by nothing but their order."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "one"
    book.active["A3"], book.active["B3"], book.active["C3"], book.active["D3"] = "IMD 1 ", 2.0, 2.5, "=1+1"
    book.create_sheet("two")["B1"] = "X"
    book.save(path)
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    for before, after in changes.values():
        assert before.encode() in parts[SHEET]
        parts[SHEET] = parts[SHEET].replace(before.encode(), after.encode())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in parts.items():
            new.writestr(name, data)
    return path


def test_sheets_are_read_as_text(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx")
    rows = read_sheets(path)
    assert [row.where for row in rows] == [f"{path}, sheet 'one', row 3", f"{path}, sheet 'two', row 1"]
    assert [[cell for cell in row.cells if cell] for row in rows] == [["IMD 1", "2", "2.5"], ["X"]]
    assert rows[0].cells[3] == "", "a formula that nobody has computed"
    stored = workbook(tmp_path / "b.xlsx", value=("<f>1+1</f><v />", "<f>1+1</f><v>2</v>"))
    assert read_sheets(stored)[0].cells[:4] == ["IMD 1", "2", "2.5", "2"]
    small = workbook(tmp_path / "c.xlsx", size=('<dimension ref="A3:D3"', '<dimension ref="A1"'))
    assert read_sheets(small)[0].cells[:3] == ["IMD 1", "2", "2.5"], "whatever size it claims"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<sheetData>", "<!-- " + " " * (1 << 26) + " --><sheetData>"), "unpack to more than the 67,108,864 bytes"),
        (("<worksheet", '<!DOCTYPE x [<!ENTITY a "b">]><worksheet'), "its part 'xl/worksheets/sheet1.xml' defines ent"),
        (('<row r="3"', '<row r="1003"'), "the sheet 'one' has more than 1,000 rows"),
        (("<sheetData>", "<sheetDat"), "that can be read: "),
    ],
)
def test_sheets_that_are_refused(
    tmp_path: Path, change: tuple[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_ROWS", 1000)
    path = workbook(tmp_path / "a.xlsx", change=change)
    with pytest.raises(DatasetError, match=message) as caught:
        read_sheets(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_zip_file_that_is_no_spreadsheet(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(DatasetError, match=r"a\.xlsx is no spreadsheet"):
        read_sheets(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "that can be read"),
        (b"PK\x03\x04nothing", "damaged"),
        (b"a,b\n", "neither a zip"),
        (POINTER, "git lfs pull"),
    ],
)
def test_what_is_no_spreadsheet(tmp_path: Path, data: bytes, message: str) -> None:
    pytest.importorskip("openpyxl")
    path = tmp_path / "a.xlsx"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=message):
        read_sheets(path)
    with pytest.raises(FileNotFoundError):
        read_sheets(tmp_path / "b.xlsx")
