"""Files and folders that are whole or absent, the locks of whoever writes them, and where derived files go.

What is being written has a temporary name, `.<name>.<8 characters>.tmp`, and whoever writes it holds the lock
`.<name>.lock` beside it. What is found under such a name while nobody holds the lock was left by a process that died.

Locks are the operating system's own, through `filelock`: they end with the process that holds them. What it leaves to
us: that a link is not followed to what is locked (`unlinked`), that a lock file may be removed (`held`), and what is
said of a disk without locks.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

with warnings.catch_warnings():  # that there are no locks here is said where it matters, by `unguarded`
    warnings.simplefilter("ignore")
    from filelock import lock_descriptor

logger = logging.getLogger(__name__)

TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp", re.DOTALL)
_SCHEMA = r'\{\s+"schema": \d'
# How the files begin that we write and may replace. What begins otherwise is somebody else's.
OURS = {
    "config.yaml": r"(?ms)(?=.*^OUTPUT_DIR:)(?=.*^TRAINER:)(?=.*^USE_CUDA:)(?=.*^VERSION:)",  # a merged config, whole
    "results.json": _SCHEMA,
    "predictions.csv": "image,patient,label,name,predicted,p_",
    "cmat.json": r"\[\[\d",
    "explanations.json": _SCHEMA,
    "report.html": r'<!DOCTYPE html>\s+<html lang="en">\s*<head>\s*<meta charset="utf-8">\s*<meta http-equiv="Content',
    "few-shot subset": _SCHEMA,
    "checkpoint": "PK|\ufffd[\\x02-\\x05]",  # a zip archive, or the pickle of torch before 1.6
}
# What the system answers where a file system has no locks; anything else is trouble.
WITHOUT = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
POLL = 0.05  # seconds between two looks at a lock that somebody else holds


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary name beside `path`, and moves what was written there into place.

    A process that dies half-way leaves `path` as it was: absent, or whole. The folder is made if it is missing, and
    holds the temporary name, too (a move across file systems would not be atomic). An OSError (a full or read-only
    disk) names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    with held(path.with_name(f".{path.name}.lock")):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, path)
        except OSError as error:
            if error.filename is not None or error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error  # "no space left": where?
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def staging(final: Path) -> Iterator[Path]:
    """A new folder to be filled, of one process at a time; gone at the end, with what is still in it.

    It is never made a second time: whoever finds it gone must fail. `final`, what is to be made of it, is not touched,
    but another process may have made it meanwhile.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    sweep(final.parent)
    with held(final.with_name(f".{final.name}.lock")):
        folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}.", suffix=".tmp"))
        try:
            folder.chmod(0o777 & ~_umask())  # mkdtemp makes it private
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def make_folder(final: Path, write: Callable[[Path], int]) -> None:
    """Makes a folder that is whole or absent: `write` fills one under another name, and says how many files it wrote.

    Raises:
        FileExistsError: `final` holds something.
        OSError: it cannot be written, or what was written is not all there.
    """
    with staging(final) as folder:
        _refuse_existing(final)
        require_whole(folder, write(folder))
        _refuse_existing(final)
        if final.exists():
            final.rmdir()
        os.rename(folder, final)


def require_whole(folder: Path, files: int) -> None:
    """Writes a folder's content to the disk; OSError if there are not as many files in it as were written."""
    found = sum(len(names) for _, _, names in os.walk(folder))
    if found != files:
        raise OSError(
            f"{folder}: {files:,} files were written, and {found:,} are there: something has removed some while it was "
            "filled; nothing is kept of it"
        )
    if hasattr(os, "sync"):
        os.sync()


def sweep(folder: Path) -> None:
    """Removes what processes that died while writing have left in a folder; what somebody holds stays."""
    with os.scandir(folder) as entries:
        left = [(Path(entry.path), match[1]) for entry in entries if (match := TEMPORARY.fullmatch(entry.name))]
    for path, name in left:
        with suppress(OSError), held(folder / f".{name}.lock", wait=False) as taken:
            if not taken:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def require_ours(*paths: Path, kind: str = "") -> None:
    """Raises FileExistsError for the first of these files that is not one that we wrote: it must not be replaced.

    What is absent or empty is free, a link is not. `kind` is a key of `OURS`; "" is the file's own name.
    """
    for path in paths:
        if not os.path.lexists(path):
            continue
        whole = path.is_file() and not path.is_symlink()
        text = path.read_bytes()[: 1 << 20].decode("utf-8", "replace") if whole else ""
        if not whole or (text and not re.match(OURS[kind or path.name], text)):
            what = "a link" if path.is_symlink() else "not written by xcoop"
            raise FileExistsError(f"{path} is {what}, and would be replaced: move it away, or name another folder")


def unused(path: Path) -> Path:
    """The path, or the first of `<path>.2`, `<path>.3`, ... that nothing has."""
    number, free = 1, path
    while os.path.lexists(free):
        number, free = number + 1, path.with_name(f"{path.name}.{number + 1}")
    return free


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path`; see `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` as UTF-8; see `atomic_path`."""
    atomic_write_bytes(path, text.encode("utf-8"))


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder itself if it is missing.

    A folder that grants writing to nobody counts as read-only, for root too: it was closed on purpose.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and bool(folder.stat().st_mode & 0o222)


def cache_dir() -> Path:
    """Where derived files go: `$XCOOP_CACHE`, else `$XDG_CACHE_HOME/xcoop`, else `~/.cache/xcoop`."""
    if own := os.environ.get("XCOOP_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "xcoop"


def take(handle: int, path: Path) -> bool | None:
    """Locks an open file for as long as it stays open.

    Returns:
        True; False if another process has it; None where there are no locks. (Better unguarded than not at all:
        whoever starts something says so, by `unguarded`.)

    Raises:
        OSError: it can be neither locked nor said to be locked; the message names it.
    """
    try:
        return lock_descriptor(handle, blocking=False)
    except OSError as error:
        if error.errno not in WITHOUT:
            raise OSError(error.errno, f"cannot be locked ({error.strerror})", str(path)) from error
    return None


def unlinked(path: str, flags: int) -> int:
    """An opener for `open` that does not follow a link, nor wait for the other end of a pipe: neither is ours to write.

    Raises:
        OSError: there is a link, a pipe or a device; the message names it.
    """
    try:
        if os.path.islink(path):
            raise OSError(errno.ELOOP, "")
        handle = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.ENXIO, "is no regular file, but a device or a pipe: remove it", path)
        return handle
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "is a link, and links are not followed for writing: remove it", path) from None


@contextmanager
def held(path: Path, wait: bool = True) -> Iterator[bool | None]:
    """Holds a lock file that is there only as long as somebody does.

    Yields what `take` answered; False, that another process has it, only without `wait`.
    """
    said = False
    while True:
        with open(path, "ab", opener=unlinked) as file:
            taken = take(file.fileno(), path)
            if taken is False and wait:
                if not said:
                    logger.info("another process holds %s; waiting for it", path)
                said = True
            elif taken is False:
                yield False
                return
            elif is_at(file.fileno(), path):
                try:
                    yield taken
                finally:
                    with suppress(OSError):
                        path.unlink()
                return
        if taken is False:
            time.sleep(POLL)


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file still has its name: another process may have moved it into place, or removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def unguarded(folder: Path) -> str:
    """That nothing keeps two processes out of a folder's runs, and what to do; "" where there are locks.

    The folder need not be there yet; nothing stays in it, or in what is above it.
    """
    place = folder.expanduser().absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            lock_descriptor(file.fileno(), blocking=False)
    except OSError as error:
        if error.errno in WITHOUT:
            return (
                f"{folder} lies on a disk without locks ({os.strerror(error.errno or 0)}): nothing keeps two processes "
                "out of one run. Start only one launcher at a time there; or use a disk with locks (--out, OUT or "
                "OUTPUT_DIR): a local one, NFS from version 3 on, Lustre mounted with -o flock"
            )
    return ""  # a folder that cannot be written is found out, and said, by whoever writes there


def _refuse_existing(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already; remove it, or name another folder")


def _umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
