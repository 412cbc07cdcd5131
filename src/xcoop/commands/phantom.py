"""`xcoop phantom`: draws datasets whose contents are known, and trains and tests the small CLIP that goes with them."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xcoop.utils.console import Parser, UserError, say

DRAWN = {
    "derm7pt": "dermoscopic images in the layout of Derm7pt",
    "pneumonia": "chest radiographs in the layout of the pneumonia archive",
}
# Commands whose options are their module's own; they are asked for only when they are called, since they need torch.
LATER = {
    "pretrain": ("xcoop.phantom.pretrain", "train the phantom backbone"),
    "probe": ("xcoop.phantom.probe", "measure how well a backbone knows the phantom's concepts"),
}


def add(commands: Any) -> None:
    """Adds the command to `xcoop`."""
    phantom = commands.add_parser(
        "phantom",
        help="draw synthetic datasets with known concepts; train or probe the phantom backbone",
        description="Synthetic medical images with known concepts. Nothing measured on them is a clinical result.",
    )
    kinds = phantom.add_subparsers(title="commands", metavar="<command>", required=True)
    for name, what in DRAWN.items():
        one = kinds.add_parser(name, help=f"draw {what}", description=f"Draws {what}.")
        one.add_argument("--out", required=True, type=Path, help="the folder to make")
        one.add_argument("--cases", type=int, default=1200, help="how many (default 1200)")
        one.add_argument("--seed", type=int, default=1, help="same seed, same images (default 1)")
        one.set_defaults(action=_draw, layout=name, own_parser=one)
    kinds.choices["derm7pt"].add_argument(
        "--mix",
        default="balanced",
        help="balanced: half melanoma, half nevus (the default); real: five groups, as in Derm7pt",
    )
    for name, (_, what) in LATER.items():
        kinds.add_parser(name, help=what, add_help=False)  # `hand_over` parses them


def _draw(arguments: argparse.Namespace) -> int:
    from xcoop.phantom.chest_layout import write_chest
    from xcoop.phantom.derm_layout import write_derm7pt

    if arguments.cases < 1 or arguments.seed < 0:
        raise UserError("--cases must be above 0 and --seed 0 or more")
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        raise UserError(f"--out {arguments.out} exists already; name a new folder, nothing is overwritten")
    if arguments.layout == "derm7pt":
        best = write_derm7pt(arguments.out, arguments.cases, arguments.seed, arguments.mix).best
    else:
        best = write_chest(arguments.out, arguments.cases, arguments.seed).best
    say(
        f"{arguments.cases} cases in {arguments.out}. A phantom: nothing measured on it is a clinical result.",
        f"The best that any classifier can reach on it: accuracy {best.accuracy:.3f}, AUC {best.auc:.3f}.",
    )
    return 0


def hand_over(name: str, words: Sequence[str]) -> int:
    """Runs a command of `LATER` with its arguments; the exit code."""
    module, what = LATER[name]
    command = importlib.import_module(module)
    parser = Parser(prog=f"xcoop phantom {name}", description=f"{what[0].upper()}{what[1:]}.")
    command.add_arguments(parser)
    return int(command.run(parser.parse_args(words)))
