"""The operating system's own locks, through `filelock`; they end with the process that holds them. Disks without any.

`filelock` locks an open file by its handle on every system. What it leaves to us: that a link is not followed to what
is locked (`unlinked`), that a lock file may be removed (`held`), and what is said of a disk without locks.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

with warnings.catch_warnings():  # that there are no locks here is said where it matters, by `unguarded`
    warnings.simplefilter("ignore")
    from filelock import lock_descriptor

logger = logging.getLogger(__name__)

# What the system answers where a file system has no locks; anything else is trouble.
WITHOUT = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
POLL = 0.05  # seconds between two looks at a lock that somebody else holds


def take(handle: int, path: Path) -> bool | None:
    """Locks an open file for as long as it stays open.

    Args:
        handle: of the file, open for writing.
        path: its name, for the message.

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

    Args:
        path: made if it is missing, and removed at the end; its folder is there.
        wait: for the process that has it.

    Yields:
        What `take` answered; False only where it is not waited for.
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

    Args:
        folder: it need not be there yet; nothing stays in it, or in what is above it.
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
