"""A golden record: what every method predicts, one run's trust table, and one set of tables; held against later code.

    python benchmarks/golden.py make before [--data ../data]     # some minutes on two cores
    (change the code)
    python benchmarks/golden.py make after [--data ../data]
    python benchmarks/golden.py compare before after [--tolerance 1e-12]

Made are all methods at 4 and 16 shots, seed 1, on the phantom and, with `--data`, on the two public sets of chest
X-rays that lie there; explanations of one run; `xcoop results` of them all. Compared is every value, those of
predictions and of tables alike; times, versions, paths and hashes are left out. Exit code 1: something differs by more
than the tolerance.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SHOTS = "4 16"
REAL_SETS = "pneumonia,pneumoniamnist"
EXPLAINED = "phantom/XCoOp/phantom_16shots/seed1"
# What differs between two runs of the same code.
VOLATILE = {
    "checksum", "command", "commit", "config_hash", "created", "finished", "folder", "git", "hardware", "path",
    "peak_memory_mb", "run", "schema", "seconds", "started", "time", "versions",
}  # fmt: skip


def xcoop(*words: str) -> None:
    """Runs one command of this checkout; raises if it fails."""
    threads = {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, "-m", "xcoop.cli", *words], check=True, env=os.environ | threads)  # noqa: S603


def make(folder: Path, data: str) -> None:
    """Runs everything below `folder`; what is there already is kept, as `xcoop sweep` keeps it."""
    out = ("--out", str(folder))
    xcoop("sweep", "phantom", "all", SHOTS, "1", *out)
    if data:
        xcoop("sweep", REAL_SETS, "all", SHOTS, "1", "--cfg", "phantom", "--data", data, *out)
    xcoop("explain", str(folder / EXPLAINED), "--images", "5", "--asked", "20")
    xcoop("results", str(folder), "--seeds", "1", "--draws", "200", "--no-figures")


def values(folder: Path) -> dict[str, float | str]:
    """Each value of the record by its place: file, row or key path, column."""
    found: dict[str, float | str] = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.suffix == ".csv" and path.name in ("predictions.csv", "cells.csv", "comparisons.csv"):
            found |= {f"{place} {key}": value for key, value in _cells(path)}
        elif path.name in ("explanations.json", "results.json"):
            found |= {f"{place} {key}": value for key, value in _leaves(json.loads(path.read_text(encoding="utf-8")))}
    return found


def _cells(path: Path) -> Iterator[tuple[str, float | str]]:
    with path.open(newline="", encoding="utf-8") as file:
        for i, row in enumerate(csv.DictReader(file)):
            for column, cell in row.items():
                if not VOLATILE & set(column.split("_")) and column not in VOLATILE:
                    yield f"{i} {column}", _value(cell)


def _leaves(node: object, place: str = "") -> Iterator[tuple[str, float | str]]:
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in items:
            if key not in VOLATILE:
                yield from _leaves(child, f"{place}.{key}")
    elif isinstance(node, bool | str) or node is None:
        if not (isinstance(node, str) and (os.sep in node or len(node) > 2000)):  # paths and embedded images
            yield place, str(node)
    elif isinstance(node, int | float):
        yield place, float(node)


def _value(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def compare(before: Path, after: Path, tolerance: float) -> int:
    """Prints what differs, the largest difference first; returns the number of values beyond the tolerance."""
    old, new = values(before), values(after)
    differences: dict[str, float] = dict.fromkeys(old.keys() ^ new.keys(), math.inf)
    for key in old.keys() & new.keys():
        a, b = old[key], new[key]
        if a != b and not (a != a and b != b):  # NaN equals NaN
            differences[key] = abs(a - b) if isinstance(a, float) and isinstance(b, float) else math.inf
    beyond = {key: size for key, size in differences.items() if not size <= tolerance}
    for key in sorted(beyond, key=lambda key: (-beyond[key], key))[:40]:
        print(f"{beyond[key]:9.2g}  {key}: {str(old.get(key, 'absent'))[:40]} -> {str(new.get(key, 'absent'))[:40]}")
    largest = max((size for size in differences.values() if size <= tolerance), default=0.0)
    print(f"{len(old)} values before, {len(new)} after: {len(beyond)} differ; the others by {largest:.2g} at most")
    return len(beyond)


def main() -> int:
    """Makes a record, or compares two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "compare"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data", default="", help="where Pneumonia/ and pneumoniamnist.npz lie")
    parser.add_argument("--tolerance", type=float, default=0.0)
    args = parser.parse_args()
    if args.what == "make":
        for folder in args.folders:
            make(folder.absolute(), args.data and os.path.abspath(args.data))
        return 0
    if len(args.folders) != 2:
        parser.error("compare takes two folders")
    return min(compare(*args.folders, args.tolerance), 1)


if __name__ == "__main__":
    sys.exit(main())
