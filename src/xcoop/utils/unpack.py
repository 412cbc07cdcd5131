"""Unpacking archives that somebody else made: inside their folder, whole or not at all, and over nothing."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from xcoop.utils.archive_limits import ArchiveError, Limits, refused
from xcoop.utils.files import require_whole, staging
from xcoop.utils.member_names import FOLDER, Names
from xcoop.utils.members import Member, members

logger = logging.getLogger(__name__)

DEFAULT = Limits()
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def unpack(archives: Sequence[Path], target: Path, limits: Limits = DEFAULT, join: bool = False) -> list[Path]:
    """Unpacks zip and tar files (.gz, .bz2, .xz) into one folder.

    They are unpacked under a temporary name and moved into place. Links, devices, owners, modes and times are not taken
    over: what comes out are plain files and folders of this user.

    Args:
        archives: the parts of one tree, which must not hold a name twice.
        target: the folder; its parents are made. It must be absent or empty.
        limits: how much each archive may hold.
        join: the target may hold other things; nothing at its top may have a name that an archive has at its top.

    Returns:
        What was made at the top of the target, sorted.

    Raises:
        FileExistsError: the target is not empty, or (`join`) holds such a name; nothing was changed.
        ArchiveError: an archive is damaged, or would write elsewhere, or too much; nothing was unpacked.
        OSError: the disk is full or must not be written to; nothing was unpacked.
    """
    target = Path(os.path.realpath(target))
    if not join and target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty, and nothing in it is overwritten: move it away, or name another")
    # On the file system of the target: beside it if it is to be made, within it if it is not empty.
    within = target.is_dir() and any(target.iterdir())
    with staging(target / "unpacking" if within else target) as folder:
        names = Names()
        require_whole(folder, sum(_unpack_one(archive, folder, names, limits) for archive in archives))
        return _move(folder, target)


def _unpack_one(archive: Path, folder: Path, names: Names, limits: Limits) -> int:
    """How many files were written."""
    logger.info("unpacking %s", archive)
    written = 0
    for member in tqdm(members(archive, limits), desc=archive.name, unit="file", disable=None, leave=False):
        try:
            parts = names.add(member.name, member.kind)
        except ValueError as error:
            raise refused(archive, member.name, str(error)) from error
        try:
            _write(member, folder, parts)
        except OSError as error:
            raise _disk_error(archive, member, error) from error
        written += member.kind != FOLDER
    if not written:
        raise ArchiveError(f"{archive} holds no files")
    return written


def _write(member: Member, folder: Path, parts: Sequence[str]) -> None:
    path = folder
    for part in parts if member.kind == FOLDER else parts[:-1]:
        path = path / part  # one by one: the staging folder itself must not come back if it has vanished
        path.mkdir(exist_ok=True)
    if member.kind == FOLDER:
        return
    path = path / parts[-1]
    with path.open("xb") as file:  # a name that is there, however it came there, is an error
        for block in member.blocks():
            file.write(block)


def _disk_error(archive: Path, member: Member, error: OSError) -> OSError:
    what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
    text = f"{archive}: {what} at the member {member.name!r} ({member.size:,} bytes); nothing was unpacked"
    return OSError(error.errno, text)


def _move(folder: Path, target: Path) -> list[Path]:
    names = sorted(os.listdir(folder))
    if not target.is_dir() or not any(target.iterdir()):
        folder.rename(target)  # an empty folder gives way
        return [target / name for name in names]
    present = {name.casefold() for name in os.listdir(target)}
    if clashes := [name for name in names if name.casefold() in present]:
        raise FileExistsError(f"{target} holds {', '.join(clashes)} already; nothing is overwritten: move it away")
    moved: list[Path] = []
    try:
        for name in names:
            (folder / name).rename(target / name)
            moved.append(target / name)
    except OSError:
        for path in moved:
            path.rename(folder / path.name)
        raise
    return moved
