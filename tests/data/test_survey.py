"""Hashes and faults are found once, kept, and asked again for what has changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xcoop.data import folders as module
from xcoop.data.folders import refuse_unreadable, survey
from xcoop.utils.console import DatasetError


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
    monkeypatch.setattr(module, "_read", lambda path, *how: names.append(path.name) or inner(path, *how))
    return names


PATHS = ["0.png", "1.png", "2.png"]


def test_the_hash_is_that_of_the_pixels(folder: Path) -> None:
    findings = survey(folder, PATHS)
    for shade, name in enumerate(PATHS):
        assert findings[name].content == hashlib.sha256(b"4 4 " + bytes([shade]) * 48).hexdigest()
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


def test_a_fault_is_looked_at_again(folder: Path) -> None:
    whole = (folder / "1.png").read_bytes()
    stat = (folder / "1.png").stat()
    (folder / "1.png").write_bytes(b"x" * len(whole))
    assert survey(folder, PATHS)["1.png"].reason
    (folder / "1.png").write_bytes(whole)
    os.utime(folder / "1.png", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert survey(folder, PATHS)["1.png"].reason == ""


def test_a_flipped_bit_in_a_stored_hash_is_noticed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = survey(folder, PATHS)
    store, content = module._store_path(folder), expected["1.png"].content
    other = expected["0.png"].content  # as if two pictures were one
    store.write_text(store.read_text().replace(content, other))
    os.utime(store, ns=(1, 1))
    assert survey(folder, PATHS) == expected
    assert "not those that were written" in caplog.text


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


TURN = Image.Exif()
TURN[0x0112] = 6


def pictures(folder: Path) -> dict[str, bool]:
    """One picture in many files, and others that only look like it: whether each is the first's equal."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (24, 16), np.uint8)
    grey[0, 0], grey[0, 1] = 0, 255  # deep greys are stretched from their range
    image = Image.fromarray(grey)
    image.save(folder / "first.png")
    image.save(folder / "other.bmp")
    image.save(folder / "slow.png", compress_level=0, dpi=(72, 72))
    image.convert("RGB").save(folder / "colour.tif", compression="tiff_lzw")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=TURN)
    image.save(folder / "lossy.jpg", quality=80)
    data = (folder / "lossy.jpg").read_bytes()
    (folder / "comment.jpg").write_bytes(data[:2] + b"\xff\xfe\x00\x07hello" + data[2:])
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "lying.png")
    image.crop((0, 0, 16, 23)).save(folder / "smaller.png")
    Image.fromarray(grey ^ np.uint8(1)).save(folder / "noisy.png")
    same = ("first.png", "other.bmp", "slow.png", "colour.tif", "deep.png", "turned.png")
    return {path.name: path.name in same for path in folder.iterdir()}


def test_equal_pixels_are_one_picture_whatever_the_file(tmp_path: Path) -> None:
    equal = pictures(tmp_path)
    findings = survey(tmp_path, equal)
    assert {name: found.content == findings["first.png"].content for name, found in findings.items()} == equal
    assert findings["comment.jpg"].content == findings["lossy.jpg"].content
    assert findings["smaller.png"].content == ""  # no other picture has its sides


def test_a_picture_that_gets_company_is_looked_at_again(tmp_path: Path, reads: list[str]) -> None:
    Image.effect_noise((9, 7), 50).save(tmp_path / "a.png")
    assert survey(tmp_path, ["a.png"])["a.png"].content == ""
    Image.open(tmp_path / "a.png").save(tmp_path / "b.bmp")
    findings = survey(tmp_path, ["a.png", "b.bmp"])
    assert findings["a.png"].content == findings["b.bmp"].content != ""
    assert sorted(reads) == ["a.png", "a.png", "b.bmp"]
