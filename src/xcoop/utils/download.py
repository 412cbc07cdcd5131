"""Downloads that can be broken off: kept as `<name>.part`, taken up again, checked, and only then moved into place.

`pooch` begins anew whenever a connection is cut, and replaces a file of another hash that the user has put there;
`requests` loses up to a block of what came before the cut. With sets of gigabytes and hospital networks that is the
common case, so the standard library's client is used, and `gdown` for Google Drive alone (`xcoop.data.about`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from tqdm import tqdm

from xcoop.utils.files import POLL, atomic_write_text, is_at, take, unlinked
from xcoop.utils.reading import read_json
from xcoop.version import __version__

logger = logging.getLogger(__name__)

TRIES = 5  # in a row that bring next to nothing
WAIT = 1.0  # seconds before the second try; doubled for each further one
MAX_WAIT = 60.0  # seconds, whatever a server asks for
SECONDS = 30  # without a byte
BLOCK = PROGRESS = 1 << 20  # bytes: a try that brings as many is no failure
SCHEMES = ("https", "http")
PASSING = (408, 425, 429, 500, 502, 503, 504)  # states of a server that may be over soon
HASHES = {"sha256": "SHA-256", "md5": "MD5"}


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

    def text(self, message: str) -> str:
        """A message with the advice."""
        return f"{message}. {self.advice}" if self.advice else message


class WebError(ConnectionError):
    """A request that brought no file.

    Attributes:
        passing: whether another try may succeed.
        wait: seconds that the server asks to wait for; 0 if it does not.
    """

    def __init__(self, message: str, passing: bool, wait: float = 0.0) -> None:
        super().__init__(message)
        self.passing, self.wait = passing, wait


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
    if urlsplit(job.url).scheme.lower() not in SCHEMES or not urlsplit(job.url).hostname:
        raise ValueError(f"{job.url!r} is no http(s) address")
    job.target.parent.mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        with open(job.part, "ab", opener=unlinked) as file:
            while take(file.fileno(), job.part) is False:
                if not said:
                    logger.info("another process downloads %s; waiting for it", job.target)
                said = True
                time.sleep(POLL)
            if is_at(file.fileno(), job.part):
                return _complete(job, file)
        if job.target.is_file():  # another process has just made it
            return check(job.target, job)


def check(path: Path, job: Job) -> str:
    """The SHA-256 (hex) of a file that has the published size and checksum; ValueError if it has not."""
    size = path.stat().st_size
    if job.size and size != job.size:
        raise ValueError(job.text(f"{path} has {size:,} bytes, and {job.size:,} are published"))
    hashers = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for hasher in hashers.values():
                hasher.update(block)
    kind, _, expected = job.checksum.partition(":")
    if job.checksum and (found := hashers[kind].hexdigest()) != expected:
        what = f"the {HASHES[kind]} of what {job.url} gave"
        raise ValueError(job.text(f"{what} should be {expected}, and is {found}"))
    return hashers["sha256"].hexdigest()


def accept(job: Job) -> str:
    """Checks what has come and moves it into place. The SHA-256 (hex); ValueError if it is not what was published."""
    with job.part.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    # What servers send instead of an error.
    if start.startswith((b"<!doctype html", b"<html")) and job.target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(job.text(f"{job.url} gave a web page (a login, or a limit of downloads?) instead of a file"))
    found = check(job.part, job)
    os.replace(job.part, job.target)
    return found


def _complete(job: Job, file: BinaryIO) -> str:
    """Fills the part and moves it into place; what does not fit an earlier beginning is downloaded anew, once."""
    begun = file.seek(0, os.SEEK_END) > 0
    try:
        while True:
            try:
                _fill(job, file)
                return accept(job)
            except ValueError as error:
                file.truncate(0)
                if not begun:
                    raise
                begun = False
                logger.warning("%s; it was taken up from an earlier try, and is downloaded anew", error)
    finally:
        if not job.part.exists() or job.part.stat().st_size == 0:
            job.part.unlink(missing_ok=True)
            job.notes.unlink(missing_ok=True)


def _fill(job: Job, file: BinaryIO) -> None:
    """Writes the rest of the file, in as many tries as it takes."""
    failures = 0
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            _receive(job, file)
            return
        except WebError as error:
            failures = 1 if file.tell() - before >= PROGRESS else failures + 1
            if not error.passing or failures >= TRIES:
                raise ConnectionError(job.text(f"{job.url} cannot be downloaded ({error})")) from error
            wait = min(max(error.wait, WAIT * 2 ** (failures - 1)), MAX_WAIT)
            logger.warning("%s: %s; trying again in %.0f s", job.url, error, wait)
            time.sleep(wait)


def _receive(job: Job, file: BinaryIO) -> None:
    """One try, from the bytes on that there are.

    Bytes of an unknown state of the file are used only if a checksum will tell whether the parts fit.
    """
    try:
        notes = read_json(job.notes)
        validator = str(notes["validator"]) if notes["url"] == job.url else ""
    except (OSError, ValueError, LookupError, TypeError):
        validator = ""
    have = file.tell() if validator or job.checksum else 0
    with ask(job.url, have, validator) as answer:
        if job.size and answer.total and answer.total != job.size:
            raise ValueError(job.text(f"{job.url} gives {answer.total:,} bytes, and {job.size:,} are published"))
        needed, free = answer.total - answer.start, shutil.disk_usage(job.part.parent).free
        if needed > free:
            space = f"{job.part.parent} has {free:,} bytes free, and {job.target.name} needs {needed:,}"
            raise OSError(errno.ENOSPC, job.text(space))
        if answer.start == 0:
            file.truncate(0)
            atomic_write_text(job.notes, json.dumps({"url": job.url, "validator": answer.validator}))
        with _progress(job.target.name, answer.start, answer.total or job.size) as advance:
            for block in answer.blocks:
                _write(job, file, block)
                advance(len(block))
        os.fsync(file.fileno())


def _write(job: Job, file: BinaryIO, block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise OSError(error.errno, job.text(f"{job.part}: {error.strerror}; what has come is kept")) from error
    if job.size and file.tell() > job.size:
        raise ValueError(job.text(f"{job.url} gives more than the {job.size:,} bytes that are published"))


@contextmanager
def _progress(name: str, start: int, total: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal, else a line at each tenth (or at each 100 MB); gives what counts further bytes."""
    if sys.stderr.isatty():
        with tqdm(total=total or None, initial=start, unit="B", unit_scale=True, desc=name) as bar:
            yield bar.update
        return
    step = max(total // 10, 1) if total else 100_000_000
    done = start

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if done // step > before // step:
            share = f" ({done / total:.0%})" if total else ""
            logger.info("%s: %s of %s bytes%s", name, f"{done:,}", f"{total:,}" if total else "?", share)

    yield advance


@dataclass(frozen=True)
class Answer:
    """What a server gives.

    Attributes:
        start: where in the file the blocks begin, in bytes: as asked, or 0.
        total: bytes of the whole file; 0 if the server does not say.
        validator: names this state of the file (`If-Range`); empty if the server does not.
        blocks: the content from there on; ends in WebError if it is cut off.
    """

    start: int
    total: int
    validator: str
    blocks: Iterator[bytes]


@contextmanager
def ask(url: str, start: int = 0, validator: str = "") -> Iterator[Answer]:
    """The answer to a request for the file, or for its rest.

    Args:
        url: http(s); redirections to anything else, and from https to http, are refused.
        start: where to begin, in bytes. A server may disregard it: see `Answer.start`.
        validator: of the state that the first bytes are of; another state is sent whole.

    Raises:
        WebError: there is no answer, or none with the file.
    """
    headers = {"User-Agent": f"xcoop/{__version__}", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={start}-"} if start else {}
    headers |= {"If-Range": validator} if start and validator else {}
    try:
        reply = open_request(urllib.request.Request(url, headers=headers))  # noqa: S310 - `download` has checked it
    except HTTPError as error:
        error.close()
        if error.code != 416 or not start:
            asked = error.headers.get("Retry-After") or ""
            wait = float(asked) if asked.isdigit() else 0.0
            raise WebError(f"{error.code} {error.reason}", error.code in PASSING, wait) from error
        if _total(error.headers.get("Content-Range")) == start:  # nothing is left to be sent
            yield Answer(start, start, validator, iter(()))
        else:
            with ask(url) as whole:
                yield whole
        return
    except WebError:
        raise
    except (OSError, HTTPException) as error:
        raise WebError(_reason(error), passing=True) from error
    with reply:
        length, total = int(reply.headers.get("Content-Length") or 0), 0
        if reply.status == 206:
            place = reply.headers.get("Content-Range")
            begins, total = re.match(r"bytes (\d+)-", place or ""), _total(place)
            if not begins or int(begins[1]) != start:
                raise WebError(f"the server sent another part than the one from byte {start:,} on", passing=False)
        state = reply.headers.get("ETag") or ""
        if not state or state.startswith("W/"):  # a weak one does not promise equal bytes
            state = reply.headers.get("Last-Modified") or ""
        blocks = _blocks(reply, length)
        yield Answer(start, total, state, blocks) if reply.status == 206 else Answer(0, length, state, blocks)


def _blocks(reply: HTTPResponse, length: int) -> Iterator[bytes]:
    """The content. Failures of the network, and no others, become WebError."""
    done = 0
    while not length or done < length:
        try:
            block = reply.read1(min(BLOCK, length - done) if length else BLOCK)  # what has come by now
        except (OSError, HTTPException) as error:
            raise WebError(_reason(error), passing=True) from error
        if not block:
            break
        done += len(block)
        yield block
    if done < length:
        raise WebError(f"the connection ended after {done:,} of {length:,} bytes", passing=True)


def _total(content_range: str | None) -> int:
    match = re.search(r"/(\d+)\s*$", content_range or "")
    return int(match[1]) if match else 0


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__  # of an URLError: what it wraps


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections (ten at most, none in a circle) that stay with http(s), and with https once there."""

    def redirect_request(  # type: ignore[no-untyped-def]
        self, req, fp, code, msg, headers, newurl
    ) -> urllib.request.Request | None:
        """The next request; WebError if it must not be made."""
        new, old = urlsplit(newurl).scheme.lower(), urlsplit(req.full_url).scheme.lower()
        if new not in SCHEMES or (old == "https" and new != "https"):
            raise WebError(f"redirected from {req.full_url} to {newurl!r}, which is not followed", passing=False)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_request(request: urllib.request.Request) -> HTTPResponse:
    """Sends a request, through the environment's proxies; `download` and `_Redirects` let http(s) through alone."""
    reply: HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=SECONDS)
    return reply
