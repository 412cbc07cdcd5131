"""What is read of every kind of image equals what was written into it, or it is refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
import pytest
from image_files import png, pnm, tiff
from PIL import Image, ImageCms

from xcoop.utils.images import (
    ImageError,
    from_array,
    is_image_name,
    open_bytes,
    open_image,
    reason_unreadable,
    stretch,
    upright,
)

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16).T[::-1].copy()  # 8-bit values 0..255, each once, no symmetry
COLOUR = np.stack([GREY, GREY.T, 255 - GREY // 2], -1)
TABLE = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)  # a colour map
OPAQUE = np.where(np.arange(16)[:, None] < 4, 0, 255).repeat(16, 1).astype(np.uint8)  # alpha: the first rows are not
SHOWN = OPAQUE[..., None] > 0
WHITE, BLACK, RGB, PALETTE, CMYK, YCC, LAB = ({262: [n]} for n in (0, 1, 2, 3, 5, 6, 8))
NEW = int(PIL.__version__.split(".")[0]) >= 13  # it reads two kinds that earlier ones refuse
SIGNED, REAL, PLANES = {339: [2]}, {339: [3]}, {284: [2]}
DEEP, DEEP_COLOUR = GREY.astype("u2") * 257, COLOUR.astype("u2") * 256 + np.roll(COLOUR, 5)
INK = np.concatenate([255 - COLOUR, 0 * GREY[..., None]], -1)


def levels(bits: int) -> np.ndarray:
    """The greys in so many bits."""
    return np.rint(GREY / 255 * (2**bits - 1)).astype(np.int64)


def with_alpha(values: np.ndarray) -> np.ndarray:
    full = np.iinfo(values.dtype).max
    return np.concatenate([values.reshape(16, 16, -1), (SHOWN * full).astype(values.dtype)], -1)


def greys() -> Iterator[tuple[str, bytes, np.ndarray]]:
    for packing in (1, 8):
        for bits in (1, 2, 4):
            value, shown = levels(bits), levels(bits) * 255 // (2**bits - 1)
            yield f"black {bits} bits, {packing}", tiff(value, bits, BLACK, packing=packing), shown
            yield f"white {bits} bits, {packing}", tiff(2**bits - 1 - value, bits, WHITE, packing=packing), shown
        for order in "<>":
            how = f"{order} {packing}"
            yield f"black 8 bits {how}", tiff(GREY, 8, BLACK, order, packing), GREY
            yield f"white 8 bits {how}", tiff(255 - GREY, 8, WHITE, order, packing), GREY
            yield f"black 16 bits {how}", tiff(DEEP, 16, BLACK, order, packing), GREY
            yield f"black 10 in 16 bits {how}", tiff(GREY.astype("u2") * 4, 16, BLACK, order, packing), GREY
            yield f"signed 8 bits {how}", tiff((GREY - 128.0).astype("i1"), 8, BLACK | SIGNED, order, packing), GREY
        yield f"white 16 bits {packing}", tiff(65535 - DEEP, 16, WHITE, "<", packing), GREY
        yield f"white 12 in 16 bits {packing}", tiff(4095 - GREY.astype("u2") * 16, 16, WHITE, "<", packing), GREY
        yield f"black 12 bits, packed, {packing}", tiff(GREY.astype(int) * 16, 12, BLACK, "<", packing), GREY
        yield f"unsigned 32 bits {packing}", tiff(GREY.astype("u4") * 16843009, 32, BLACK, "<", packing), GREY
        yield f"white real {packing}", tiff(((255 - GREY) / 255).astype("f4"), 32, WHITE | REAL, "<", packing), GREY
    for order, packing in (("<", 1), ("<", 8), (">", 1)):
        how = f"{order} {packing}"
        for kind, bits in (("i2", 16), ("i4", 32)):
            values = GREY.astype(kind) * 100 - 12800
            yield f"signed {bits} bits {how}", tiff(values, bits, BLACK | SIGNED, order, packing), GREY
        yield f"real {how}", tiff((GREY / 100 - 1).astype("f4"), 32, BLACK | REAL, order, packing), GREY
    yield "bits reversed", tiff(GREY, 8, BLACK | {266: [2]}), GREY
    yield "bits reversed, white 4 bits", tiff(15 - levels(4), 4, WHITE | {266: [2]}), levels(4) * 17
    yield "bits reversed, 16 bits", tiff(DEEP, 16, BLACK | {266: [2]}), GREY
    yield "png 16 bits", png(DEEP, 16, 0), GREY
    yield "png 12 in 16 bits", png(GREY.astype("u2") * 16, 16, 0), GREY
    for bits in (1, 2, 4):
        value = levels(bits)
        shown = value * 255 // (2**bits - 1)
        yield f"png {bits} bits", png(value, bits, 0), shown
        clear = struct.pack(">H", 1)
        yield f"png {bits} bits, 1 clear", png(value, bits, 0, clear), np.where(value == 1, 0, shown)
    marked = GREY.astype("u2") * 4 + 1000
    marked[:4] = 65535  # clear pixels have no part in the range
    expected = np.where(SHOWN[..., 0], (marked - marked[4:].min()) * 255.0 / np.ptp(marked[4:]), 0)
    yield "png 16 bits, one clear", png(marked, 16, 0, struct.pack(">H", 65535)), np.rint(expected)
    for largest in (1, 15, 100, 255, 1023, 4095, 65535):
        value = np.rint(GREY / 255 * largest)
        yield f"pgm to {largest}", pnm(value, largest), np.rint(value * 255 / largest)
    yield "pgm, 10 bits of 12", pnm(GREY * 4.0, 4095), GREY
    yield "pfm", b"Pf 16 16 -1.0\n" + (GREY[::-1] / 255).astype("<f4").tobytes(), GREY
    for values in (GREY, DEEP, GREY.astype("u2") * 16):
        file = io.BytesIO()
        Image.fromarray(values).save(file, "JPEG2000")
        yield f"jpeg 2000 to {values.max()}", file.getvalue(), GREY


def colours() -> Iterator[tuple[str, bytes, np.ndarray]]:
    on_black = np.where(SHOWN, COLOUR, 0)
    for order in "<>":
        for packing in (1, 8):
            how = f"{order} {packing}"
            yield f"RGB 8 bits {how}", tiff(COLOUR, 8, RGB, order, packing), COLOUR
            yield f"RGB 16 bits {how}", tiff(DEEP_COLOUR, 16, RGB, order, packing), COLOUR
            yield f"RGB planes {how}", tiff(COLOUR, 8, RGB | PLANES, order, packing), COLOUR
            yield f"RGBA {how}", tiff(with_alpha(COLOUR), 8, RGB | {338: [2]}, order, packing), on_black
            deep = with_alpha(DEEP_COLOUR)
            yield f"RGBA 16 bits {how}", tiff(deep, 16, RGB | {338: [2]}, order, packing), on_black
            yield (
                f"RGB and another channel {how}",
                tiff(with_alpha(COLOUR), 8, RGB | {338: [0]}, order, packing),
                COLOUR,
            )
            multiplied = with_alpha(on_black)
            yield f"RGBA multiplied {how}", tiff(multiplied, 8, RGB | {338: [1]}, order, packing), on_black
            grey = np.where(SHOWN[..., 0], GREY, 0)
            yield f"grey and alpha {how}", tiff(with_alpha(GREY), 8, BLACK | {338: [2]}, order, packing), grey
            if NEW:
                yield f"multiplied {how}", tiff(with_alpha(grey), 8, BLACK | {338: [1]}, order, packing), grey
            yield f"CMYK {how}", tiff(INK, 8, CMYK, order, packing), COLOUR
            yield f"CMYK 16 bits {how}", tiff(INK.astype("u2") * 257, 16, CMYK, order, packing), COLOUR
            yield f"CMYK planes {how}", tiff(INK, 8, CMYK | PLANES, order, packing), COLOUR
            for bits in (1, 2, 4, 8):
                place = levels(bits) if bits < 8 else GREY
                for unit in (1, 256, 257):  # a colour map has 16 bits; some writers put 8 there
                    entries = (TABLE[: 2**bits].T.astype(int) * unit).ravel().tolist()
                    data = tiff(place, bits, PALETTE | {320: entries}, order, packing)
                    yield f"palette {bits} bits of {unit} {how}", data, TABLE[place]
    yield "RGB 16 bits, planes, packed", tiff(DEEP_COLOUR, 16, RGB | PLANES, "<", 8), COLOUR
    yield "RGB bits reversed", tiff(COLOUR, 8, RGB | {266: [2]}), COLOUR
    yield "png RGB", png(COLOUR, 8, 2), COLOUR
    yield "png RGB 16 bits", png(DEEP_COLOUR, 16, 2), COLOUR
    yield "png RGBA", png(with_alpha(COLOUR), 8, 6), on_black
    yield "png RGBA 16 bits", png(with_alpha(DEEP_COLOUR), 16, 6), on_black
    yield "png grey and alpha", png(with_alpha(GREY), 8, 4), np.where(SHOWN[..., 0], GREY, 0)
    yield "png grey and alpha, 16 bits", png(with_alpha(DEEP), 16, 4), np.where(SHOWN[..., 0], GREY, 0)
    clear = (COLOUR[3, 5] == COLOUR).all(-1)[..., None]
    yield "png RGB, one clear", png(COLOUR, 8, 2, struct.pack(">3H", *COLOUR[3, 5])), np.where(clear, 0, COLOUR)
    yield "png palette", png(GREY, 8, 3, palette=TABLE.tobytes()), TABLE[GREY]
    half, clear = np.repeat([0, 255], 128).astype(np.uint8), GREY[..., None] < 128
    yield "png palette, half clear", png(GREY, 8, 3, half.tobytes(), TABLE.tobytes()), np.where(clear, 0, TABLE[GREY])
    for largest in (1, 100, 255, 1023, 4095, 65535):
        value = np.rint(COLOUR / 255 * largest)
        yield f"ppm to {largest}", pnm(value, largest), np.rint(value * 255 / largest)


def check(data: bytes, expected: np.ndarray, off: int = 0) -> None:
    wanted = expected if expected.ndim == 3 else expected[..., None].repeat(3, -1)
    for image in (open_bytes(data, "a file"), upright(Image.open(io.BytesIO(data)))):
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image).astype(int) - wanted).max() <= off


@pytest.mark.parametrize(("data", "expected"), [pytest.param(*rest, id=name) for name, *rest in greys()])
def test_greys_are_read_as_they_were_written(data: bytes, expected: np.ndarray) -> None:
    check(data, expected)


@pytest.mark.parametrize(("data", "expected"), [pytest.param(*rest, id=name) for name, *rest in colours()])
def test_colours_are_read_as_they_were_written(data: bytes, expected: np.ndarray) -> None:
    check(data, expected)


@pytest.mark.parametrize("packing", [1, 8])
def test_other_spaces_of_colour(packing: int) -> None:
    smooth = np.clip(COLOUR // 3 + 80, 0, 255)
    ycc = np.asarray(Image.fromarray(smooth).convert("YCbCr"))
    if NEW or packing != 1:
        check(tiff(ycc, 8, YCC | {530: [1, 1]}, packing=packing), smooth, off=4)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.applyTransform(Image.fromarray(smooth), ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    values = np.frombuffer(lab.tobytes(), np.uint8).reshape(16, 16, 3)  # a* and b* signed, as in TIFF
    check(tiff(values, 8, LAB, packing=packing), smooth, off=6)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(DEEP, 16, WHITE, ">"), "PhotometricInterpretation 0, BitsPerSample (16,), big-endian"),
        (tiff(GREY.astype("f8"), 64, BLACK | REAL), "BitsPerSample (64,)"),
        (tiff(GREY.astype("f2"), 16, BLACK | REAL), "SampleFormat (3,)"),
        (tiff(DEEP_COLOUR.astype("u4"), 32, RGB), "BitsPerSample (32, 32, 32)"),
        (tiff(with_alpha(DEEP), 16, BLACK | {338: [2]}), "ExtraSamples (2,)"),
        (tiff(COLOUR, 8, {262: [9]}), "PhotometricInterpretation 9"),
        (tiff(GREY, 8, {}), "does not state its photometric interpretation"),
        (tiff(DEEP_COLOUR, 16, RGB | PLANES), "separate planes"),
        (tiff(INK.astype("u2"), 16, CMYK | PLANES), "separate planes"),
        (tiff(with_alpha(GREY), 8, BLACK | PLANES | {338: [2]}, packing=8), "separate planes"),
        (tiff(COLOUR, 8, LAB | PLANES), "separate planes"),
        (tiff(GREY.astype("i2"), 16, BLACK | SIGNED, ">", 8), "compressed big-endian"),
        (tiff(GREY.astype("f4"), 32, BLACK | REAL, ">", 8), "compressed big-endian"),
        (tiff(COLOUR, 8, YCC), "subsampled" if NEW else "truncated"),
        (tiff(INK, 8, CMYK | {332: [2]}), "other inks"),
        (png(DEEP_COLOUR, 16, 2, struct.pack(">3H", 1, 2, 3)), "16-bit colours with a transparent one"),
    ],
)
def test_what_would_be_read_wrong_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_bytes(data, "scan.tif")
    assert str(caught.value).startswith("scan.tif: ")
    assert reason in str(caught.value)
    assert reason in reason_unreadable("scan.tif", data)


ARRAYS = {
    "as it is": COLOUR,
    "int32": COLOUR.astype(np.int32),
    "int64": COLOUR.astype(np.int64),
    "uint32": COLOUR.astype(np.uint32),
    "uint16": DEEP_COLOUR,
    "big-endian": DEEP_COLOUR.astype(">u2"),
    "float64": COLOUR / 255,
    "float16": (COLOUR / 255).astype(np.float16),
    "channels first": COLOUR.transpose(2, 0, 1),
    "opaque": np.concatenate([COLOUR, np.full((16, 16, 1), 255, np.uint8)], -1),
}
GREYS = {
    "as it is": GREY,
    "one channel": GREY[..., None],
    "one channel, first": GREY[None],
    "three": GREY[..., None].repeat(3, -1),
    "int64": GREY.astype(np.int64),
    "int16, all 8 bits used": GREY.astype(np.int16),
    "uint16": DEEP,
    "12 bits": GREY.astype(np.uint16) * 16,
    "signed": GREY.astype(np.int32) * 7 - 1000,
    "float32": (GREY / 255).astype(np.float32),
}


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        *(pytest.param(array, COLOUR, id=f"colour, {name}") for name, array in ARRAYS.items()),
        *(pytest.param(array, GREY[..., None].repeat(3, -1), id=f"grey, {name}") for name, array in GREYS.items()),
        pytest.param(GREY > 99, (GREY > 99)[..., None].repeat(3, -1) * 255, id="truth values"),
    ],
)
def test_an_array_is_the_same_picture_in_every_form(array: np.ndarray, expected: np.ndarray) -> None:
    assert (np.asarray(from_array(array)) == expected).all()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (GREY.astype(np.uint16) // 2, "an image of 8 bits or a dark one of 16"),
        (COLOUR.astype(np.uint16), "an image of 8 bits or a dark one of 16"),
        (COLOUR.astype(np.int16), "uint8 (0..255) or uint16"),
        (COLOUR.astype(np.int64) * 16, "how many bits they have is not told"),
        (COLOUR.astype(np.float32), "must lie in [0, 1], not 0 to 255"),
        (COLOUR / 255 * np.nan, "must lie in [0, 1]"),
        (COLOUR / 255 - 0.5, "must lie in [0, 1]"),
        (COLOUR.astype(complex), "complex128 is no image"),
        (np.zeros((3, 8, 3), np.uint8), "first or last"),
        (np.zeros((8, 8, 2), np.uint8), "(8, 8, 2)"),
        (np.zeros((0, 8), np.uint8), "(0, 8)"),
        (np.zeros(8, np.uint8), "(8,)"),
    ],
)
def test_an_array_that_may_be_two_pictures_is_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        from_array(array)
    assert reason in str(caught.value)
    assert "hand over" in str(caught.value)


def test_an_array_is_read_as_the_file_that_holds_it() -> None:
    for values in (GREY, DEEP, GREY.astype(np.uint16) * 16 + 3):
        file = io.BytesIO()
        Image.fromarray(values).save(file, "PNG")
        assert from_array(values).tobytes() == open_bytes(file.getvalue(), "a.png").tobytes()
    assert from_array(DEEP_COLOUR).tobytes() == open_bytes(png(DEEP_COLOUR, 16, 2), "a.png").tobytes()


def test_16_bit_values_by_hand(tmp_path: Path) -> None:
    Image.fromarray(np.array([[1000, 2000], [1500, 3000]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png"))[..., 0].tolist() == [[0, 128], [64, 255]]


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
    assert reason_unreadable(name) == ""
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
        assert reason in reason_unreadable(tmp_path / name)
    assert reason_unreadable(tmp_path / "whole.jpg") == ""


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


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F", "La", "LA", "RGBa", "RGBX", "HSV", "PA", "LAB"])
def test_images_in_memory_of_every_mode(mode: str) -> None:
    image = Image.new(mode, (3, 2))
    assert (upright(image).mode, upright(image).size) == ("RGB", (3, 2))
