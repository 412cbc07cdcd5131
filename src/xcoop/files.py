"""Files that are whole or absent: writing, hashing, and where derived files go."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_INFLATED = 4  # times its own size that an archive of weights may unpack to; torch.save does not compress


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary name beside `path`, and moves what was written there into place.

    A process that dies half-way leaves `path` as it was: absent, or whole.

    Args:
        path: the final file name; its folder is made if it is missing.

    Yields:
        The temporary name, in the same folder (a move across file systems would not be atomic).

    Raises:
        OSError: it cannot be written (a full or read-only disk); the message names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # "no space left": where?
    finally:
        temporary.unlink(missing_ok=True)


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


def check_inflated_size(path: str | os.PathLike[str]) -> None:
    """Refuses a zip archive that would unpack to far more than it holds, before anything of it is unpacked.

    Raises:
        ValueError: it would, or its list of contents is damaged; the message does not name the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            inflated = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"a damaged zip archive ({error})") from error
    size = os.path.getsize(path)
    if inflated > MOST_INFLATED * size + (1 << 20):
        raise ValueError(f"its {size:,} bytes would unpack to {inflated:,}: weights are not compressed like this")


def cache_dir() -> Path:
    """Where derived files go: `$XCOOP_CACHE`, else `$XDG_CACHE_HOME/xcoop`, else `~/.cache/xcoop`."""
    if own := os.environ.get("XCOOP_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "xcoop"


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    """The process's umask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
