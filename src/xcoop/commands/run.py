"""`xcoop run`: all seeds of a method on a dataset, and the table."""

from __future__ import annotations

import argparse

from xcoop.runs.plan import environment_defaults, make_plans
from xcoop.utils.console import numbers

EPILOG = """\
examples:
  xcoop run phantom 16                      XCoOp on the phantom, 16 shots, seeds 1 2 3
  xcoop run phantom 16 all                  every method, zero-shot included
  xcoop run derm7pt 16 CoOp vit_b16         CoOp with ViT-B/16 on Derm7pt
  SEEDS="1 2 3 4 5" xcoop run phantom 4 XCoOp phantom TRAINER.XCOOP.N_CTX 8

environment (the options win): DATA, OUT, SEEDS.
A finished seed is skipped, an interrupted one goes on, and nothing finished is overwritten. Runs with overrides go
into folders of their own. Exit code 1: a seed failed (the others were run all the same).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop run`."""
    defaults = environment_defaults()
    parser.usage = "xcoop run <dataset> <shots> [trainer|all] [cfg] [KEY VALUE ...] [--data D] [--out O] [--seeds S]"
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "words",
        nargs="+",
        metavar="<dataset> <shots> ...",
        help="dataset and cfg are short names (see `xcoop list`) or YAML files; trainer defaults to XCoOp, cfg to "
        "phantom for the dataset phantom and to vit_b16 otherwise",
    )
    parser.add_argument("--data", default=defaults["data"], help="the data root (default: $DATA, else data)")
    parser.add_argument("--out", default=defaults["out"], help="the output root (default: $OUT, else output)")
    parser.add_argument("--seeds", default=defaults["seeds"], help='default: $SEEDS, else "1 2 3"')


def run(arguments: argparse.Namespace) -> int:
    """Runs it; the exit code."""
    from xcoop.sweep import sequential as runs

    seeds = numbers(arguments.seeds, "SEEDS")
    plans = make_plans(arguments.words, arguments.data, arguments.out, seeds)
    return runs.execute(plans, int(arguments.words[1]), seeds)
