"""`xcoop results`: the tables and curves of a paper, from the records of finished runs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from xcoop.commands.table import dataset_folder
from xcoop.evaluation.statistics import DRAWS
from xcoop.runs.plan import RESULTS_FOLDER as FOLDER
from xcoop.utils.console import FAILED, UserError, complain, environment_defaults, names_like, numbers, say

MEASURES = ("accuracy", "macro_auc", "ece")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop results`."""
    defaults = environment_defaults()
    parser.description = (
        "Makes tables (text, Markdown, LaTeX, CSV), curves (PNG, PDF) and one self-contained page of the "
        "runs below an output root. Missing and damaged runs are marked and never averaged over. Nothing outside "
        "--to is changed."
    )
    parser.epilog = "Exit code 1: records were damaged (they are named; everything else is made all the same)."
    parser.add_argument("out", nargs="?", default=defaults["out"], help="the output root (default: $OUT, else output)")
    parser.add_argument("--to", default="", help=f"folder of the files (default: {FOLDER}/ below the output root)")
    parser.add_argument("--datasets", nargs="+", default=[], metavar="D", help="folders below it (default: all)")
    parser.add_argument("--metrics", nargs="+", default=list(MEASURES), metavar="M", help="of the tables; the first is "
                     "compared (default: %(default)s)")  # fmt: skip
    parser.add_argument("--reference", default="XCoOp", help="the trainer that others are compared with "
                     "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--seeds", default=defaults["seeds"], help='seeds that a cell ought to have (default: "1 2 3")')
    parser.add_argument(
        "--draws",
        type=int,
        default=DRAWS,
        help="of the bootstrap behind every interval and test (default: %(default)s)",
    )
    parser.add_argument("--no-figures", action="store_true", help="tables only")


def run(arguments: argparse.Namespace) -> int:
    """Makes and writes everything, and prints the tables; the exit code."""
    from xcoop.results.benchmark import gather, ordered
    from xcoop.results.compare import measure
    from xcoop.results.report import MISSING, PAGE, Wanted, publish, report
    from xcoop.results.table import terminal

    out, seeds = Path(arguments.out), numbers(arguments.seeds, "--seeds")
    measures = tuple(dict.fromkeys(map(measure, arguments.metrics)))
    _check(arguments, out)
    benchmark = gather(out, seeds, [dataset_folder(out, name).name for name in arguments.datasets])
    methods = ordered(benchmark.groups)
    _check_reference(arguments.reference, {method.trainer for method in methods})
    wanted = Wanted(measures, arguments.reference, not arguments.no_figures, arguments.draws)
    found = report(benchmark, wanted, complain)
    folder = Path(arguments.to) if arguments.to else out / FOLDER
    runs = sum(len(group.runs) for group in benchmark.groups)
    intro = [
        f"{runs} finished runs of {len(methods)} methods.",
        f"Behind each interval and test: {found.draws} draws of the bootstrap (--draws).",
    ]
    files = publish(found, folder, intro)
    say(*(terminal(sheet) for sheet in found.sheets if not sheet.minor))
    if found.gaps:
        say("Missing:", *(f"  {gap.said}" for gap in found.gaps))
        if (folder / MISSING) in files:
            say(f"Run it: bash {shlex.quote(str(folder / MISSING))}")
        say("")
    say(*intro, f"{len(files)} files: {folder / PAGE}, {folder / 'cells.csv'}, tables/ and figures/ beside them.")
    for line in found.damaged:
        complain(f"damaged, counted as missing: {line}")
    return FAILED if found.damaged else 0


def _check(arguments: argparse.Namespace, out: Path) -> None:
    if not out.is_dir():
        raise UserError(f"no output root {out}: run something first, or give its folder")
    if arguments.draws < 1:
        raise UserError(f"--draws {arguments.draws}: 1 or more")


def _check_reference(name: str, known: set[str]) -> None:
    """UserError for a reference that was asked for and never run; without the default one nothing is compared."""
    if name == "XCoOp" and name not in known:
        complain("XCoOp was not run here, so nothing is compared with it (see --reference)")
    elif name not in known:
        listed = ", ".join(sorted(known))
        raise UserError(f"--reference {name}: not run here; there are {listed}.{names_like(name, known)}")
