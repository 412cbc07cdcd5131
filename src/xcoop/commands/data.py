"""`xcoop data`: which datasets there are, what is known of them, how to get them, and whether they are whole."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcoop.utils.console import USER_ERROR, UserError, complain, describe, environment_defaults, escaped, say, to_paste

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from xcoop.data.about import About

PAIRS = "config keys, e.g. DATASET.TASK three-class"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands of `xcoop data`, and their options."""
    kinds = parser.add_subparsers(title="commands", metavar="<command>", required=True)
    _add(kinds, "list", "all datasets: classes, images, licence, and whether they are there", show_list)
    _named(_add(kinds, "info", "all that is known of a dataset; with keys, what is found by them", show_info))
    prepare = _named(_add(kinds, "prepare", "fetch a dataset, or say how it is asked for; then check it", prepare_one))
    prepare.add_argument("--yes", action="store_true", help="the licence was read: download without asking")
    check = _named(_add(kinds, "check", "compare a dataset with what is published, and look for faults", check_one))
    for one in (prepare, check):
        one.add_argument("--json", type=Path, help="write the findings into this file, too")
    check.add_argument("--path", default="", help="the dataset's folder or file, if it is not below the data root")


def run(arguments: argparse.Namespace) -> int:
    """Runs the sub-command that was named; the exit code."""
    with _log_lines():
        return int(arguments.action(arguments))


def _add(kinds: Any, name: str, what: str, action: Callable[[argparse.Namespace], int]) -> Any:
    one = kinds.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    root = environment_defaults()["data"]
    one.add_argument("--root", default=root, help="the data root (default: $DATA, else data)")
    one.set_defaults(action=action, own_parser=one)
    return one


def _named(one: Any) -> Any:
    one.add_argument("words", nargs="+", metavar="NAME [KEY VALUE ...]", help=f"as in `xcoop data list`; {PAIRS}")
    return one


def show_list(arguments: argparse.Namespace) -> int:
    """Prints one row a dataset."""
    from tabulate import tabulate

    from xcoop.config.merge import config_names

    rows = [_row(name, Path(arguments.root)) for name in config_names()]
    say(tabulate(rows, headers=["name", "title", "classes", "images", "licence", "there"], disable_numparse=True))
    more = to_paste("xcoop", "data", "info", "NAME")
    say("", f"there: at the place that its layout names below {arguments.root}. More: {more}")
    return 0


def _row(name: str, root: Path) -> list[str]:
    facts = _facts(name)
    if facts is None:
        return [name, f"(see xcoop data info {name})", "", "", "", ""]
    splits = next(iter(facts.counts.values()), {})
    classes = max((len(split) for split in splits.values()), default=0)
    images = sum(number for split in splits.values() for number in split.values())
    licence = textwrap.shorten(facts.licence, 36, placeholder=" ...")
    return [name, facts.title, str(classes or "?"), str(images or "?"), licence, _there(facts, root)]


def _there(facts: About, root: Path) -> str:
    """Whether there is something where the first line of the layout has the dataset; finding it would read it."""
    named = re.match(r"<DATA>/([\w./ -]*[\w.])", facts.layout)
    return "?" if not named else "yes" if (root / named[1].partition("  ")[0]).exists() else "no"


def show_info(arguments: argparse.Namespace) -> int:
    """Prints all facts; with KEY VALUE pairs, what is found by them."""
    name = _name(arguments)
    facts = _facts(name)
    if len(arguments.words) > 1:
        return _show_found(arguments)
    if facts is None:
        guide = _class(arguments).guide()
        say(*(guide or [f"{name}: drawn when it is first used; nothing is published of it"]))
        return 0
    from xcoop.data.about import how_to_get, phantom_instead

    say(f"{name}: {facts.title}", f"Licence: {facts.licence}", f"Cite: {facts.citation}", how_to_get(facts))
    say(*(f"  {file.url} -> {file.name}" + _size(file.size) for file in facts.files))
    say("Layout:", *(f"  {line}" for line in facts.layout.rstrip().splitlines()))
    for task, splits in facts.counts.items():
        say(f"Published images, task {task}:")
        for split, classes in splits.items():
            say(f"  {split}: " + ", ".join(f"{number} {each}" for each, number in classes.items()))
    say(f"Splits are kept apart by: {facts.grouping or 'not stated'}")
    say("Augmentations that keep the labels:", *(f"  {kind}: {why}" for kind, why in facts.keeps_labels.items()))
    left_out = (f"  {kind}: {why}" for kind, why in facts.changes_labels.items())
    say("Augmentations that do not, and are left out:", *left_out)
    say(*([f"Caution: {facts.caution}"] if facts.caution else []))
    say(*phantom_instead(facts))
    say(f"There below {arguments.root}: {_there(facts, Path(arguments.root))}")
    return 0


def _show_found(arguments: argparse.Namespace) -> int:
    """Prints what is in the place that the configuration names; nothing is compared, and no image is read."""
    from xcoop.data.ownguide import found
    from xcoop.evaluation.metrics import positive_class

    cfg, cls = _config(arguments), _class(arguments)
    dataset = cls.__new__(cls)  # the constructor would go on to clean and choose
    raw = dataset.load(cfg)
    positive = positive_class(raw.class_names, cfg.DATASET.POSITIVE_CLASS or dataset.positive_class)
    say(*found(raw, positive, float(cfg.DATASET.VAL_PERCENT), dataset.kept_split()))
    return 0


def _class(arguments: argparse.Namespace) -> Any:
    from dassl.data.datasets import DATASET_REGISTRY

    return DATASET_REGISTRY.get(_config(arguments).DATASET.NAME)


def prepare_one(arguments: argparse.Namespace) -> int:
    """Fetches what may be fetched, says what must be asked for, and checks what is there then."""
    from xcoop.data.about import MissingDatasetError, fetch_all, how_to_get
    from xcoop.data.dataset import read_raw

    name = _name(arguments)
    facts, cfg = _facts(name), _config(arguments)
    if facts is None:
        return check_one(arguments)
    say(facts.title, f"Licence: {facts.licence}", f"Cite: {facts.citation}")
    say(*([f"Caution: {facts.caution}"] if facts.caution else []))
    try:
        say(f"It is there already: {read_raw(cfg).folder}")
    except MissingDatasetError:
        if not facts.files:
            say("It is not there, and nothing of it may be downloaded by a programme.", how_to_get(facts))
            say("Expected layout:", *(f"  {line}" for line in facts.layout.rstrip().splitlines()))
            return USER_ERROR
        _agree(arguments, facts)
        made = fetch_all(facts.files, Path(arguments.root).expanduser())
        say(*(f"made {path}" for path in made), *([f"By hand: {facts.request}"] if facts.request else []))
    return check_one(arguments)


def _agree(arguments: argparse.Namespace, facts: About) -> None:
    """Asks on a terminal; UserError without a yes."""
    say(f"Into {arguments.root}:", *(f"  {file.url} -> {file.name}{_size(file.size)}" for file in facts.files))
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nothing was downloaded: say --yes once the licence above is read")
    sys.stdout.write("Download? [y/N] ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("nothing was downloaded")


def check_one(arguments: argparse.Namespace) -> int:
    """Prints the page of findings; its exit code."""
    from xcoop.data.checking import check, page
    from xcoop.data.dataset import read_raw
    from xcoop.utils.console import DatasetError
    from xcoop.utils.files import atomic_write_text

    try:
        raw = read_raw(_config(arguments))
    except (DatasetError, FileNotFoundError) as error:
        complain(describe(error))
        say("Verdict: unusable: it cannot be read.")
        found = {"schema": 1, "dataset": _name(arguments), "verdict": "unusable", "exit_code": USER_ERROR}
        content, code = found | {"error": describe(error)}, USER_ERROR
    else:
        facts = _facts(raw.about_name) if raw.about_name else None
        report = check(raw, facts)
        say(*page(report, facts))
        content, code = report.as_json(), report.exit_code
    if arguments.json:
        atomic_write_text(arguments.json, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return code


def _name(arguments: argparse.Namespace) -> str:
    """The dataset; UserError, with the nearest name, if there is none."""
    from xcoop.config.merge import config_file

    return config_file(arguments.words[0]).stem


def _config(arguments: argparse.Namespace) -> CfgNode:
    """The configuration that a run on this dataset would have."""
    from xcoop.config.merge import config_file, merge_file, merge_pairs
    from xcoop.config.plugins import get_cfg

    cfg = get_cfg()
    merge_file(cfg, config_file(arguments.words[0]))
    cfg.DATASET.ROOT = arguments.root
    cfg.DATASET.PATH = getattr(arguments, "path", "") or cfg.DATASET.PATH
    merge_pairs(cfg, arguments.words[1:])
    return cfg


def _facts(name: str) -> About | None:
    from xcoop.config.plugins import plugin_path
    from xcoop.data.about import about

    return about(name) if plugin_path("configs", "datasets", "about", f"{name}.yaml").is_file() else None


def _size(size: int) -> str:
    return f" ({size / 1e6:,.1f} MB)" if size else ""


class _Escaping(logging.Formatter):
    """Messages name files, and names may hold what acts on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record), keep="\n\t")


@contextmanager
def _log_lines() -> Iterator[None]:
    """Shows on the standard error what the library reports of its progress."""
    handler, library = logging.StreamHandler(sys.stderr), logging.getLogger("xcoop")
    level = library.level
    handler.setFormatter(_Escaping())
    library.addHandler(handler)
    library.setLevel(logging.INFO)
    try:
        yield
    finally:
        library.setLevel(level)
        library.removeHandler(handler)
