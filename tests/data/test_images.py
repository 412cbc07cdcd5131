"""Pictures of every mode become 8-bit RGB; what cannot be read is named with the reason."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xcoop.utils.images import ImageError, is_image_name, open_image, reason_unreadable, stretch, unreadable


def ramp(low: int, high: int, dtype: str) -> np.ndarray:
    return np.linspace(low, high, 32 * 32).reshape(32, 32).astype(dtype)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16-bit.png", ramp(0, 65535, "uint16")),
        ("12-bit.png", ramp(0, 4095, "uint16")),
        ("narrow.png", ramp(30000, 31000, "uint16")),
        ("16-bit.tif", ramp(0, 65535, "uint16")),
        ("32-bit.tif", ramp(-70000, 70000, "int32")),
        ("float.tif", ramp(0, 1000, "float32") / 1000),
    ],
)
def test_deep_greys_are_stretched_not_clipped(tmp_path: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / name)
    image = open_image(tmp_path / name)
    pixels = np.asarray(image)
    assert image.mode == "RGB"
    assert len(np.unique(pixels)) >= 200
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.all(np.diff(pixels[..., 0].ravel().astype(int)) >= 0)


def test_16_bit_values_by_hand(tmp_path: Path) -> None:
    Image.fromarray(np.array([[1000, 2000], [1500, 3000]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png"))[..., 0].tolist() == [[0, 128], [64, 255]]


def test_big_endian_16_bit_tiff(tmp_path: Path) -> None:
    values = ramp(0, 65535, "uint16")
    Image.frombytes("I;16B", (32, 32), values.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    assert len(np.unique(np.asarray(open_image(tmp_path / "a.tif")))) >= 200


@pytest.mark.parametrize(("value", "expected"), [(7, 7), (4000, 255), (-3, 0)])
def test_a_picture_of_one_value_has_no_range(value: int, expected: int) -> None:
    assert np.unique(stretch(np.full((2, 2), value))).tolist() == [expected]


def test_what_is_not_finite_counts_as_zero() -> None:
    assert stretch(np.array([[0.0, 1.0], [np.nan, np.inf]])).tolist() == [[0, 255], [0, 0]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    name = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode).save(name)
    image = open_image(name)
    assert (image.mode, image.size) == ("RGB", (6, 4))
    if mode not in ("1", "P"):
        assert np.abs(np.asarray(image).astype(int) - 200).max() <= 3


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    palette.save(tmp_path / "a.png", transparency=0)
    assert np.asarray(open_image(tmp_path / "a.png"))[0].tolist() == [[0, 0, 0], [0, 255, 0]]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (4, 8)


def huge_png(path: Path, side: int = 20_000) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def broken_files(folder: Path) -> dict[str, str]:
    """Makes files that cannot be read; gives what each one's message must hold."""
    Image.effect_noise((64, 64), 50).save(folder / "whole.jpg")
    data = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<html>404</html>")
    (folder / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    huge_png(folder / "bomb.png")
    huge_png(folder / "large.png", 11_000)
    return {
        "truncated.jpg": "truncated",
        "empty.jpg": "empty",
        "page.jpg": "<html>",
        "eps.jpg": "no known picture format",
        "bomb.png": "too large",
        "large.png": "11000 x 11000 pixels",
        "absent.jpg": "no such",
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_files_are_named_with_their_reason(tmp_path: Path) -> None:
    expected = broken_files(tmp_path)
    for name, reason in expected.items():
        with pytest.raises((ImageError, FileNotFoundError), match=name) as caught:
            open_image(tmp_path / name)
        assert reason in str(caught.value)
    found = unreadable([tmp_path / "whole.jpg", *(tmp_path / name for name in expected)])
    assert [Path(path).name for path, _ in found] == list(expected)
    for (_, reason), words in zip(found, expected.values(), strict=True):
        assert words in reason


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_what_opens_counts_as_readable(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image = Image.fromarray(ramp(0, 65535, "uint16")) if mode == "I;16" else Image.new("RGB", (20, 20)).convert(mode)
    image.save(path)
    assert reason_unreadable(path) == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.JPEG", True), ("b.Png", True), ("._a.jpeg", False), (".DS_Store", False), ("notes.txt", False), ("a", False)],
)
def test_stray_files_are_no_images(name: str, expected: bool) -> None:
    assert is_image_name(name) is expected


def test_names_with_blanks_and_other_scripts(tmp_path: Path) -> None:
    folder = tmp_path / "Bilder für 画像"
    folder.mkdir()
    Image.new("L", (3, 3), 9).save(folder / "ein Bild.png")
    assert open_image(folder / "ein Bild.png").getpixel((0, 0)) == (9, 9, 9)
