"""`xcoop concepts mine`: a concept bank from the concept labels of a dataset's training images, or of a table."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

from xcoop.concepts import load_bank
from xcoop.concepts.mining import (
    CORRECTIONS,
    FEWEST,
    MOST,
    Association,
    Observation,
    Origin,
    choose,
    mine,
    of_csv,
    of_dataset,
    write_bank,
)
from xcoop.concepts.words import ABSENT, MODES, Wording, load_wording
from xcoop.runs.plan import environment_defaults
from xcoop.utils.console import UserError, complain, say

TEMPLATE = "a photo of a {class}, {concepts}."
Material = tuple[list[Observation], list[str], Wording, Origin]
"""Observations of some classes, what their values mean, and what a bank says of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop concepts mine`."""
    parser.usage = (
        "xcoop concepts mine DATASET [KEY VALUE ...] [--root DATA] [--task T] [--out BANK.yaml] [options]\n"
        "       xcoop concepts mine --csv LABELS.csv --label COLUMN --concepts A,B,C [--split COLUMN] [options]"
    )
    parser.epilog = (
        "Log-odds are those of a value in a class against the rest, in training images alone, with 1/2 added to each "
        "count. Chosen are values whose whole interval lies above 0, by its lower end."
    )
    parser.add_argument("words", nargs="*", metavar="DATASET", help="its short name, and KEY VALUE pairs of the config")
    parser.add_argument("--root", default=environment_defaults()["data"], help="data root (default: $DATA, else data)")
    parser.add_argument("--task", default="", help="which labels (default: the dataset's own default)")
    parser.add_argument("--csv", type=Path, help="a table with a row an image, in the place of a dataset")
    parser.add_argument("--label", help="of --csv: the column of the class")
    parser.add_argument("--concepts", help="of --csv: the columns of the concepts, with commas between")
    parser.add_argument("--split", default="", help="of --csv: the column that tells training rows from others")
    parser.add_argument("--train-value", default="train", help="of --csv: what it has in training rows (train)")
    parser.add_argument("--citation", default="", help="of --csv: whose labels these are")
    parser.add_argument("--template", default="", help="of the bank's sentences, with {class} and {concepts}")
    parser.add_argument("--values", default="merged", choices=MODES, help="merged: as the dataset's wording says (the "
                        "default); raw: each value by itself; binary: present or absent")  # fmt: skip
    parser.add_argument(
        "--with-absent", action="store_true", help="let what is missing speak, too (no pigment network)"
    )
    parser.add_argument("--top", type=int, default=7, help=f"concepts a class, {FEWEST} to {MOST} (default 7)")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default 0.95)")
    parser.add_argument("--correction", default="none", choices=CORRECTIONS, help="for looking at many values: "
                        "bonferroni, or fcr, the false coverage rate (default none)")  # fmt: skip
    parser.add_argument("--out", type=Path, help="the bank to write, a YAML file")
    parser.add_argument("--force", action="store_true", help="overwrite --out")


def run(arguments: argparse.Namespace) -> int:
    """Prints the table and writes the bank."""
    out = arguments.out
    if bool(arguments.csv) == bool(arguments.words):
        raise UserError("name a dataset, or a table by --csv, and not both")
    if arguments.csv and not (arguments.label and arguments.concepts):
        raise UserError("--csv needs --label (the column of the class) and --concepts (columns, with commas between)")
    if not FEWEST <= arguments.top <= MOST:
        raise UserError(f"--top must be {FEWEST} to {MOST}, not {arguments.top}")
    if out and out.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(f"--out must be a YAML file (.yaml), not {out}")
    if out and out.exists() and not arguments.force:
        raise UserError(f"{out} exists; --force overwrites it")
    seen, classes, wording, origin = _of_table(arguments) if arguments.csv else _of_dataset(arguments)
    skipped = () if arguments.with_absent else (ABSENT,)
    found = mine(seen, classes, skipped, arguments.confidence, arguments.correction)
    chosen = choose(found, arguments.top)
    percent = f"{100 * arguments.confidence:g} %"
    remark = f"{origin.remark}. Log-odds against the rest, {percent} intervals, correction: {arguments.correction}."
    say(_table(found, chosen, wording, percent), "", f"{remark} * chosen")
    for classname, own in chosen.items():
        if len(own) < FEWEST:
            complain(f"only {len(own)} of the {FEWEST} to {MOST} concepts that are good for {classname!r}")
    if out:
        remark = "\n".join(
            [
                *textwrap.wrap(remark, 110),
                "Beside each concept: images that show it, in the class and in the rest; log-odds and interval.",
                "No clinician has reviewed it.",
            ]
        )
        write_bank(out, chosen, wording, replace(origin, name=out.stem, remark=remark))
        say(f"{out}: written; `xcoop concepts check {out}` says what is wrong with it")
    return 0


def _of_dataset(arguments: argparse.Namespace) -> Material:
    from dassl.data.datasets import DATASET_REGISTRY

    from xcoop.config.merge import config_file, merge_file, merge_pairs
    from xcoop.config.plugins import get_cfg
    from xcoop.data.about import about

    cfg = get_cfg()
    merge_file(cfg, config_file(arguments.words[0]))
    cfg.DATASET.ROOT, cfg.DATASET.TASK = arguments.root, arguments.task
    merge_pairs(cfg, arguments.words[1:])
    registered = str(cfg.DATASET.NAME)
    dataset = DATASET_REGISTRY.get(registered)(cfg)
    name = Path(arguments.words[0]).stem
    wording = load_wording(name, dataset.about_name)
    seen = of_dataset(dataset, wording, arguments.values)
    template, citation = arguments.template, arguments.citation
    if not template:
        try:
            template = load_bank(dataset.concept_bank).template
        except (OSError, ValueError):
            template = TEMPLATE
    if not citation and dataset.is_phantom:
        citation = "Phantom: counted in drawn images, whose concepts were drawn from a table; not clinical."
    elif not citation:
        citation = about(dataset.about_name).citation.strip()
    what = f"Mined from the concept labels of {len(seen)} training images of {registered}, task {dataset.task}"
    return seen, list(dataset.classnames), wording, Origin(name, registered, template, citation, what)


def _of_table(arguments: argparse.Namespace) -> Material:
    path, wording = arguments.csv, load_wording()
    columns = [name.strip() for name in arguments.concepts.split(",") if name.strip()]
    seen = of_csv(path, arguments.label, columns, wording, arguments.values, arguments.split, [arguments.train_value])
    if not arguments.split:
        complain(f"every row of {path} is counted; --split names the column that tells training rows from others")
    citation = arguments.citation or f"Labels of the table {path.name}."
    what = f"Mined from the concept labels of {len(seen)} training rows of {path.name}"
    origin = Origin(path.stem, path.stem, arguments.template or TEMPLATE, citation, what)
    return seen, sorted({one.classname for one in seen}), wording, origin


def _table(found: Sequence[Association], chosen: dict[str, list[Association]], wording: Wording, percent: str) -> str:
    """What speaks for each class, the surest first, whether it is chosen or not."""
    rows = [
        (
            one.classname, "*" if one in chosen[one.classname] else "", wording.phrase(one.concept, one.value),
            f"{one.own}/{one.own_total}", f"{one.rest}/{one.rest_total}",
            f"{one.log_odds:.2f}", f"{one.low:.2f} to {one.high:.2f}",
        )
        for classname in chosen
        for one in sorted(found, key=lambda one: -one.low)
        if one.classname == classname and one.log_odds > 0
    ]  # fmt: skip
    headers = ["Class", "", "Concept", "In the class", "In the rest", "Log-odds", f"{percent} interval"]
    return tabulate(rows, headers, disable_numparse=True)
