"""Reads every image of a dataset once: whether it can be decoded, and whether another has the same pixels.

Equal images are equal in what a model sees of them: upright, as 8-bit RGB (see `xcoop.utils.images`), whatever the
format, the metadata and the turn of the file. An image that was compressed anew has other pixels, and is another. Only
images whose sides another one has are decoded in full, the others at the coarsest scale.

Both take a full read, so the answers are kept below `cache_dir()` and asked again only for files whose size or
modification time has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from tqdm import tqdm

from xcoop.utils.console import DatasetError
from xcoop.utils.files import atomic_write_text, cache_dir
from xcoop.utils.images import READER, header, pixel_hash, reason_unreadable
from xcoop.utils.process_cache import fact
from xcoop.utils.reading import read_json

logger = logging.getLogger(__name__)

MAX_NAMED = 200  # beyond that the fault is not in single files


@dataclass(frozen=True)
class Finding:
    """What is known of one file.

    Attributes:
        size: bytes.
        mtime: last modification, in ns.
        sides: in pixels, the shorter first (a turn swaps them); empty if the image cannot be read.
        content: SHA-256 (hex) of the upright pixels; empty if no other image had its sides.
        reason: why the image cannot be read; empty if it can.
    """

    size: int
    mtime: int
    sides: str
    content: str
    reason: str


def survey(folder: Path, paths: Iterable[str]) -> dict[str, Finding]:
    """What is known of each image, looked up or found out.

    Args:
        folder: of the dataset.
        paths: of the images, relative to it.
    """
    wanted = list(dict.fromkeys(paths))
    known = dict(_known(folder))
    current = {path: known[path] for path in wanted if _is_current(known.get(path), folder / path)}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        new = [path for path in wanted if path not in current]
        sides = {path: found.sides for path, found in current.items()}
        sides |= zip(new, pool.map(_sides, [folder / path for path in new]), strict=True)
        often = Counter(sides.values())
        decode = {path: often[sides[path]] > 1 and not (path in current and current[path].content) for path in wanted}
        read = [path for path in wanted if decode[path] or path not in current]
        if read:
            logger.info("reading %d images of %s once, for their faults and what they share", len(read), folder)
            try:
                # Decoders release the interpreter lock: threads use all cores without the cost of processes.
                found = pool.map(lambda path: _read(folder / path, sides[path], decode[path]), read)
                bar = tqdm(found, total=len(read), desc="checking images", unit="image", disable=None, leave=False)
                known |= zip(read, bar, strict=True)
            finally:
                _store(folder, known)
    return {path: known[path] for path in wanted}


def refuse_unreadable(folder: Path, findings: Mapping[str, Finding]) -> None:
    """Raises one DatasetError that names the images that cannot be read, and why (the first `MAX_NAMED`)."""
    bad = [f"  {folder / path}: {finding.reason}" for path, finding in sorted(findings.items()) if finding.reason]
    if bad:
        more = [f"  ... and {len(bad) - MAX_NAMED} more"] if len(bad) > MAX_NAMED else []
        head = f"{len(bad)} of {len(findings)} images cannot be read:"
        raise DatasetError("\n".join([head, *bad[:MAX_NAMED], *more]))


def _sides(path: Path) -> str:
    found = header(path)
    return "" if found is None else "x".join(map(str, sorted(found[:2])))


def _read(path: Path, sides: str, decode: bool) -> Finding:
    try:
        stat, data = path.stat(), path.read_bytes()
    except OSError as error:
        return Finding(0, 0, "", "", error.strerror or type(error).__name__)
    content, reason = pixel_hash(path, data) if decode and sides else ("", reason_unreadable(path, data))
    return Finding(stat.st_size, stat.st_mtime_ns, sides, content, reason)


def _is_current(finding: Finding | None, path: Path) -> bool:
    try:
        stat = path.stat()
    except OSError:
        return False
    if finding is None or finding.reason:  # a fault may have been the machine's: it is looked at again
        return False
    return (finding.size, finding.mtime) == (stat.st_size, stat.st_mtime_ns)


def _store_path(folder: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.realpath(folder)) + READER.encode()).hexdigest()[:16]
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
        if stored.get("sha256") != _sha256(stored["files"]):
            raise ValueError("its findings are not those that were written")
        if any([type(value) for value in row] != [int, int, str, str, str] for row in stored["files"].values()):
            raise TypeError("a row is no finding")
        return {path: Finding(*row) for path, row in stored["files"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        logger.warning("%s is damaged and made anew (%s)", _store_path(folder), error)
        return {}


def _sha256(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _store(folder: Path, findings: Mapping[str, Finding]) -> None:
    rows = {path: astuple(finding) for path, finding in sorted(findings.items())}
    try:
        content = {"folder": str(folder), "sha256": _sha256(rows), "files": rows}
        atomic_write_text(_store_path(folder), json.dumps(content, indent=0))
    except OSError as error:
        logger.warning("the findings on %s cannot be kept, and will be found out again (%s)", folder, error)
