"""Archives that somebody else made, and the small helpers around files."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dassl.utils import check_isfile, listdir_nohidden, mkdir_if_missing, read_json, tolist_if_not, write_json

from xcoop.engine.archives import unpack


def make_zip(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, "content")


def make_tar(path: Path, name: str) -> None:
    with tarfile.open(path, "w:gz") as file:
        member = tarfile.TarInfo(name)
        member.size = 7
        file.addfile(member, io.BytesIO(b"content"))


def make_link(path: Path, name: str) -> None:
    with tarfile.open(path, "w") as file:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, name
        file.addfile(member)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_good_archive_is_unpacked_beside_itself(tmp_path: Path, make: Callable[[Path, str], None]) -> None:
    make(tmp_path / "archive", "images/one.txt")
    unpack(str(tmp_path / "archive"))
    assert (tmp_path / "images" / "one.txt").read_text() == "content"


@pytest.mark.parametrize("make", [make_zip, make_tar, make_link])
def test_path_that_leads_outside_is_refused(tmp_path: Path, make: Callable[[Path, str], None]) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    make(inner / "archive", "../escaped.txt")
    with pytest.raises(ValueError, match="archive"):
        unpack(str(inner / "archive"))
    assert {path.name for path in tmp_path.rglob("*")} == {"inner", "archive"}


def test_file_that_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"page\.zip is neither"):
        unpack(str(tmp_path / "page.zip"))


def test_helpers(tmp_path: Path) -> None:
    mkdir_if_missing(str(tmp_path / "a" / "b"))
    mkdir_if_missing(str(tmp_path / "a" / "b"))
    write_json({"k": [1, "é"]}, str(tmp_path / "new" / "x.json"))
    assert read_json(str(tmp_path / "new" / "x.json")) == {"k": [1, "é"]}
    assert '\n    "k"' in (tmp_path / "new" / "x.json").read_text()
    (tmp_path / ".hidden").touch()
    assert listdir_nohidden(str(tmp_path), sort=True) == ["a", "new"]
    assert check_isfile(str(tmp_path / ".hidden"))
    with pytest.warns(UserWarning, match="nowhere"):
        assert not check_isfile(str(tmp_path / "nowhere"))
    assert (tolist_if_not(3), tolist_if_not([3])) == ([3], [3])
