"""Hashes and faults are found once, kept, and asked again for what has changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from xcoop.data import survey as module
from xcoop.data.items import DatasetError
from xcoop.data.survey import refuse_unreadable, survey


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    for shade in range(3):
        Image.new("L", (4, 4), shade).save(data / f"{shade}.png")
    return data


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    inner = module._read
    monkeypatch.setattr(module, "_read", lambda path: names.append(path.name) or inner(path))
    return names


PATHS = ["0.png", "1.png", "2.png"]


def test_the_hash_is_that_of_the_content(folder: Path) -> None:
    findings = survey(folder, PATHS)
    for name in PATHS:
        assert findings[name].sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert findings[name].reason == ""


def test_only_what_has_changed_is_read_again(folder: Path, reads: list[str]) -> None:
    survey(folder, PATHS)
    assert sorted(reads) == PATHS
    reads.clear()
    survey(folder, PATHS)
    assert reads == []
    Image.new("L", (4, 4), 77).save(folder / "1.png")
    os.utime(folder / "1.png", ns=(1, 1))
    survey(folder, PATHS)
    assert reads == ["1.png"]


def test_a_fault_is_looked_at_again(folder: Path, reads: list[str]) -> None:
    whole = (folder / "1.png").read_bytes()
    stat = (folder / "1.png").stat()
    (folder / "1.png").write_bytes(b"x" * len(whole))
    assert survey(folder, PATHS)["1.png"].reason
    (folder / "1.png").write_bytes(whole)
    os.utime(folder / "1.png", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert survey(folder, PATHS)["1.png"].reason == ""


@pytest.mark.parametrize("content", ["{", "[]", '{"files": {"0.png": [1]}}', '{"files": {"0.png": ["a", 1, 2, 3]}}'])
def test_a_damaged_store_is_made_anew(folder: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = survey(folder, PATHS)
    store = module._store_path(folder)
    store.write_text(content)
    assert survey(folder, PATHS) == expected
    assert "damaged" in caplog.text


def test_without_a_cache_the_run_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XCOOP_CACHE", str(folder / "0.png"))
    assert len(survey(folder, PATHS)) == 3
    assert "cannot be kept" in caplog.text


def test_every_unreadable_image_is_named_at_once(folder: Path) -> None:
    (folder / "0.png").write_bytes(b"")
    (folder / "2.png").write_bytes(b"<html>")
    findings = survey(folder, [*PATHS, "gone.png"])
    with pytest.raises(DatasetError) as caught:
        refuse_unreadable(folder, findings)
    text = str(caught.value)
    assert text.startswith("3 of 4 images cannot be read")
    for name, reason in [("0.png", "empty"), ("2.png", "<html>"), ("gone.png", "No such file")]:
        assert f"{folder / name}: " in text
        assert reason in text
    assert "1.png" not in text


def test_readable_images_pass(folder: Path) -> None:
    refuse_unreadable(folder, survey(folder, PATHS))
