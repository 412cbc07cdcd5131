"""`xcoop table`: the results of a dataset, from the records of its runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from xcoop.results.benchmark import OWN_FOLDER, collect, own_sets
from xcoop.results.missing import of_rows
from xcoop.results.table import FORMATS, render
from xcoop.utils.console import UserError, complain, environment_defaults, names_like, numbers, say, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop table`."""
    defaults = environment_defaults()
    parser.description = (
        "Prints mean and standard deviation (ddof 1) over the seeds of everything that was run on a "
        "dataset, from the results.json files below the output root. Missing seeds are marked."
    )
    parser.add_argument(
        "dataset",
        help="its folder's name below the output root, e.g. phantom; of own "
        "images their label, by default the name of their folder",
    )
    parser.add_argument("shots", nargs="?", type=int, help="only these shots (and what uses none); default: all")
    parser.add_argument("--out", default=defaults["out"], help="the output root (default: $OUT, else output)")
    parser.add_argument("--seeds", default=defaults["seeds"], help='seeds that a row ought to have (default: "1 2 3")')
    parser.add_argument("--format", default="terminal", choices=FORMATS, help="default: terminal")


def run(arguments: argparse.Namespace) -> int:
    """Prints it; the exit code."""
    out = Path(arguments.out)
    folder = dataset_folder(out, arguments.dataset)
    rows = collect(folder, arguments.shots, numbers(arguments.seeds, "--seeds"))
    if not rows:
        raise UserError(f"{folder} holds no runs" + (f" with {arguments.shots} shots" if arguments.shots else ""))
    sys.stdout.write(render(rows, folder.name, arguments.format))
    if arguments.format == "terminal" and (missing := of_rows(folder.name, rows)):
        say("", "Missing:", *(f"  {gap.said}\n    {gap.command(arguments.out) or 'no command'}" for gap in missing))
    return 0


def dataset_folder(out: Path, name: str) -> Path:
    """`<OUT>/<dataset>`; own images, which lie below their labels, are found as `folder` where there is one such set.

    Raises:
        UserError: nothing was run on it, or `folder` could be several sets; the message names them.
    """
    if (out / name).is_dir():
        return out / name
    own = own_sets(out) if name == OWN_FOLDER else []
    if len(own) == 1:
        complain(f"note: the own images that were run below {out} are called {own[0]}")
        return out / own[0]
    if own:
        raise UserError(
            f"{name} is no single dataset: own images are known by their labels, and there are {', '.join(own)} below "
            f"{out}: name one of these"
        )
    near = names_like(name, [path.name for path in out.glob("*") if path.is_dir()])
    raise UserError(f"nothing was run on {shown(name)}: there is no folder {out / name}.{near}")
