"""OpenAI's weights: downloaded once, checked, and kept where OpenAI's own loader keeps them."""

from __future__ import annotations

import hashlib
import logging
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from xcoop.backbones.clip_import import import_clip
from xcoop.files import atomic_path, sha256_file

logger = logging.getLogger(__name__)

FOLDER = "~/.cache/clip"  # of OpenAI's loader too, so that what it has downloaded before is used
BLOCK = 1 << 20  # bytes
SECONDS = 30  # without an answer


def fetch_openai(name: str) -> Path:
    """The local file with OpenAI's weights of that name, downloaded if it is not there whole.

    Raises:
        ValueError: the `clip` package in use does not know the name, or what came is not what OpenAI published.
        ConnectionError: the download failed; the message says where the file can be put by hand.
    """
    urls: dict[str, str] = import_clip().clip._MODELS
    if name not in urls:
        raise ValueError(
            f"the `clip` package in use ({import_clip().__file__}) has no address for the weights of {name}; "
            f"it knows {', '.join(urls)}. Set MODEL.BACKBONE.PATH to a local file."
        )
    return fetch(urls[name], Path(FOLDER).expanduser())


def fetch(url: str, folder: Path) -> Path:
    """The file behind an address whose last folder is the file's SHA-256, as in OpenAI's table.

    It is written under a temporary name, checked, and only then moved into place.

    Args:
        url: the address.
        folder: where the file is kept.
    """
    *_, expected, filename = url.split("/")
    target = folder / filename
    if target.is_file():
        if sha256_file(target) == expected:
            return target
        logger.warning("%s is damaged (its SHA-256 is not %s); downloading it again", target, expected)
    logger.info("downloading %s to %s", url, target)
    with atomic_path(target) as temporary:
        found = _download(url, temporary, target)
        if found != expected:
            raise ValueError(f"the SHA-256 of {url} should be {expected}, and is {found}. {_by_hand(url, target)}")
    return target


def _download(url: str, temporary: Path, target: Path) -> str:
    """Writes what the address gives to `temporary`; its SHA-256."""
    digest = hashlib.sha256()
    with temporary.open("wb") as file:
        for block in _blocks(url, target):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _blocks(url: str, target: Path) -> Iterator[bytes]:
    """What the address gives, block by block. Failures of the network, and no others, become ConnectionError."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as source:  # noqa: S310 - from clip's own table, https
            size = int(source.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, unit="B", unit_scale=True, desc=target.name, disable=None) as bar:
                while block := source.read(BLOCK):
                    yield block
                    bar.update(len(block))
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{url} cannot be downloaded ({error}). {_by_hand(url, target)}") from error


def _by_hand(url: str, target: Path) -> str:
    return (
        f"Download {url} elsewhere and put it at {target}, or set MODEL.BACKBONE.PATH to a local weights file. "
        "The backbone `phantom` needs no download."
    )
