"""`xcoop table`: the results of a dataset, from the records of its runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from xcoop.results.benchmark import collect
from xcoop.results.table import FORMATS, render
from xcoop.utils.console import UserError, environment_defaults, names_like, numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop table`."""
    defaults = environment_defaults()
    parser.description = (
        "Prints mean and standard deviation (ddof 1) over the seeds of everything that was run on a "
        "dataset, from the results.json files below the output root. Missing seeds are marked."
    )
    parser.add_argument("dataset", help="its folder's name below the output root, e.g. phantom")
    parser.add_argument("shots", nargs="?", type=int, help="only these shots (and what uses none); default: all")
    parser.add_argument("--out", default=defaults["out"], help="the output root (default: $OUT, else output)")
    parser.add_argument("--seeds", default=defaults["seeds"], help='seeds that a row ought to have (default: "1 2 3")')
    parser.add_argument("--format", default="terminal", choices=FORMATS, help="default: terminal")


def run(arguments: argparse.Namespace) -> int:
    """Prints it; the exit code."""
    out = Path(arguments.out)
    folder = out / arguments.dataset
    if not folder.is_dir():
        near = names_like(arguments.dataset, [path.name for path in out.glob("*") if path.is_dir()])
        raise UserError(f"nothing was run on {arguments.dataset!r}: there is no folder {folder}.{near}")
    rows = collect(folder, arguments.shots, numbers(arguments.seeds, "--seeds"))
    if not rows:
        raise UserError(f"{folder} holds no runs" + (f" with {arguments.shots} shots" if arguments.shots else ""))
    sys.stdout.write(render(rows, arguments.dataset, arguments.format))
    return 0
