"""Reads every picture of a dataset once: its content hash, and whether it can be decoded.

Both take a full read, so the answers are kept below `cache_dir()` and asked again only for files whose size or
modification time has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from tqdm import tqdm

from xcoop.data.images import reason_unreadable
from xcoop.data.items import DatasetError
from xcoop.files import atomic_write_text, cache_dir
from xcoop.reading import read_json
from xcoop.sharing import fact

logger = logging.getLogger(__name__)

MAX_NAMED = 200  # beyond that the fault is not in single files


@dataclass(frozen=True)
class Finding:
    """What is known of one file.

    Attributes:
        size: bytes.
        mtime: last modification, in ns.
        sha256: of the content, hex; empty if the file cannot be opened.
        reason: why the picture cannot be read; empty if it can.
    """

    size: int
    mtime: int
    sha256: str
    reason: str


def survey(folder: Path, paths: Iterable[str]) -> dict[str, Finding]:
    """What is known of each picture, looked up or found out.

    Args:
        folder: of the dataset.
        paths: of the pictures, relative to it.
    """
    wanted = list(dict.fromkeys(paths))
    known = dict(_known(folder))
    new = [path for path in wanted if not _is_current(known.get(path), folder / path)]
    if new:
        logger.info("reading %d images of %s once, for their hashes and faults", len(new), folder)
        try:
            known |= _read_all(folder, new)
        finally:
            _store(folder, known)
    return {path: known[path] for path in wanted}


def refuse_unreadable(folder: Path, findings: Mapping[str, Finding]) -> None:
    """Raises one DatasetError that names the pictures that cannot be read, and why (the first `MAX_NAMED`)."""
    bad = [f"  {folder / path}: {finding.reason}" for path, finding in sorted(findings.items()) if finding.reason]
    if bad:
        more = [f"  ... and {len(bad) - MAX_NAMED} more"] if len(bad) > MAX_NAMED else []
        head = f"{len(bad)} of {len(findings)} images cannot be read:"
        raise DatasetError("\n".join([head, *bad[:MAX_NAMED], *more]))


def _read_all(folder: Path, paths: list[str]) -> dict[str, Finding]:
    # Decoders release the interpreter lock: threads use all cores without the cost of processes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        findings = pool.map(_read, [folder / path for path in paths])
        bar = tqdm(findings, total=len(paths), desc="checking images", unit="image", disable=None, leave=False)
        return dict(zip(paths, bar, strict=True))


def _read(path: Path) -> Finding:
    try:
        stat, data = path.stat(), path.read_bytes()
    except OSError as error:
        return Finding(0, 0, "", error.strerror or type(error).__name__)
    return Finding(stat.st_size, stat.st_mtime_ns, hashlib.sha256(data).hexdigest(), reason_unreadable(path, data))


def _is_current(finding: Finding | None, path: Path) -> bool:
    try:
        stat = path.stat()
    except OSError:
        return False
    if finding is None or finding.reason:  # a fault may have been the machine's: it is looked at again
        return False
    return (finding.size, finding.mtime) == (stat.st_size, stat.st_mtime_ns)


def _store_path(folder: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    return cache_dir() / "surveys" / f"{key}.json"


def _known(folder: Path) -> dict[str, Finding]:
    """The stored findings; runs that share a process read the same file once."""
    path = _store_path(folder)
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    return fact(("survey", path, stamp), lambda: _load(folder))


def _load(folder: Path) -> dict[str, Finding]:
    """The stored findings; none if there are none or the file is damaged (they can be found out again)."""
    try:
        stored = read_json(_store_path(folder))
        return {path: _finding(row) for path, row in stored["files"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        logger.warning("%s is damaged and made anew (%s)", _store_path(folder), error)
        return {}


def _finding(row: list[object]) -> Finding:
    size, mtime, sha256, reason = row
    if not (isinstance(size, int) and isinstance(mtime, int) and isinstance(sha256, str) and isinstance(reason, str)):
        raise TypeError(f"{row!r} is no finding")
    return Finding(size, mtime, sha256, reason)


def _store(folder: Path, findings: Mapping[str, Finding]) -> None:
    rows = {path: astuple(finding) for path, finding in sorted(findings.items())}
    try:
        atomic_write_text(_store_path(folder), json.dumps({"folder": str(folder), "files": rows}, indent=0))
    except OSError as error:
        logger.warning("the findings on %s cannot be kept, and will be found out again (%s)", folder, error)
