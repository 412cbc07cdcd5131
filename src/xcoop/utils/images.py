"""Reading one image, whatever its kind, into 8-bit RGB, or saying what is wrong with it.

One rule for all kinds of grey and colour: what is displayed black becomes 0. Then
* samples of 1 to 8 bits are scaled by what their format can hold (a 4-bit 15, a palette's full red: 255);
* greys of more bits, signed or real are stretched from the image's own smallest and largest value to 0..255, since
  10 or 12 bits in 16 are common, and nothing tells how many are used;
* colours, and greys with alpha, of more bits keep their high byte, so that their channels keep their proportions;
* what is transparent, or no number, becomes black and has no part in the stretching.
White-is-zero images are turned, colour maps, CMYK, YCbCr and CIELAB become RGB, premultiplied alpha is understood.
What PIL would read wrong is refused by name.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from PIL import Image, ImageOps, TiffImagePlugin, features
from PIL.TiffTags import TAGS_V2

PathLike = str | os.PathLike[str]
Result = TypeVar("Result")

Image.init()  # loads PIL's decoders: until then only the names of the commonest are known to it

# Formats with plain decoders. PIL knows more (EPS starts Ghostscript), and a data folder must not choose among them.
_PLAIN_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
FORMATS = tuple(name for name in _PLAIN_FORMATS if name in Image.OPEN)
_READ = {*FORMATS, "MPO"}  # MPO, several JPEGs in one, is opened by the decoder of JPEG
SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _READ)
# What the pixels of a file depend on: the rule above (its number goes up with it) and the decoders. Whatever is kept of
# images is kept under this name.
READER = f"rule 2, Pillow {PIL.__version__}, JPEG {features.version('jpg')}"
MAX_PIXELS = 100_000_000  # a header may promise any size; 10,000 x 10,000 is beyond every set that is read here

# Tags of TIFF files.
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, COLOUR_MAP, INK_SET = 258, 259, 262, 277, 284, 320, 332
EXTRA, SAMPLE_FORMAT, SUBSAMPLING, REFERENCE = 338, 339, 530, 532
SIGNED = 2  # a sample format


class ImageError(ValueError):
    """An image that cannot be read; the message names the file and the reason."""


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image and not a stray file (`._x.jpeg`, `.DS_Store`, `notes.txt`)."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def open_image(path: PathLike) -> Image.Image:
    """An image as 8-bit RGB, upright, by the rule above; the EXIF orientation is applied, the first frame is read.

    Raises:
        FileNotFoundError: there is no such file.
        ImageError: the file cannot be read as an image, or only wrong, or has more than `MAX_PIXELS` pixels.
    """
    return _with_reason(path, lambda: upright(_open(Path(path).read_bytes())))


def open_bytes(data: bytes, name: str) -> Image.Image:
    """An image from the content of a file, as `open_image` gives it; `name` stands for the file in messages.

    Raises:
        ImageError: see `open_image`.
    """
    return _with_reason(name, lambda: upright(_open(data)))


def upright(image: Image.Image) -> Image.Image:
    """An image that PIL has opened, of any mode, as `open_image` gives it.

    Raises:
        ImageError: PIL reads this kind wrong.
    """
    tags = getattr(image, "tag_v2", {})
    raw_mode = tile[0][3] if (tile := getattr(image, "tile", None)) else ""  # of the file, until it is loaded
    if reason := _misread(image, tags, raw_mode):
        raise ImageError(reason)
    if raw_mode in ("L;2", "L;4") and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= 85 if raw_mode == "L;2" else 17  # PIL scales the pixels, but not this
    image.load()
    return _rgb(ImageOps.exif_transpose(image), tags)


def from_array(array: np.ndarray) -> Image.Image:
    """An array of grey or colour values as 8-bit RGB.

    Args:
        array: (H, W), (H, W, C) with C of 1, 3 or 4 (grey, RGB, RGBA), or (C, H, W) with C of 1 or 3. Real values in
            [0, 1]; truth values; or integers. Those of 8 bits, and those of 32 and more that lie in 0..255, are taken
            as they are, others as the samples of a deep file: greys are stretched, and of colours of 16 bits the high
            byte is kept.

    Raises:
        ImageError: it can be read in two ways that differ, or in none; the message says what to hand over instead.
    """
    array = _channels_last(array)
    low, high = array.min(), array.max()
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # NaN, too
            raise ImageError(
                f"real values of an image must lie in [0, 1], not {low:g} to {high:g}; hand over 0..255 as uint8"
            )
        array = np.rint(array.astype(np.float64) * 255)
    elif array.dtype.kind not in "iu":
        raise ImageError(f"an array of {array.dtype} is no image; hand over uint8, uint16, or real values in [0, 1]")
    elif array.dtype.itemsize == 2 or low < 0 or high > 255:
        array = _high_bits(array, eight_bits_too=low >= 0 and high <= 255)
    return upright(Image.fromarray(array.astype(np.uint8)))


def reason_unreadable(path: PathLike, data: bytes | None = None) -> str:
    """Why an image cannot be read; empty if it can. `data` is the file's content, if it has been read already.

    The whole file is decoded (a truncated file has a good header), at the coarsest scale that its decoder offers.
    """
    return _tried(path, lambda: _probe(Path(path).read_bytes() if data is None else data))[1]


def pixel_hash(path: PathLike, data: bytes) -> tuple[str, str]:
    """SHA-256 (hex) of a file's image as `open_image` gives it, and why it cannot be read: one of them is empty."""

    def read() -> str:
        image = upright(_open(data))
        return hashlib.sha256(b"%d %d " % image.size + image.tobytes()).hexdigest()

    return _tried(path, read)


def header(path: PathLike) -> tuple[int, int, str] | None:
    """Width, height and mode of an image, read without its pixels; None if it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return (*image.size, image.mode)
    except Exception:  # what is wrong with it is said by `reason_unreadable`
        return None


def stretch(values: np.ndarray, black: np.ndarray | None = None) -> np.ndarray:
    """Greys of any depth as 8 bits: smallest to 0, largest to 255, linear between.

    An image of one value has no range: it keeps its brightness if it is within 0..255, else it becomes white. What is
    `black` (H, W), or not finite, becomes 0 and has no part in the range.
    """
    values = values.astype(np.float64)
    shown = np.isfinite(values) if black is None else np.isfinite(values) & ~black
    low, high = (float(values[shown].min()), float(values[shown].max())) if shown.any() else (0.0, 0.0)
    values = np.where(shown, values, low)
    scaled = np.clip(values, 0, 255) if high == low else (values - low) * (255.0 / (high - low))
    return np.where(shown, np.rint(scaled), 0).astype(np.uint8)


def _tried(path: PathLike, read: Callable[[], str]) -> tuple[str, str]:
    """What `read` gives, and why it fails; one of them is empty, or both."""
    try:
        return _with_reason(path, read), ""
    except FileNotFoundError:
        return "", "no such file"
    except ImageError as error:
        return "", str(error).removeprefix(f"{path}: ")


def _with_reason(path: PathLike, read: Callable[[], Result]) -> Result:
    """Runs `read`; whatever a decoder throws on a bad file becomes one `ImageError`."""
    try:
        return read()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such image") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: too large ({error})") from error
    except Exception as error:  # a decoder may fail with SyntaxError, struct.error, EOFError, ...: all mean unreadable
        raise ImageError(f"{path}: not a readable picture ({type(error).__name__}: {error})") from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        kind = _tiff_kind(data) or f"no known picture format (it begins with {data[:12]!r})"
        raise ImageError(kind) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} allowed")
    return image


def _probe(data: bytes) -> str:
    """Decodes without building the full image where the format can (JPEG: an eighth of the size)."""
    image = _open(data)
    image.draft("RGB", (1, 1))
    upright(image)
    return ""


def _tiff_kind(data: bytes) -> str:
    """What a TIFF that PIL does not know says of itself; empty for another file."""
    try:
        tags, file = TiffImagePlugin.ImageFileDirectory_v2(data[:8]), io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
    except Exception:  # whatever a damaged file makes of it
        return ""
    kind = [f"{TAGS_V2[tag].name} {tags.get(tag)}" for tag in (PHOTOMETRIC, BITS, SAMPLE_FORMAT, EXTRA) if tag in tags]
    return f"a TIFF of a kind that is not read ({', '.join([*kind, 'big-endian' * (data[:2] == b'MM')]).rstrip(', ')})"


def _misread(image: Image.Image, tags: Mapping[int, Any], raw_mode: object) -> str:
    """Why PIL would read an image wrong; empty if it reads it right.

    Found by reading files of each kind with PIL 13: see the table in `tests/data/test_images.py`.
    """
    if image.format == "PNG" and raw_mode == "RGB;16B" and "transparency" in image.info:
        return "a PNG of 16-bit colours with a transparent one is not read"
    if image.format != "TIFF":
        return ""
    packed, eight = tags.get(COMPRESSION, 1) != 1, max(tags.get(BITS, (1,))) == 8
    separate = tags.get(PLANAR, 1) == 2 and tags.get(SAMPLES, 1) > 1
    if PHOTOMETRIC not in tags:
        return "the TIFF does not state its photometric interpretation: whether 0 is black or white"
    if separate and not (image.mode in ("L", "I;16", "I;16B", "RGB", "RGBA", "CMYK") and (eight or packed)):
        return f"a TIFF with separate planes of mode {image.mode}, {tags.get(BITS)} bits, is not read"
    if packed and tags.prefix == b"MM" and image.mode in ("I", "F"):  # type: ignore[attr-defined]
        return "a compressed big-endian TIFF of signed or real values is not read"
    full_range = [float(value) for value in tags.get(REFERENCE, ())] in ([], [0, 255, 128, 255, 128, 255])
    if image.mode == "YCbCr" and (tags.get(SUBSAMPLING) != (1, 1) or not full_range):
        return "an uncompressed TIFF of subsampled or narrow-range YCbCr is not read"
    if image.mode == "CMYK" and tags.get(INK_SET, 1) != 1:
        return "a TIFF of other inks than CMYK is not read"
    return ""


def _rgb(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """A loaded image as 8-bit RGB; `tags` are those of its TIFF file, if it had one."""
    if image.mode[0] in "IF" or (image.mode == "L" and tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED):
        return Image.fromarray(_grey(image, tags)).convert("RGB")
    if image.mode == "P" and max(tags.get(COLOUR_MAP, (256,))) < 256:  # 8 bits where TIFF wants 16
        return Image.fromarray(np.array(tags[COLOUR_MAP], np.uint8).reshape(3, -1).T[np.asarray(image)])
    if image.mode in ("La", "RGBa"):  # premultiplied: on black it is as it stands
        return Image.merge(image.mode[:-1], image.split()[:-1]).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, (0, 0, 0, 255)), layers)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: Image.Image, tags: Mapping[int, Any]) -> np.ndarray:
    """The greys of a deep or signed image as 8 bits, (H, W)."""
    values, sample = np.asarray(image), tags.get(SAMPLE_FORMAT, (1,))[0]
    if image.mode == "L":
        values = values.view(np.int8)
    elif image.mode == "I" and max(tags.get(BITS, (0,))) == 32 and sample != SIGNED:  # PIL takes them for signed
        values = values.view(np.uint32)
    transparent = image.info.get("transparency")
    black = values == transparent if isinstance(transparent, int) else None
    if tags.get(PHOTOMETRIC) == 0:  # white is zero: PIL turns those of up to 8 bits alone
        values = (255.0 if image.mode == "F" else 65535.0) - values
    return stretch(values, black)


def _channels_last(array: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) of an image's array, C being 3 or 4."""
    first = array.ndim == 3 and array.shape[0] in (1, 3)
    last = array.ndim == 3 and array.shape[2] in (1, 3, 4)
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and first == last):
        why = ": its channels may stand first or last" if first and last else ""
        raise ImageError(
            f"an array of an image must be (H, W), (H, W, C) with C of 1, 3 or 4, or (C, H, W) with C of 1 or 3, not "
            f"{array.shape}{why}; hand over a PIL image or a path instead"
        )
    array = np.moveaxis(array, 0, -1) if first else array
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _high_bits(array: np.ndarray, eight_bits_too: bool) -> np.ndarray:
    """8 bits of integers as a deep file's are read; refused if they may as well be 8-bit values that differ."""
    if array.ndim == 3 and (array.dtype.kind, array.dtype.itemsize) != ("u", 2):
        raise ImageError(
            f"colours of {array.min()} to {array.max()} in {array.dtype}: how many bits they have is not told; hand "
            "over uint8 (0..255) or uint16 (0..65535)"
        )
    deep = stretch(array) if array.ndim == 2 else (array >> 8).astype(np.uint8)
    if eight_bits_too and (deep != array).any():
        raise ImageError(
            f"{array.dtype} values of {array.min()} to {array.max()} may be an image of 8 bits or a dark one of 16; "
            "hand over uint8 for the former, a path or a PIL image for the latter"
        )
    return deep
