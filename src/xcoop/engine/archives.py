"""Unpacking archives that somebody else made, so that nothing lands outside their folder."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path


def unpack(archive: str) -> None:
    """Unpacks a zip or tar file into its own folder.

    Raises:
        ValueError: it is neither, or holds a path or link that leads outside; nothing of a zip is then unpacked.
    """
    folder = Path(archive).resolve().parent
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        else:
            raise ValueError(f"{archive} is neither a zip nor a tar file")
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}") from error


def _unpack_zip(archive: str, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if not (folder / name).resolve().is_relative_to(folder):
                raise ValueError(f"{archive} holds {name!r}, which leads outside of {folder}")
        file.extractall(folder)  # noqa: S202 (checked above)
