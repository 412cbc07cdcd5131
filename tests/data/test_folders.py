"""Folders: found whatever the case of a name, and closed ones left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from xcoop.data.folders import NameIndex, StemIndex, list_images, name_some
from xcoop.utils.console import DatasetError
from xcoop.utils.files import writable


def test_names_are_found_whatever_their_case(tmp_path: Path) -> None:
    (tmp_path / "NEL").mkdir()
    for name in ("NEL/nel026.JPG", "NEL/Both.jpg", "NEL/both.jpg", "NEL/Ä.jpg"):
        (tmp_path / name).touch()
    index = NameIndex(tmp_path)
    assert index.find("NEL/Nel026.jpg") == "NEL/nel026.JPG"
    assert index.find("nel\\NEL026.jpg") == "NEL/nel026.JPG"
    assert index.find("NEL/Both.jpg") == "NEL/Both.jpg"
    assert index.find("nel/a\u0308.JPG") == "NEL/Ä.jpg"  # the same letter, in the other spelling of Unicode
    assert index.find("NEL/nel027.jpg") is None
    with pytest.raises(DatasetError, match="case alone"):
        index.find("NEL/BOTH.jpg")


def test_a_path_out_of_the_folder_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.jpg").touch()
    assert NameIndex(tmp_path / "in").find("../secret.jpg") is None


def test_stray_files_and_hidden_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "sub/b.JPEG", "__MACOSX/c.jpg", ".git/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == ["a.jpg"]
    assert list_images(tmp_path, deep=True) == ["a.jpg", "sub/b.JPEG"]


def test_links_are_followed_but_not_for_ever(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "data")
    assert list_images(tmp_path / "data", deep=True) == ["link/a.jpg"]


def test_a_closed_folder_is_not_writable(tmp_path: Path) -> None:
    assert writable(tmp_path / "not" / "there")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    assert not writable(closed)
    assert not writable(closed / "below")
    closed.chmod(0o755)
    (tmp_path / "file").touch()
    assert not writable(tmp_path / "file" / "x")


def test_pictures_are_found_by_their_stems(tmp_path: Path) -> None:
    for name in ("b/Img1.JPG", "a/img1.jpg", "a/1_IM-0001.dcm.png", "a/img2_mask.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    index = StemIndex(tmp_path)
    assert [index.find(name) for name in ("img1", "IMG1.png", " img1 ")] == ["a/img1.jpg"] * 3
    assert index.find("1_IM-0001.dcm.png") == index.find("1_IM-0001.dcm") == "a/1_IM-0001.dcm.png"
    assert [index.find(name) for name in ("img2", "notes", "")] == [None] * 3
    assert index.find_all(["img2_mask", "img1", "img1"], tmp_path) == ["a/img2_mask.png", "a/img1.jpg", "a/img1.jpg"]
    with pytest.raises(DatasetError, match=r"lacks 2 of 3 images of t\.csv: x, y$"):
        index.find_all(["x", "img1", "y"], tmp_path / "t.csv")
    with pytest.raises(DatasetError, match="nowhere is missing"):
        StemIndex(tmp_path / "nowhere")


def test_long_lists_of_names_are_cut() -> None:
    assert name_some(["a", "b"], 2) == "a, b"
    assert name_some(["a", "b", "c", "d"], 2) == "a, b, ... and 2 more"
