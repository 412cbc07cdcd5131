"""`xcoop concepts check`: the linter's findings on concept banks."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from xcoop.concepts.bank import bank_names
from xcoop.concepts.lint import ERROR, SEVERITIES, Limit, Use, check
from xcoop.config.plugins import plugin_path
from xcoop.utils.console import FAILED, UserError, say
from xcoop.utils.reading import read_yaml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop concepts check`."""
    parser.add_argument("words", nargs="*", metavar="BANK", help="names or YAML files (default: all of the package)")
    parser.add_argument(
        "--backbone", nargs="+", metavar="NAME", help="whose text contexts the sentences must fit (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.epilog = "Exit code 1: there are errors. Warnings and notes alone end in 0."


def run(arguments: argparse.Namespace) -> int:
    """Prints the findings; 1 if there are errors."""
    names = arguments.words or bank_names()
    limits = _limits(arguments.backbone)
    findings = [finding for name in names for finding in check(name, limits, _uses(name))]
    counts = Counter(finding.severity for finding in findings)
    if arguments.json:
        say(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
        return FAILED if counts[ERROR] else 0
    for bank in dict.fromkeys(finding.bank for finding in findings):
        say(bank)
        for finding in findings:
            if finding.bank == bank:
                place = "".join(f"{part}: " for part in (finding.classname, finding.concept) if part)
                say(f"  {finding.severity:7}  {finding.rule:9}  {place}{finding.message}")
        say("")
    sums = ", ".join(_counted(counts[severity], severity) for severity in SEVERITIES)
    say(f"{_counted(len(names), 'bank')}: {sums}")
    return FAILED if counts[ERROR] else 0


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _limits(asked: Sequence[str] | None) -> list[Limit]:
    """The text contexts of these backbones, equal ones once."""
    from xcoop.backbones import TextLimits, backbone_names, text_limits

    groups: dict[TextLimits, list[str]] = {}
    for name in asked or backbone_names():
        limits = text_limits(name)
        if limits is None and asked:
            raise UserError(f"the context length of {name} is not known before its weights are loaded")
        if limits is not None:
            groups.setdefault(limits, []).append(name)
    return [Limit(", ".join(names), limits.fit) for limits, names in groups.items()]


def _uses(bank: str) -> list[Use]:
    """The tasks of this package's datasets that take their concepts from a bank, by their config files.

    A set of a family states its classes in its file, another one in its reader.
    """
    from dassl.data.datasets import DATASET_REGISTRY

    from xcoop.config.merge import config_names
    from xcoop.config.plugins import dataset_names

    uses = []
    for name in config_names():
        stated = read_yaml(plugin_path("configs", "datasets", f"{name}.yaml"))["DATASET"]
        if stated.get("CLASSES"):
            uses += [Use(name, "all", tuple(map(str, stated["CLASSES"])))] if name == bank else []
            continue
        reader = DATASET_REGISTRY.get(stated["NAME"]) if stated["NAME"] in dataset_names() else None
        if (stated.get("CONCEPT_BANK") or getattr(reader, "concept_bank", "")) == bank:
            uses += [Use(name, task, tuple(classes)) for task, classes in getattr(reader, "tasks", {}).items()]
    return uses
