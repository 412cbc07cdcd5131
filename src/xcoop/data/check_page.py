"""The findings on a dataset as one page of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from tabulate import tabulate

from xcoop.data.about import About
from xcoop.data.checking import SEVERITIES, Report, patients
from xcoop.data.items import per_class

SHOWN_SIZES = 3
WIDTH = 118


def page(report: Report, facts: About | None) -> list[str]:
    """The lines of the page; the last one is the verdict."""
    raw = report.raw
    lines = [f"{facts.title if facts else raw.name}, task {raw.task}, in {raw.folder}"]
    if facts:
        lines += [f"Licence: {facts.licence}", f"Kept apart by: {facts.grouping or 'not stated'}"]
        lines += _wrapped("Caution: ", facts.caution) if facts.caution else []
    lines += ["", *_table(report), "", *_looks(report), ""]
    for finding in report.findings:
        lines += _wrapped(f"{finding.severity:>{max(map(len, SEVERITIES))}}  ", finding.text)
    return [*lines, "", f"Verdict: {report.verdict}."]


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(head + text, WIDTH, subsequent_indent=" " * len(head), break_long_words=False)


def _table(report: Report) -> list[str]:
    """Found numbers of images by class and split, with the published ones where they differ."""
    splits = {split: list(items) for split, items in report.raw.splits}
    if "all" in report.published:  # of a set without official splits
        splits["all"] = report.raw.splits.all()
    found = {split: per_class(items) for split, items in splits.items()}
    rows: list[list[object]] = [
        [name, *(_cell(found[split].get(name, 0), report.published.get(split), name) for split in splits)]
        for name in report.raw.class_names
    ]
    rows.append(["images", *(str(len(items)) for items in splits.values())])
    if any(patients(items) for items in splits.values()):
        rows.append(["patients", *(str(patients(items)) for items in splits.values())])
    return tabulate(rows, headers=["class", *splits], stralign="right", disable_numparse=True).splitlines()


def _cell(found: int, published: Mapping[str, int] | None, name: str) -> str:
    if published is None or published.get(name, 0) == found:
        return str(found)
    return f"{found} (published: {published.get(name, 0)})"


def _looks(report: Report) -> Iterator[str]:
    if report.sizes:
        shown = [f"{number} have {width}x{height}" for (width, height), number in report.sizes.items()][:SHOWN_SIZES]
        more = f", and {len(report.sizes) - SHOWN_SIZES} other sizes" if len(report.sizes) > SHOWN_SIZES else ""
        modes = ", ".join(f"{number} {mode}" for mode, number in report.modes.items())
        yield f"Pixels of {sum(report.modes.values())} looked at: {', '.join(shown)}{more}. Modes: {modes}."
