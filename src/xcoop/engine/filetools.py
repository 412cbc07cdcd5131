"""Small helpers around files."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.utils import files, reading

if TYPE_CHECKING:
    from PIL.Image import Image


def mkdir_if_missing(dirname: str) -> None:
    """Makes a folder and its parents; one that exists is left alone."""
    Path(dirname).mkdir(parents=True, exist_ok=True)


def check_isfile(fpath: str) -> bool:
    """Whether there is such a file; if not, a warning names it."""
    found = os.path.isfile(fpath)
    if not found:
        warnings.warn(f"No file found at {fpath!r}", stacklevel=3)
    return found


def read_json(fpath: str) -> Any:
    """The content of a JSON file; see `xcoop.utils.reading`."""
    return reading.read_json(fpath)


def write_json(obj: Any, fpath: str) -> None:
    """Writes JSON with 4 spaces of indent; makes the folder; a reader never sees half a file."""
    files.atomic_write_text(fpath, json.dumps(obj, indent=4, separators=(",", ": ")))


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """The names in a folder without those that begin with a dot.

    Args:
        path: the folder.
        sort: in alphabetical order; otherwise as the file system gives them.
    """
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def tolist_if_not(x: Any) -> list[Any]:
    """A list as it is; anything else as the only item of one."""
    return x if isinstance(x, list) else [x]


def read_image(path: str) -> Image:
    """An image as 8-bit RGB; 16-bit greys are rescaled, not clipped.

    Raises:
        OSError: the file is missing or no image; the message names it.
    """
    from xcoop.utils.images import open_image

    return open_image(path)


def download_url(url: str, dst: str, from_gdrive: bool = False) -> None:
    """Downloads a file, whole or not at all.

    Args:
        url: its address.
        dst: the file to write.
        from_gdrive: `url` is a Google Drive link.
    """
    if not from_gdrive and not url.startswith(("https://", "http://")):
        raise ValueError(f"{url!r} is no http(s) address")
    if not from_gdrive:
        from xcoop.utils.download import Job, download

        download(Job(url, Path(dst)))
        return
    import gdown

    with files.atomic_path(dst) as temporary:
        gdown.download(url, str(temporary), quiet=False)


def as_sequence(names: str | Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """One name, several, or none (then `default`), as a list."""
    if names is None:
        return list(default)
    return [names] if isinstance(names, str) else list(names)
