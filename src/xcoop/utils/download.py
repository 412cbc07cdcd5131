"""Downloads that can be broken off: kept as `<name>.part`, taken up again, checked, and only then moved into place."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xcoop.utils.files import atomic_write_text
from xcoop.utils.locks import POLL, is_at, take, unlinked
from xcoop.utils.progress import progress
from xcoop.utils.reading import read_json
from xcoop.utils.web import WebError, ask, check_address

logger = logging.getLogger(__name__)

TRIES = 5  # in a row that bring next to nothing
WAIT = 1.0  # seconds before the second try; doubled for each further one
MAX_WAIT = 60.0  # seconds, whatever a server asks for
PROGRESS = 1 << 20  # bytes: a try that brings as many is no failure


@dataclass(frozen=True)
class Job:
    """One file to download.

    Attributes:
        url: an http(s) address.
        target: the file to make; its folder is made.
        size: published number of bytes; 0 if it is not known.
        checksum: published, as `sha256:<hex>` or `md5:<hex>`; empty if it is not known.
        advice: what can be done instead; ends every error.
    """

    url: str
    target: Path
    size: int = 0
    checksum: str = ""
    advice: str = ""

    @property
    def part(self) -> Path:
        """What has come so far."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def notes(self) -> Path:
        """Which state of the file the part is of."""
        return self.target.with_name(f"{self.target.name}.part.json")


def download(job: Job) -> str:
    """Downloads a file, or its rest if it was begun before; a file that is there is replaced.

    Of several processes one downloads, and the others wait for it.

    Returns:
        The SHA-256 of the file (hex).

    Raises:
        ValueError: the address is not http(s), or what came is not what was published; nothing is kept.
        ConnectionError: it cannot be had, or not now; what has come is kept for the next try.
        OSError: the disk is full or must not be written to; what has come is kept.
    """
    check_address(job.url)
    job.target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(job.part, "ab", opener=unlinked) as file:
            _wait_for_others(file, job)
            if is_at(file.fileno(), job.part):
                return _complete(job, file)
        if job.target.is_file():  # another process has just made it
            return check(job.target, job)


def check(path: Path, job: Job) -> str:
    """The SHA-256 (hex) of a file that has the published size and checksum; ValueError if it has not."""
    size = path.stat().st_size
    if job.size and size != job.size:
        raise ValueError(_text(job, f"{path} has {size:,} bytes, and {job.size:,} are published"))
    kind, _, expected = job.checksum.partition(":")
    found = digests(path)
    if job.checksum and found[kind] != expected:
        raise ValueError(
            _text(job, f"the {_proper(kind)} of what {job.url} gave should be {expected}, and is {found[kind]}")
        )
    return found["sha256"]


def digests(path: Path) -> dict[str, str]:
    """SHA-256 and MD5 (hex) of a file, as `sha256` and `md5`."""
    hashers = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for hasher in hashers.values():
                hasher.update(block)
    return {kind: hasher.hexdigest() for kind, hasher in hashers.items()}


def accept(job: Job) -> str:
    """Checks what has come and moves it into place. The SHA-256 (hex); ValueError if it is not what was published."""
    refuse_page(job.part, job)
    found = check(job.part, job)
    os.replace(job.part, job.target)
    return found


def refuse_page(path: Path, job: Job) -> None:
    """ValueError for a web page in place of a file: what servers send instead of an error."""
    with path.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")) and job.target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(_text(job, f"{job.url} gave a web page (a login, or a limit of downloads?) instead of a file"))


def _complete(job: Job, file: BinaryIO) -> str:
    begun = file.seek(0, os.SEEK_END) > 0
    try:
        return _attempt(job, file)
    except ValueError as error:
        if not begun:
            raise
        logger.warning("%s; it was taken up from an earlier try, and is downloaded anew", error)
        return _attempt(job, file)
    finally:
        if not job.part.exists() or job.part.stat().st_size == 0:
            job.part.unlink(missing_ok=True)
            job.notes.unlink(missing_ok=True)


def _attempt(job: Job, file: BinaryIO) -> str:
    try:
        _fill(job, file)
        return accept(job)
    except ValueError:
        file.truncate(0)
        raise


def _fill(job: Job, file: BinaryIO) -> None:
    """Writes the rest of the file, in as many tries as it takes."""
    failures = 0
    while True:
        before = file.tell()
        try:
            _receive(job, file)
            return
        except WebError as error:
            failures = 1 if file.tell() - before >= PROGRESS else failures + 1
            if not error.passing or failures >= TRIES:
                raise ConnectionError(_text(job, f"{job.url} cannot be downloaded ({error})")) from error
            wait = min(max(error.wait, WAIT * 2 ** (failures - 1)), MAX_WAIT)
            logger.warning("%s: %s; trying again in %.0f s", job.url, error, wait)
            time.sleep(wait)


def _receive(job: Job, file: BinaryIO) -> None:
    """One try."""
    have, validator = _state(job, file)
    with ask(job.url, have, validator) as answer:
        if job.size and answer.total and answer.total != job.size:
            raise ValueError(_text(job, f"{job.url} gives {answer.total:,} bytes, and {job.size:,} are published"))
        _require_space(job, answer.total - answer.start)
        if answer.start == 0:
            file.truncate(0)
            atomic_write_text(job.notes, json.dumps({"url": job.url, "validator": answer.validator}))
        with progress(job.target.name, answer.start, answer.total or job.size) as advance:
            for block in answer.blocks:
                _write(job, file, block)
                advance(len(block))
        os.fsync(file.fileno())


def _state(job: Job, file: BinaryIO) -> tuple[int, str]:
    """How many bytes there are to go on from, and of which state of the file.

    Bytes of an unknown state are used only if a checksum will tell whether the parts fit.
    """
    have = file.seek(0, os.SEEK_END)
    try:
        notes = read_json(job.notes)
        validator = str(notes["validator"]) if notes["url"] == job.url else ""
    except (OSError, ValueError, LookupError, TypeError):
        validator = ""
    return (have, validator) if validator or job.checksum else (0, "")


def _write(job: Job, file: BinaryIO, block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise OSError(error.errno, _text(job, f"{job.part}: {error.strerror}; what has come is kept")) from error
    if job.size and file.tell() > job.size:
        raise ValueError(_text(job, f"{job.url} gives more than the {job.size:,} bytes that are published"))


def _require_space(job: Job, needed: int) -> None:
    free = shutil.disk_usage(job.part.parent).free
    if needed > free:
        text = f"{job.part.parent} has {free:,} bytes free, and {job.target.name} needs {needed:,}"
        raise OSError(errno.ENOSPC, _text(job, text))


def _wait_for_others(file: BinaryIO, job: Job) -> None:
    said = False
    while take(file.fileno(), job.part) is False:
        if not said:
            logger.info("another process downloads %s; waiting for it", job.target)
        said = True
        time.sleep(POLL)


def _text(job: Job, message: str) -> str:
    return f"{message}. {job.advice}" if job.advice else message


def _proper(kind: str) -> str:
    return {"sha256": "SHA-256", "md5": "MD5"}[kind]
