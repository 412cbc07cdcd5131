"""`xcoop concepts mine`: which concepts speak for a class, counted in the concept labels of training images.

Counted are log-odds of each concept value, class against rest (`log_odds` has the formulas), with confidence intervals.
A majority rule would not do: what is absent from most images of every class ("no veil") would win everywhere, and what
tells the classes apart would be lost wherever it is seen in less than half of them.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import yaml
from tabulate import tabulate

from xcoop.concepts.bank import FEWEST, MOST, TEMPLATE, ConceptBank, Mined, load_bank, require_new_bank, save_bank
from xcoop.concepts.words import ABSENT, MODES, UNKNOWN, Wording, load_wording, plain_words
from xcoop.evaluation.metrics import log_odds
from xcoop.utils.console import UserError, complain, environment_defaults, say, to_paste, unknown
from xcoop.utils.reading import read_csv

NORMAL = NormalDist()


class Observation(NamedTuple):
    """One training image: its class, and the value of each concept that is known of it."""

    classname: str
    values: Mapping[str, str]


class Association(NamedTuple):
    """How much a concept value speaks for a class."""

    classname: str
    concept: str  # as its column is called
    value: str
    own: int  # images of the class that show the value
    own_total: int  # images of the class in which the concept is known
    rest: int  # images of all other classes that show it
    rest_total: int  # images of all other classes in which the concept is known
    log_odds: float  # L; above 0, the value speaks for the class
    error: float  # its standard error
    low: float  # of the interval
    high: float


class Material(NamedTuple):
    """What is counted, and what a bank says of it."""

    observations: list[Observation]
    classes: list[str]
    wording: Wording  # what the values mean
    dataset: str  # for whose classes the bank is
    template: str  # a sentence with `{class}` and `{concepts}`
    citation: str  # whose labels are counted
    remark: str  # how many of which images
    mined: Mined


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop concepts mine`."""
    parser.usage = (
        "xcoop concepts mine DATASET [KEY VALUE ...] [--root DATA] [--task T] [--shots K [--seed S]] [options]\n"
        "       xcoop concepts mine --csv LABELS.csv --label COLUMN --concepts A,B,C [--split COLUMN] [options]"
    )
    parser.epilog = (
        "Log-odds are those of a value in a class against the rest, in training images alone, with 1/2 added to each "
        "count. Chosen are values whose whole interval lies above 0, by its lower end. With --shots, only the images "
        "are counted on which a run with these shots and this seed trains: knowing the concepts costs no more labels."
    )
    parser.add_argument("words", nargs="*", metavar="DATASET", help="its short name, and KEY VALUE pairs of the config")
    parser.add_argument("--root", default=environment_defaults()["data"], help="data root (default: $DATA, else data)")
    parser.add_argument("--task", default="", help="which labels (default: the dataset's own default)")
    parser.add_argument("--shots", type=int, help="count the labels of so many images a class alone: those on which a "
                        "run with these shots trains (default: all training images)")  # fmt: skip
    parser.add_argument("--seed", type=int, help="of the run whose shots are counted (default 1)")
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
    if arguments.shots is not None and (arguments.csv or arguments.shots < 1):
        raise UserError("--shots is the number of images a class, at least 1, on which a run of a dataset trains")
    if arguments.seed is not None and (arguments.shots is None or arguments.seed < 0):
        raise UserError("--seed is that of a run, 0 or more, and goes with its --shots")
    if not FEWEST <= arguments.top <= MOST:
        raise UserError(f"--top must be {FEWEST} to {MOST}, not {arguments.top}")
    if out:
        require_new_bank(out, arguments.force)
    material = _of_table(arguments) if arguments.csv else _of_dataset(arguments)
    skipped = () if arguments.with_absent else (ABSENT,)
    found = mine(material.observations, material.classes, skipped, arguments.confidence, arguments.correction)
    chosen = choose(found, arguments.top)
    percent = f"{100 * arguments.confidence:g} %"
    remark = f"{material.remark}. Log-odds against the rest, {percent} intervals, correction: {arguments.correction}."
    say(_table(found, chosen, material.wording, percent), "", f"{remark} * chosen")
    for classname, own in chosen.items():
        if len(own) < FEWEST:
            complain(f"only {len(own)} of the {FEWEST} to {MOST} concepts that are good for {classname!r}")
    if out:
        write_bank(out, chosen, material, remark)
        say(f"{out}: written; what is wrong with it says {to_paste('xcoop', 'concepts', 'check', str(out))}")
    return 0


# What is counted: what the training images of a dataset, or the training rows of a table, show.


def _of_dataset(arguments: argparse.Namespace) -> Material:
    """Validation and test images are not looked at: whoever counts them knows their answers."""
    from dassl.data.datasets import DATASET_REGISTRY

    from xcoop.config.merge import config_file, merge_file, merge_pairs
    from xcoop.config.plugins import get_cfg
    from xcoop.data.about import about

    cfg = get_cfg()
    merge_file(cfg, config_file(arguments.words[0]))
    cfg.DATASET.ROOT, cfg.DATASET.TASK = arguments.root, arguments.task
    if arguments.shots is not None:
        cfg.DATASET.NUM_SHOTS, cfg.SEED = arguments.shots, 1 if arguments.seed is None else arguments.seed
    merge_pairs(cfg, arguments.words[1:])
    name = str(cfg.DATASET.NAME)
    dataset = DATASET_REGISTRY.get(name)(cfg)
    folder = Path(dataset.dataset_dir)
    labels = dataset.concept_labels(folder)
    if labels is None:
        raise ValueError(f"{name} has no concept labels; `--csv` mines a table of them")
    wording = load_wording(Path(arguments.words[0]).stem, dataset.about_name)
    known = []
    for datum in dataset.train_x:
        values = labels.get(Path(datum.impath).relative_to(folder).as_posix())
        if values is not None:
            known.append(Observation(datum.classname, wording.values(values, arguments.values)))
    if not known:
        raise ValueError(f"{name} has no concept labels for any of its training images")
    if lost := len(dataset.train_x) - len(known):
        complain(f"{name}: {lost} of {lost + len(known)} training images have no concept labels, and are left out")
    template, citation = arguments.template, arguments.citation
    if not template:
        template = load_bank(dataset.concept_bank).template if dataset.concept_bank else TEMPLATE
    if not citation and dataset.is_phantom:
        citation = "Phantom: counted in drawn images, whose concepts were drawn from a table; not clinical."
    elif not citation:
        citation = about(dataset.about_name).citation.strip()
    run = (int(cfg.DATASET.NUM_SHOTS), int(cfg.SEED)) if cfg.DATASET.NUM_SHOTS > 0 else (None, None)
    mined = Mined(_images(known, dataset.classnames), *run)
    which = f" ({run[0]} shots a class of seed {run[1]}, as a run trains on them)" if run[0] else ""
    remark = f"Mined from the concept labels of {len(known)} training images of {name}, task {dataset.task}{which}: "
    remark += _numbers(known, mined.images)
    return Material(known, list(dataset.classnames), wording, name, template, citation, remark, mined)


def _of_table(arguments: argparse.Namespace) -> Material:
    """Rows without a class are left out; without a column that tells training rows, every row is taken for one."""
    path, label, split, wording = arguments.csv, arguments.label, arguments.split, Wording()
    columns = [name.strip() for name in arguments.concepts.split(",") if name.strip()]
    rows = read_csv(path, ())
    for column in (label, *columns, *filter(None, [split])):
        if rows and column not in rows[0]:
            raise ValueError(f"{path}: {unknown('column', column, rows[0])}")
    wanted = arguments.train_value.strip().lower()
    kept = [row for row in rows if not split or row[split].strip().lower() == wanted]
    kept = [row for row in kept if row[label].strip().lower() not in UNKNOWN]
    if not kept:
        there = sorted({row[split] for row in rows}) if split else []
        raise ValueError(f"{path} has no training rows" + (f"; its column {split!r} has {there}" if there else ""))
    if not split:
        complain(f"every row of {path} is counted; --split names the column that tells training rows from others")
    known = [
        Observation(row[label].strip(), wording.values({name: row[name] for name in columns}, arguments.values))
        for row in kept
    ]
    classes = sorted({one.classname for one in known})
    template = arguments.template or TEMPLATE
    citation = arguments.citation or f"Labels of the table {path.name}."
    mined = Mined(_images(known, classes))
    numbers = _numbers(known, mined.images)
    remark = f"Mined from the concept labels of {len(known)} training rows of {path.name}: {numbers}"
    return Material(known, classes, wording, path.stem, template, citation, remark, mined)


def _images(known: Sequence[Observation], classes: Iterable[str]) -> dict[str, int]:
    own = Counter(one.classname for one in known)
    return {name: own[name] for name in classes if own[name]}


def _numbers(known: Sequence[Observation], images: Mapping[str, int]) -> str:
    """How many images each class has, and each concept that is not known of all of them."""
    labelled = Counter(concept for one in known for concept in one.values)
    fewer = ", ".join(f"{concept} {count}" for concept, count in sorted(labelled.items()) if count < len(known))
    numbers = ", ".join(f"{classname} {count}" for classname, count in images.items())
    return numbers + (f" (known of fewer: {fewer})" if fewer else "")


# Counting and choosing.


def _false_coverage(tail: float, p_values: Sequence[float]) -> float:
    """A share R / m of the tail: R of the m are picked by Benjamini and Hochberg's rule at this level."""
    m = max(1, len(p_values))
    ranked = enumerate(sorted(p_values), start=1)
    return tail * max([rank for rank, p in ranked if p <= tail * rank / m], default=1) / m


# The share that may lie outside of each interval, of the share that may do so and the p-values of all.
CORRECTIONS: dict[str, Callable[[float, Sequence[float]], float]] = {
    "none": lambda tail, p_values: tail,
    "bonferroni": lambda tail, p_values: tail / max(1, len(p_values)),  # all intervals hold at once
    "fcr": _false_coverage,  # of the picked ones that share holds (Benjamini and Yekutieli, JASA 2005;100:71-81)
}


def mine(
    observations: Sequence[Observation],
    classes: Sequence[str],
    skipped: Sequence[str] = (),
    confidence: float = 0.95,
    correction: str = "none",
) -> list[Association]:
    """The association of each value of each concept with each class.

    Args:
        observations: training images alone.
        classes: in label order.
        skipped: values that are no findings, e.g. `absent`.
        confidence: of the intervals, in (0, 1).
        correction: for how many are looked at, a name of `CORRECTIONS`.

    Raises:
        ValueError: a confidence outside (0, 1), a class without images, or one class alone.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, not {confidence}")
    if lacking := set(classes) ^ {observation.classname for observation in observations}:
        raise ValueError(f"classes and images differ in: {', '.join(map(repr, sorted(lacking)))}")
    if len(set(classes)) < 2:
        raise ValueError(f"log-odds compare a class with the rest; there is only {', '.join(classes)}")
    shown: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)  # by concept and value the images of each class
    known: dict[str, Counter[str]] = defaultdict(Counter)
    for classname, values in observations:
        for concept, value in values.items():
            shown[concept, value][classname] += 1
            known[concept][classname] += 1
    found, p_values = [], []
    for classname in classes:
        for concept, value in sorted(shown):
            if value in skipped:
                continue
            own, own_total = shown[concept, value][classname], known[concept][classname]
            rest, rest_total = shown[concept, value].total() - own, known[concept].total() - own_total
            odds, error = map(float, log_odds(own, own_total - own, rest, rest_total - rest))
            found.append((classname, concept, value, own, own_total, rest, rest_total, odds, error))
            # Of two classes, one's log-odds are the other's with the sign changed: each pair is one question.
            if len(classes) > 2 or classname == classes[0]:
                p_values.append(2 * NORMAL.cdf(-abs(odds) / error))
    z = NORMAL.inv_cdf(1 - CORRECTIONS[correction](1 - confidence, p_values) / 2)
    return [Association(*one, low=one[-2] - z * one[-1], high=one[-2] + z * one[-1]) for one in found]


def choose(associations: Sequence[Association], most: int) -> dict[str, list[Association]]:
    """Per class its concepts whose whole interval lies above 0: at most so many, by the lower end of the interval."""
    chosen: dict[str, list[Association]] = {one.classname: [] for one in associations}
    for one in sorted(associations, key=lambda one: -one.low):
        if one.low > 0 and len(chosen[one.classname]) < most:
            chosen[one.classname].append(one)
    return chosen


# What is shown and written.


def _table(
    found: Sequence[Association], chosen: Mapping[str, list[Association]], wording: Wording, percent: str
) -> str:
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


def write_bank(path: Path, chosen: Mapping[str, Sequence[Association]], material: Material, remark: str) -> ConceptBank:
    """Writes the bank, whole and loadable, or not at all: one line a concept, with its counts as a comment.

    Raises:
        ValueError: a class has no concepts, or the bank breaks the schema.
    """
    if empty := [classname for classname, own in chosen.items() if not own]:
        raise ValueError(
            f"no concept speaks for {', '.join(map(repr, empty))}: none has its whole interval above 0. More images, "
            "merged values or a lower confidence may help; a bank without concepts for a class is not written"
        )
    key = source_key(material.citation)
    head = {
        "name": path.stem,
        "version": "1",
        "dataset": material.dataset,
        "template": material.template,
        "reviewed_by": [],
        "sources": {key: material.citation},
        "mined": {name: value for name, value in asdict(material.mined).items() if value is not None},
    }
    lines = [
        *(f"# {line}" for line in textwrap.wrap(remark, 110)),
        "# Beside each concept: images that show it, in the class and in the rest; log-odds and interval.",
        "# No clinician has reviewed it.",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=116) + "classes:",
    ]
    for classname, own in chosen.items():
        lines.append(f"  {_flat(classname)}:")
        phrased: dict[str, Association] = {}
        for one in own:  # of two with the same words the surer one
            phrased.setdefault(material.wording.phrase(one.concept, one.value), one)
        for phrase, one in phrased.items():
            counts = f"{one.own}/{one.own_total}, rest {one.rest}/{one.rest_total}"
            interval = f"{one.log_odds:.2f} [{one.low:.2f}, {one.high:.2f}]"
            lines.append(f"    - {_flat({'concept': phrase, 'source': key})}  # {counts}; {interval}")
    return save_bank(path, "\n".join(lines) + "\n")


def source_key(citation: str) -> str:
    """A key for a citation: the first author's name and the year, or the first word alone."""
    author = (plain_words(citation) or ["labels"])[0]
    year = re.search(r"\b(?:19|20)\d\d\b", citation)
    return author + (year[0] if year else "")


def _flat(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()
