"""`xcoop phantom derm7pt` and `xcoop phantom pneumonia`: draw datasets whose contents are known."""

from __future__ import annotations

import argparse
from pathlib import Path

from xcoop.utils.console import UserError, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of both commands."""
    parser.add_argument("--out", required=True, type=Path, help="the folder to make")
    parser.add_argument("--cases", type=int, default=1200, help="how many (default 1200)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same images (default 1)")
    parser.add_argument(
        "--mix",
        help="of derm7pt: balanced: half melanoma, half nevus (the default); real: five groups, as in Derm7pt",
    )


def run(arguments: argparse.Namespace) -> int:
    """Draws a dataset into a new folder."""
    from xcoop.phantom.layouts import write_chest, write_derm7pt

    out, cases, seed = arguments.out, arguments.cases, arguments.seed
    if cases < 1 or seed < 0:
        raise UserError("--cases must be above 0 and --seed 0 or more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists already; name a new folder, nothing is overwritten")
    if arguments.command == "phantom derm7pt":
        best = write_derm7pt(out, cases, seed, arguments.mix or "balanced").best
    elif arguments.mix:
        raise UserError(f"--mix {arguments.mix}: only derm7pt has groups that can be mixed")
    else:
        best = write_chest(out, cases, seed).best
    say(
        f"{cases} cases in {out}. A phantom: nothing measured on it is a clinical result.",
        f"The best that any classifier can reach on it: accuracy {best.accuracy:.3f}, AUC {best.auc:.3f}.",
    )
    return 0
