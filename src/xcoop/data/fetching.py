"""Bringing a dataset's published files below the data root, and comparing them with what is known of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from xcoop.data.about import RemoteFile
from xcoop.utils.download import Job, accept, check, download
from xcoop.utils.files import atomic_write_text, held
from xcoop.utils.unpack import unpack

logger = logging.getLogger(__name__)

DRIVE = "gdrive:"
DRIVE_PAGE = "https://drive.google.com/uc?id="


def fetch_all(files: Iterable[RemoteFile], root: Path) -> list[Path]:
    """Fetches files in order, then unpacks those that are archives; see `fetch` and `xcoop.utils.unpack`.

    Archives with one folder are unpacked together, whole or not at all. They are kept.

    Returns:
        What there is now: the files that stay, and what was made by unpacking.
    """
    made: list[Path] = []
    archives: dict[str, list[Path]] = {}
    for file in files:
        path = fetch(file, root)
        if file.unpack is None:
            made.append(path)
        else:
            archives.setdefault(file.unpack, []).append(path)
    for folder, paths in archives.items():
        made += unpack(paths, root / folder, join=True)
        logger.info("%s may be deleted now", ", ".join(map(str, paths)))
    return made


def fetch(file: RemoteFile, root: Path) -> Path:
    """One file below the data root, downloaded if it is not there.

    Raises:
        ValueError: what came, or what lies there, is not what was published or recorded.
        ConnectionError: it cannot be downloaded; the message says where it can be put by hand.
        OSError: the disk is full or must not be written to.
    """
    target = root / file.name
    identity = file.url.removeprefix(DRIVE) if file.url.startswith(DRIVE) else ""
    url = DRIVE_PAGE + identity if identity else file.url
    job = Job(url, target, file.size, file.checksum, f"Or get it by hand and put it at {target}")
    if target.is_file():
        try:
            found = check(target, job)
        except ValueError as error:
            raise ValueError(f"{error}. It is not overwritten: move it away to have it downloaded anew") from error
        logger.info("%s is there already", target)
    else:
        logger.info("downloading %s to %s", job.url, target)
        found = _from_drive(identity, job) if identity else download(job)
    if file.checksum:
        return target
    # Nothing is published to compare with: the first machine's SHA-256 is written down for the others.
    record = target.with_name(f"{target.name}.sha256")
    if record.is_file():
        expected = record.read_text(encoding="utf-8").split()[:1]
        if expected != [found]:
            raise ValueError(f"{target} has the SHA-256 {found}, and {record} recorded {' '.join(expected) or 'none'}")
    else:
        logger.warning("no checksum of %s is published; its SHA-256 is recorded in %s", target.name, record)
        atomic_write_text(record, f"{found}  {target.name}\n")
    return target


def _from_drive(identity: str, job: Job) -> str:
    """Through gdown, which answers Google's questions; the SHA-256 (hex). Others wait, and find the file."""
    import gdown

    job.target.parent.mkdir(parents=True, exist_ok=True)
    with held(job.target.with_name(f".{job.target.name}.lock")):
        if job.target.is_file():
            return check(job.target, job)
        try:
            if not job.part.exists():  # else it was whole, and only the check did not come to an end
                gdown.download(id=identity, output=str(job.part), quiet=not sys.stderr.isatty(), resume=True)
            if not job.part.is_file():
                raise ConnectionError("nothing came")
        except Exception as error:  # gdown and requests have errors of their own, some of them OSErrors
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ConnectionError(f"{job.url} cannot be downloaded ({error}). {job.advice}") from error
        try:
            return accept(job)
        except ValueError:
            job.part.unlink(missing_ok=True)
            raise
