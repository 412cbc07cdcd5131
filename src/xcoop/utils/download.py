"""Downloads that can be broken off: kept as `<name>.part`, taken up again, checked, and only then moved into place.

`pooch` begins anew whenever a connection is cut, and replaces a file of another hash that the user has put there;
`requests` loses up to a block of what came before the cut. With sets of gigabytes and hospital networks that is the
common case, so the standard library's client is used, and `gdown` for Google Drive alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from tqdm import tqdm

from xcoop.utils.files import atomic_write_text, held, unlinked
from xcoop.utils.reading import read_json
from xcoop.version import __version__

logger = logging.getLogger(__name__)

DRIVE = "https://drive.google.com/uc?id="  # begins the address of what gdown fetches
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
    """A request that brought no file, or not all of it.

    Attributes:
        passing: whether another try may succeed.
        wait: seconds that the server asks to wait for; 0 if it does not.
    """

    def __init__(self, message: str, passing: bool, wait: float = 0.0) -> None:
        super().__init__(message)
        self.passing, self.wait = passing, wait


def download(job: Job) -> str:
    """Downloads a file, or its rest if it was begun before; one that is there and is none of that is replaced.

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
    with held(job.target.with_name(f".{job.target.name}.lock")):
        if job.target.is_file():  # another process has just made it, or it is damaged
            with suppress(ValueError):
                return check(job.target, job)
        return _from_drive(job) if job.url.startswith(DRIVE) else _from_web(job)


def check(path: Path, job: Job) -> str:
    """The SHA-256 (hex) of a file that has the published size and checksum; ValueError if it has not."""
    size = path.stat().st_size
    if job.size and size != job.size:
        raise ValueError(job.text(f"{path} has {size:,} bytes, and {job.size:,} are published"))
    hashers = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            for hasher in hashers.values():
                hasher.update(block)
    kind, _, expected = job.checksum.partition(":")
    if job.checksum and (found := hashers[kind].hexdigest()) != expected:
        what = f"the {HASHES[kind]} of what {job.url} gave"
        raise ValueError(job.text(f"{what} should be {expected}, and is {found}"))
    return hashers["sha256"].hexdigest()


def _accept(job: Job) -> str:
    """Checks what has come and moves it into place. The SHA-256 (hex); ValueError if it is not what was published."""
    with job.part.open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    # What servers send instead of an error.
    if start.startswith((b"<!doctype html", b"<html")) and job.target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(job.text(f"{job.url} gave a web page (a login, or a limit of downloads?) instead of a file"))
    found = check(job.part, job)
    os.replace(job.part, job.target)
    return found


def _from_drive(job: Job) -> str:
    """Through gdown, which answers Google's questions."""
    import gdown

    try:
        if not job.part.exists():  # else it was whole, and only the check did not come to an end
            identity, quiet = job.url.removeprefix(DRIVE), not sys.stderr.isatty()
            gdown.download(id=identity, output=str(job.part), quiet=quiet, resume=True)
        if not job.part.is_file():
            raise ConnectionError("nothing came")
    except Exception as error:  # gdown and requests have errors of their own, some of them OSErrors
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ConnectionError(job.text(f"{job.url} cannot be downloaded ({error})")) from error
    try:
        return _accept(job)
    except ValueError:
        job.part.unlink()
        raise


def _from_web(job: Job) -> str:
    """Fills the part and moves it into place; what does not fit an earlier beginning is downloaded anew, once."""
    with open(job.part, "ab", opener=unlinked) as file:
        begun = file.tell() > 0
        try:
            while True:
                try:
                    _fill(job, file)
                    return _accept(job)
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
            # Nothing has come, and nobody knows the server's name: there is no network, and waiting will not bring one.
            alone = not file.tell() and isinstance(getattr(error.__cause__, "reason", None), socket.gaierror)
            failures = 1 if file.tell() - before >= PROGRESS else failures + 1
            if not error.passing or alone or failures >= TRIES:
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
    have = file.seek(0, os.SEEK_END) if validator or job.checksum else 0
    headers = {"User-Agent": f"xcoop/{__version__}", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={have}-"} if have else {}
    headers |= {"If-Range": validator} if have and validator else {}  # another state is sent whole
    reply = _answer(job.url, headers)
    if reply.status == 416:  # nothing lies beyond what there is: it is the whole file, or of another one
        reply.close()
        if _total(reply) != have:
            file.truncate(0)
            _receive(job, file)
        return
    with reply:
        start, length = 0, int(reply.headers.get("Content-Length") or 0)
        total = length
        if reply.status == 206:
            start, total = have, _total(reply)
            if not (reply.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
                raise WebError(f"the server sent another part than the one from byte {have:,} on", passing=False)
        if job.size and total and total != job.size:
            raise ValueError(job.text(f"{job.url} gives {total:,} bytes, and {job.size:,} are published"))
        needed, free = total - start, shutil.disk_usage(job.part.parent).free
        if needed > free:
            space = f"{job.part.parent} has {free:,} bytes free, and {job.target.name} needs {needed:,}"
            raise OSError(errno.ENOSPC, job.text(space))
        if start == 0:
            file.truncate(0)
            state = reply.headers.get("ETag") or ""
            if not state or state.startswith("W/"):  # a weak one does not promise equal bytes
                state = reply.headers.get("Last-Modified") or ""
            atomic_write_text(job.notes, json.dumps({"url": job.url, "validator": state}))
        with _progress(job.target.name, start, total or job.size) as advance:
            for block in _blocks(reply, length):
                _write(job, file, block)
                advance(len(block))
        os.fsync(file.fileno())


def _answer(url: str, headers: dict[str, str]) -> HTTPResponse:
    """The answer to a request, through the environment's proxies; WebError if it is none with the file.

    That nothing lies beyond what was asked for (416) is an answer, too.
    """
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - `download` and `_Redirects` check it
        reply: HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=SECONDS)
    except HTTPError as error:
        if error.code == 416 and "Range" in headers:
            return error  # type: ignore[return-value]  # it is an answer, too
        error.close()
        asked = error.headers.get("Retry-After") or ""
        wait = float(asked) if asked.isdigit() else 0.0
        raise WebError(f"{error.code} {error.reason}", error.code in PASSING, wait) from error
    except WebError:
        raise
    except (OSError, HTTPException) as error:
        raise WebError(_reason(error), passing=True) from error
    return reply


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


def _total(reply: HTTPResponse) -> int:
    """Bytes of the whole file; 0 if the server does not say."""
    match = re.search(r"/(\d+)\s*$", reply.headers.get("Content-Range") or "")
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
