"""The operating system's own locks (`flock`), which end with the process that holds them; and disks without any."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

# What `flock` answers where a file system has no locks; anything else is trouble.
WITHOUT = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def take(handle: int, path: Path) -> bool:
    """Locks an open file for as long as it stays open; False if another process has it.

    Where there are no locks, the answer is True: better unguarded than not at all. Whoever starts something says so,
    by `unguarded`.

    Args:
        handle: of the file, open for writing.
        path: its name, for the message.

    Raises:
        OSError: it can be neither locked nor said to be locked; the message names it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT:
            raise OSError(error.errno, f"cannot be locked ({error.strerror})", str(path)) from error
    return True


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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in WITHOUT:
            return (
                f"{folder} lies on a disk without locks ({os.strerror(error.errno or 0)}): nothing keeps two processes "
                "out of one run. Start only one launcher at a time there; or use a disk with locks (--out, OUT or "
                "OUTPUT_DIR): a local one, NFS from version 3 on, Lustre mounted with -o flock"
            )
    return ""  # a folder that cannot be written is found out, and said, by whoever writes there
