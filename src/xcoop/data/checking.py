"""Is a dataset what was published, and fit to learn from? What is found, and how much it matters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xcoop.data import hygiene
from xcoop.data.about import About, compare_counts
from xcoop.data.hygiene import Clash
from xcoop.data.items import Item, Splits, per_class
from xcoop.data.raw import Raw
from xcoop.data.survey import survey
from xcoop.utils.images import header
from xcoop.utils.suggest import escaped

NOTE, MATTERS, UNUSABLE = "note", "matters", "unusable"
SEVERITIES = (NOTE, MATTERS, UNUSABLE)  # the index of the worst is the exit code
EXAMPLES = 3
LOOKED_AT = 20_000  # pictures whose size and mode are read; of more, an even choice
LEFT_OUT = 0.01  # share of a split that a run may leave out before it matters
IMBALANCE = 10  # largest to smallest class of train, from which on it is said


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: `note`; `matters`: results may not be comparable, or not to be trusted; `unusable`: no run can start.
        kind: e.g. `counts`, `unreadable`, `content`, `patient`.
        text: one line.
    """

    severity: str
    kind: str
    text: str


@dataclass(frozen=True)
class Report:
    """All that was found of a dataset.

    Attributes:
        raw: the dataset, as its reader gave it.
        published: number of images by split and class; empty if none are published, or the pictures are drawn.
        sizes: number of pictures of each width and height.
        modes: number of pictures of each PIL mode.
        findings: the worst first.
    """

    raw: Raw
    published: Mapping[str, Mapping[str, int]]
    sizes: Mapping[tuple[int, int], int]
    modes: Mapping[str, int]
    findings: tuple[Finding, ...]

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
    """Everything that can be found out about a dataset without training on it.

    Args:
        raw: the dataset.
        facts: what is published of it; None if nothing is.
    """
    paths = [item.path for item in raw.splits.all()]
    surveyed = survey(raw.folder, paths)
    reasons = {path: found.reason for path, found in surveyed.items() if found.reason}
    hashes = {path: found.content for path, found in surveyed.items() if not found.reason}
    sizes, modes = _looks(raw.folder, list(hashes))
    cleaned, clashes = hygiene.clean(raw.splits, hashes, raw.drops)
    published = facts.counts.get(raw.task, {}) if facts and not raw.is_phantom else {}
    findings = [
        *(Finding(MATTERS if remark.matters else NOTE, "reading", escaped(remark.text)) for remark in raw.remarks),
        *_split_findings(raw),
        *_count_findings(raw, facts),
        *_unreadable_findings(reasons, len(surveyed)),
        *_clash_findings(raw.splits, clashes),
        *_left_findings(raw, cleaned),
        *_patient_findings(raw.splits),
        *_look_findings(sizes, modes),
        *_balance_findings(raw),
    ]
    findings.sort(key=lambda finding: -SEVERITIES.index(finding.severity))
    return Report(raw, published, sizes, modes, tuple(findings))


def _split_findings(raw: Raw) -> Iterator[Finding]:
    train = per_class(raw.splits.train)
    if lacking := [name for name in raw.class_names if name not in train]:
        yield Finding(UNUSABLE, "splits", f"train has no image of {', '.join(map(repr, lacking))}")
    if not getattr(raw.splits, "divided", True):
        yield Finding(NOTE, "splits", "there are no official splits: a run makes them")
        return
    if not raw.splits.test:
        yield Finding(UNUSABLE, "splits", "there are no test images")
    elif lacking := [name for name in raw.class_names if name not in per_class(raw.splits.test)]:
        yield Finding(
            MATTERS, "splits", f"test has no image of {', '.join(map(repr, lacking))}: its figures are partial"
        )
    if not raw.splits.val:
        yield Finding(NOTE, "splits", "there is no validation split: a run carves one from train, by patient")


def _count_findings(raw: Raw, facts: About | None) -> Iterator[Finding]:
    if raw.is_phantom:
        yield Finding(NOTE, "counts", "the pictures are drawn: no number is compared, and no result is clinical")
    elif facts is None or not facts.counts.get(raw.task):
        yield Finding(NOTE, "counts", "no numbers of images are published for this task")
    else:
        for line in compare_counts(facts, raw.task, raw.splits):
            yield Finding(MATTERS, "counts", line)


def _unreadable_findings(reasons: Mapping[str, str], total: int) -> Iterator[Finding]:
    if reasons:
        shown = "; ".join(f"{path}: {reason}" for path, reason in sorted(reasons.items())[:EXAMPLES])
        more = "; ..." if len(reasons) > EXAMPLES else ""
        text = f"{len(reasons)} of {total} images cannot be read, and runs refuse them: {shown}{more}"
        yield Finding(UNUSABLE, "unreadable", text)


def _clash_findings(splits: Splits, clashes: Sequence[Clash]) -> Iterator[Finding]:
    """What stands twice; `_matters` says when it is more than a note."""
    lengths = {split: len(items) for split, items in splits}
    groups: dict[tuple[str, str, str], list[Clash]] = defaultdict(list)
    for clash in clashes:
        groups[clash.split, clash.other_split, clash.kind].append(clash)
    for _, group in sorted(groups.items()):
        (line,) = hygiene.summary(group)
        yield Finding(MATTERS if _matters(group, lengths[group[0].split]) else NOTE, group[0].kind, line)


def _left_findings(raw: Raw, cleaned: Splits) -> Iterator[Finding]:
    """Classes of which nothing is left to train on."""
    before, after = per_class(raw.splits.train), per_class(cleaned.train)
    if lost := [name for name in raw.class_names if name in before and name not in after]:
        names = ", ".join(map(repr, lost))
        yield Finding(UNUSABLE, "splits", f"train has no image of {names} left without what stands twice")


def _matters(group: Sequence[Clash], length: int) -> bool:
    """Whether clashes do harm that a run, which leaves them out of train and val, does not undo by itself.

    They do if the test split shares something with another (then other people's results profit from it), if equal
    pictures have unequal labels, or if much is left out.
    """
    split, other = group[0].split, group[0].other_split
    contradicting = any(c.kind != "patient" and c.item.label != c.other.label for c in group)
    return contradicting or (split != other and "test" in (split, other)) or len(group) > LEFT_OUT * max(length, 100)


def _patient_findings(splits: Splits) -> Iterator[Finding]:
    unknown = sum(not item.patient for item in splits.all())
    if unknown:
        who = "patients are not told" if unknown == len(splits.all()) else f"{unknown} images tell no patient"
        yield Finding(NOTE, "patient", f"{who}: whether one is in two splits cannot be checked")


def _look_findings(sizes: Mapping[tuple[int, int], int], modes: Mapping[str, int]) -> Iterator[Finding]:
    if len(modes) > 1:
        text = ", ".join(f"{number} {mode}" for mode, number in modes.items())
        yield Finding(NOTE, "modes", f"pictures of several modes ({text}): all are read as RGB")
    if small := sum(number for (width, height), number in sizes.items() if min(width, height) < 64):
        yield Finding(NOTE, "sizes", f"{small} pictures are smaller than 64 pixels: a backbone sees them enlarged")


def _balance_findings(raw: Raw) -> Iterator[Finding]:
    counts = per_class(raw.splits.train)
    if counts and max(counts.values()) >= IMBALANCE * min(counts.values()):
        largest, smallest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
        text = f"train has {counts[largest]} of {largest!r} and {counts[smallest]} of {smallest!r}"
        yield Finding(NOTE, "balance", f"{text}: look at balanced measures, not at accuracy alone")


def _looks(folder: Path, paths: Sequence[str]) -> tuple[dict[tuple[int, int], int], dict[str, int]]:
    """How many pictures there are of each size and of each mode, the most frequent first."""
    step = max(-(-len(paths) // LOOKED_AT), 1)
    with ThreadPoolExecutor(4) as pool:
        found = [look for look in pool.map(header, [folder / path for path in paths[::step]]) if look]
    sizes = Counter((width, height) for width, height, _ in found)
    modes = Counter(mode for _, _, mode in found)
    return dict(sizes.most_common()), dict(modes.most_common())


def patients(items: Sequence[Item]) -> int:
    """How many patients are told of."""
    return len({item.patient for item in items if item.patient})
