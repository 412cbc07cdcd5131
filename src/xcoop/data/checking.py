"""Is a dataset what was published, and fit to learn from? What is found, how much it matters, and the page on it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from xcoop.data.about import About, compare_counts
from xcoop.data.dataset import Raw
from xcoop.data.folders import survey
from xcoop.data.splits import EXAMPLES, Clash, Item, Splits, clean, grouped, per_class, told
from xcoop.utils.console import escaped
from xcoop.utils.images import header

NOTE, MATTERS, UNUSABLE = "note", "matters", "unusable"
SEVERITIES = (NOTE, MATTERS, UNUSABLE)  # the index of the worst is the exit code
LOOKED_AT = 20_000  # images whose size and mode are read; of more, an even choice
LEFT_OUT = 0.01  # share of a split that a run may leave out before it matters
IMBALANCE = 10  # largest to smallest class of train, from which on it is said
SHOWN_SIZES = 3
WIDTH = 118  # characters of a line of the page


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    severity: str  # note; matters: results may not be comparable, or not to be trusted; unusable: no run can start
    kind: str  # e.g. counts, unreadable, content, patient
    text: str  # one line


@dataclass(frozen=True)
class Report:
    """All that was found of a dataset."""

    raw: Raw
    published: Mapping[str, Mapping[str, int]]  # images by split and class; empty if none are, or they are drawn
    sizes: Mapping[tuple[int, int], int]  # images of each width and height, the most frequent first
    modes: Mapping[str, int]  # images of each PIL mode
    findings: tuple[Finding, ...]  # the worst first

    @property
    def exit_code(self) -> int:
        """0: clean; 1: something that matters; 2: unusable."""
        return max((SEVERITIES.index(finding.severity) for finding in self.findings), default=0)

    @property
    def verdict(self) -> str:
        """One line."""
        serious = sum(finding.severity != NOTE for finding in self.findings)
        things = "1 finding" if serious == 1 else f"{serious} findings"
        return ("clean", f"usable, with {things} that matter{'s' * (serious == 1)}", f"unusable: {things}")[
            self.exit_code
        ]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "schema": 1,
            "dataset": self.raw.name,
            "task": self.raw.task,
            "folder": str(self.raw.folder),
            "is_phantom": self.raw.is_phantom,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "counts": {split: per_class(items) for split, items in self.raw.splits},
            "published": {split: dict(classes) for split, classes in self.published.items()},
            "sizes": {f"{width}x{height}": number for (width, height), number in self.sizes.items()},
            "modes": dict(self.modes),
            "findings": [vars(finding) for finding in self.findings],
        }


def check(raw: Raw, facts: About | None) -> Report:
    """Everything that can be found out about a dataset without training on it; `facts` are the published."""
    surveyed = survey(raw.folder, [item.path for item in raw.splits.all()])
    reasons = {path: found.reason for path, found in surveyed.items() if found.reason}
    hashes = {path: found.content for path, found in surveyed.items() if not found.reason}
    paths = list(hashes)
    with ThreadPoolExecutor(4) as pool:
        some = [raw.folder / path for path in paths[:: max(-(-len(paths) // LOOKED_AT), 1)]]
        looks = [look for look in pool.map(header, some) if look]
    sizes = dict(Counter((width, height) for width, height, _ in looks).most_common())
    modes = dict(Counter(mode for _, _, mode in looks).most_common())
    cleaned, clashes = clean(raw.splits, hashes, raw.drops)
    findings = [*_of_splits(raw), *_of_counts(raw, facts)]
    if reasons:
        shown = "; ".join(f"{path}: {reason}" for path, reason in sorted(reasons.items())[:EXAMPLES])
        more = "; ..." if len(reasons) > EXAMPLES else ""
        text = f"{len(reasons)} of {len(surveyed)} images cannot be read, and runs refuse them: {shown}{more}"
        findings.append(Finding(UNUSABLE, "unreadable", text))
    findings += [*_of_clashes(raw, clashes, cleaned), *_of_looks(raw, sizes, modes)]
    findings.sort(key=lambda finding: -SEVERITIES.index(finding.severity))
    published = facts.counts.get(raw.task, {}) if facts and not raw.is_phantom else {}
    return Report(raw, published, sizes, modes, tuple(findings))


def _of_splits(raw: Raw) -> Iterator[Finding]:
    for remark in raw.remarks:
        yield Finding(MATTERS if remark.matters else NOTE, "reading", escaped(remark.text))

    def lacking_in(items: Sequence[Item]) -> str:
        return ", ".join(repr(name) for name in raw.class_names if name not in per_class(items))

    if lacking := lacking_in(raw.splits.train):
        yield Finding(UNUSABLE, "splits", f"train has no image of {lacking}")
    if not raw.splits.divided:
        yield Finding(NOTE, "splits", "there are no official splits: a run makes them")
        return
    if not raw.splits.test:
        yield Finding(UNUSABLE, "splits", "there are no test images")
    elif lacking := lacking_in(raw.splits.test):
        yield Finding(MATTERS, "splits", f"test has no image of {lacking}: its figures are partial")
    if not raw.splits.val:
        yield Finding(NOTE, "splits", "there is no validation split: a run carves one from train, by patient")


def _of_counts(raw: Raw, facts: About | None) -> Iterator[Finding]:
    if raw.is_phantom:
        yield Finding(NOTE, "counts", "the pictures are drawn: no number is compared, and no result is clinical")
    elif facts is None or not facts.counts.get(raw.task):
        yield Finding(NOTE, "counts", "no numbers of images are published for this task")
    else:
        for line in compare_counts(facts, raw.task, raw.splits):
            yield Finding(MATTERS, "counts", line)


def _of_clashes(raw: Raw, clashes: Sequence[Clash], cleaned: Splits) -> Iterator[Finding]:
    """What stands twice, and whether it does harm that a run, which leaves it out of train and val, does not undo.

    It does if the test split shares something with another (then other people's results profit from it), if equal
    images have unequal labels, or if much is left out.
    """
    lengths = {split: len(items) for split, items in raw.splits}
    for group in grouped(clashes):
        split, other, kind = group[0].split, group[0].other_split, group[0].kind
        contradicting = kind != "patient" and any(clash.item.label != clash.other.label for clash in group)
        leaked = split != other and "test" in (split, other)
        matters = contradicting or leaked or len(group) > LEFT_OUT * max(lengths[split], 100)
        yield Finding(MATTERS if matters else NOTE, kind, told(group))
    before, after = per_class(raw.splits.train), per_class(cleaned.train)
    if lost := [name for name in raw.class_names if name in before and name not in after]:
        names = ", ".join(map(repr, lost))
        yield Finding(UNUSABLE, "splits", f"train has no image of {names} left without what stands twice")
    unknown, total = sum(not item.patient for item in raw.splits.all()), len(raw.splits.all())
    if unknown:
        who = "patients are not told" if unknown == total else f"{unknown} images tell no patient"
        say = "a column `patient` or directories such as patient_07 tell them"
        yield Finding(NOTE, "patient", f"{who}: whether one is in two splits cannot be checked ({say})")


def _of_looks(raw: Raw, sizes: Mapping[tuple[int, int], int], modes: Mapping[str, int]) -> Iterator[Finding]:
    if len(modes) > 1:
        text = ", ".join(f"{number} {mode}" for mode, number in modes.items())
        yield Finding(NOTE, "modes", f"pictures of several modes ({text}): all are read as RGB")
    if small := sum(number for (width, height), number in sizes.items() if min(width, height) < 64):
        yield Finding(NOTE, "sizes", f"{small} pictures are smaller than 64 pixels: a backbone sees them enlarged")
    counts = per_class(raw.splits.train)
    if counts and max(counts.values()) >= IMBALANCE * min(counts.values()):
        largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
        text = f"train has {counts[largest]} of {largest!r} and {counts[smallest]} of {smallest!r}"
        yield Finding(NOTE, "balance", f"{text}: look at balanced measures, not at accuracy alone")


def page(report: Report, facts: About | None) -> list[str]:
    """The findings as lines of text; the last one is the verdict."""
    raw = report.raw
    lines = [f"{facts.title if facts else raw.name}, task {raw.task}, in {raw.folder}"]
    if facts:
        lines += [f"Licence: {facts.licence}", f"Kept apart by: {facts.grouping or 'not stated'}"]
        lines += _wrapped("Caution: ", facts.caution) if facts.caution else []
    lines += ["", *counts_table(report), ""]
    if report.sizes:
        shown = [f"{number} have {width}x{height}" for (width, height), number in report.sizes.items()][:SHOWN_SIZES]
        more = f", and {len(report.sizes) - SHOWN_SIZES} other sizes" if len(report.sizes) > SHOWN_SIZES else ""
        modes = ", ".join(f"{number} {mode}" for mode, number in report.modes.items())
        looked_at = sum(report.modes.values())
        lines.append(f"Pixels of {looked_at} looked at: {', '.join(shown)}{more}. Modes: {modes}.")
    lines.append("")
    for finding in report.findings:
        lines += _wrapped(f"{finding.severity:>{max(map(len, SEVERITIES))}}  ", finding.text)
    return [*lines, "", f"Verdict: {report.verdict}."]


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(head + text, WIDTH, subsequent_indent=" " * len(head), break_long_words=False)


def counts_table(report: Report) -> list[str]:
    """Found numbers of images by class and split, with the published ones where they differ."""
    from tabulate import tabulate

    splits = {split: list(items) for split, items in report.raw.splits}
    if not report.raw.splits.divided and not report.published:
        splits = {}
    if not splits or "all" in report.published:  # of a set without official splits
        splits["all"] = report.raw.splits.all()
    found = {split: per_class(items) for split, items in splits.items()}

    def cell(split: str, name: str) -> str:
        number = found[split].get(name, 0)
        expected = report.published.get(split, {name: number}).get(name, 0)
        return str(number) if expected == number else f"{number} (published: {expected})"

    rows: list[list[object]] = [[name, *(cell(split, name) for split in splits)] for name in report.raw.class_names]
    rows.append(["images", *(str(len(items)) for items in splits.values())])
    patients = [len({item.patient for item in items if item.patient}) for items in splits.values()]
    if any(patients):
        rows.append(["patients", *map(str, patients)])
    return tabulate(rows, headers=["class", *splits], stralign="right", disable_numparse=True).splitlines()
