"""OpenAI's weights: downloaded once, checked, and kept where OpenAI's own loader keeps them."""

from __future__ import annotations

import logging
from pathlib import Path

from xcoop.backbones.clip_import import import_clip
from xcoop.utils.download import Job, download
from xcoop.utils.files import sha256_file

logger = logging.getLogger(__name__)

FOLDER = "~/.cache/clip"  # of OpenAI's loader too, so that what it has downloaded before is used


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

    A download that was broken off is gone on with; see `xcoop.utils.download`.

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
    download(Job(url, target, checksum=f"sha256:{expected}", advice=_by_hand(url, target)))
    return target


def _by_hand(url: str, target: Path) -> str:
    return (
        f"Download {url} elsewhere and put it at {target}, or set MODEL.BACKBONE.PATH to a local weights file. "
        "The backbone `phantom` needs no download."
    )
