"""Whether two places of the same name hold the same data: those of `DATASET.PATH` count by their name alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def other_data(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between the data of two merged configs with one hash; "" if nothing is known to.

    A place that is gone was moved, and a copy has the same files: neither differs.
    """
    one, two = (str(cfg.get("DATASET", {}).get("PATH", "")) for cfg in (old, new))
    if not (one and two and os.path.exists(one) and os.path.exists(two)) or os.path.samefile(one, two):
        return ""
    if _files(Path(one)) == _files(Path(two)):
        return ""
    return f"DATASET.PATH: {one} there, {two} now, which has other files"


def _files(place: Path) -> dict[str, int] | bytes:
    """The content of a table; of a folder, the size of each file, without what is written there (JSON)."""
    if place.is_file():
        return place.read_bytes()
    paths = (Path(folder, name) for folder, _, names in os.walk(place) for name in names)
    return {str(path.relative_to(place)): _size(path) for path in paths if path.suffix != ".json"}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a broken link
        return -1
