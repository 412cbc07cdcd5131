"""Reading one picture, whatever its mode, into 8-bit RGB, or saying what is wrong with it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

PathLike = str | os.PathLike[str]
Result = TypeVar("Result")

Image.init()  # loads PIL's decoders: until then only the names of the commonest are known to it

# Formats with plain decoders. PIL knows more (EPS starts Ghostscript), and a data folder must not choose among them.
_PLAIN_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "JPEG2000")
FORMATS = tuple(name for name in _PLAIN_FORMATS if name in Image.OPEN)
SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm", ".jp2"})
MAX_PIXELS = 100_000_000  # a header may promise any size; 10,000 x 10,000 is beyond every set that is read here


class ImageError(ValueError):
    """A picture that cannot be read; the message names the file and the reason."""


def is_image_name(name: str) -> bool:
    """Whether a file of this name is a picture and not a stray file (`._x.jpeg`, `.DS_Store`, `notes.txt`)."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def open_image(path: PathLike) -> Image.Image:
    """A picture as 8-bit RGB, upright.

    Greys of more than 8 bits are stretched from their own smallest and largest value to 0..255 (PIL would clip them
    to white); transparent pixels become black; the EXIF orientation is applied; of several frames the first is read.

    Args:
        path: a file in one of `FORMATS`.

    Returns:
        The picture, mode RGB, fully loaded (the file is closed).

    Raises:
        FileNotFoundError: there is no such file.
        ImageError: the file cannot be read as a picture, or has more than `MAX_PIXELS` pixels.
    """
    return _with_reason(path, lambda: _decode(Path(path).read_bytes()))


def open_bytes(data: bytes, name: str) -> Image.Image:
    """A picture from the content of a file, as `open_image` gives it; `name` stands for the file in messages.

    Raises:
        ImageError: it cannot be read as a picture, or has more than `MAX_PIXELS` pixels.
    """
    return _with_reason(name, lambda: _decode(data))


def unreadable(paths: Iterable[PathLike]) -> list[tuple[str, str]]:
    """The pictures that cannot be read: pairs of path and reason, in the order given."""
    found = ((os.fspath(path), reason_unreadable(path)) for path in paths)
    return [(path, reason) for path, reason in found if reason]


def reason_unreadable(path: PathLike, data: bytes | None = None) -> str:
    """Why a picture cannot be read; empty if it can.

    The whole file is decoded (a truncated file has a good header), at the coarsest scale that its decoder offers.

    Args:
        path: the file.
        data: its content, if the caller has read it already.
    """
    try:
        _with_reason(path, lambda: _probe(Path(path).read_bytes() if data is None else data))
    except FileNotFoundError:
        return "no such file"
    except ImageError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def header(path: PathLike) -> tuple[int, int, str] | None:
    """Width, height and mode of a picture, read without its pixels; None if it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return (*image.size, image.mode)
    except Exception:  # what is wrong with it is said by `reason_unreadable`
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB; see `open_image` for the rules."""
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(stretch(np.asarray(image)))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = _on_black(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def stretch(values: np.ndarray) -> np.ndarray:
    """Greys of any depth as 8 bits: smallest to 0, largest to 255, linear between; what is not finite counts as 0.

    A picture of one value has no range: it keeps its brightness if it is within 0..255, else it becomes white.
    """
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if high == low:
        return np.full(values.shape, min(max(low, 0.0), 255.0), dtype=np.uint8)
    return np.rint((values - low) * (255.0 / (high - low))).astype(np.uint8)


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
        raise ImageError(f"no known picture format (it begins with {data[:12]!r})") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} allowed")
    return image


def _decode(data: bytes) -> Image.Image:
    image = _open(data)
    image.load()
    return to_rgb(ImageOps.exif_transpose(image))


def _probe(data: bytes) -> None:
    """Decodes without building the full picture where the format can (JPEG: an eighth of the size)."""
    image = _open(data)
    image.draft("RGB", (1, 1))
    image.load()
    if image.mode not in _PLAIN_MODES:
        to_rgb(image)


_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr"})


def _on_black(image: Image.Image) -> Image.Image:
    layers = image.convert("RGBA")
    ground = Image.new("RGBA", layers.size, (0, 0, 0, 255))
    return Image.alpha_composite(ground, layers)
