"""All runs below an output root, sorted into what can stand in one table: the same dataset, task and classes.

<out>/<dataset>/<trainer>/<cfg>_<shots>shots[_<tag>]/seed<k>/results.json are trainings;
<that folder>/evaluation/<dataset>_new/results.json their evaluations on classes that they did not see;
<that folder>/evaluation/<target>_<classes>/results.json those on the test images of another dataset.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xcoop.results.record import UNTRAINED
from xcoop.results.rows import Row, collect, read_or_name

REFERENCE = "XCoOp"
ALL, BASE, NEW = "all", "base", "new"
_SUBSAMPLE = re.compile(r"(?:^|_)subsample_classes-(all|base|new)(?=_|$)")
_TASK = re.compile(r"(?:^|_)task-([^_]+)(?=_|$)")


@dataclass(frozen=True, order=True)
class Method:
    """A line of the tables: what stays the same over shots, seeds and datasets.

    Attributes:
        trainer: its name.
        cfg: short name of its configuration.
        tag: overrides that change the result, but for task and classes, which make tables of their own.
        note: why a second line of the same settings exists; "" otherwise.
    """

    trainer: str
    cfg: str
    tag: str = ""
    note: str = ""


Place = tuple[Method, int | None]
"""A cell of a table: the method, and its number of shots (None: uses none)."""


@dataclass(frozen=True)
class Group:
    """The rows of one table.

    Attributes:
        dataset: its folder's name.
        task: of the dataset.
        subsample: which classes: all, base (seen in training) or new.
        rows: one for each method and number of shots that was begun.
        alone: whether the dataset has no other task, so that its name says all.
    """

    dataset: str
    task: str
    subsample: str
    rows: dict[Place, Row]
    alone: bool = True

    @property
    def name(self) -> str:
        """The dataset, with its task if it has several."""
        return self.dataset if self.alone or not self.task else f"{self.dataset}, task {self.task}"

    @property
    def title(self) -> str:
        """For headings: the name, and which classes."""
        return self.name if self.subsample == ALL else f"{self.name}, {self.subsample} classes"

    @property
    def shots(self) -> list[int]:
        """The numbers of shots, in order."""
        return sorted({shots for _, shots in self.rows if shots is not None})

    @property
    def columns(self) -> list[int | None]:
        """The numbers of shots with "none" before them, if a method uses none."""
        return [*([None] if self.untrained else []), *self.shots]

    @property
    def untrained(self) -> set[Method]:
        """The methods that use no shots."""
        return {method for method, shots in self.rows if shots is None}

    @property
    def runs(self) -> list[dict[str, Any]]:
        """All records."""
        return [run for row in self.rows.values() for run in row.runs.values()]

    @property
    def same_images(self) -> bool:
        """Whether every run was tested on the same images; nothing is compared otherwise."""
        return len({run.get("test_hash") for run in self.runs}) <= 1

    @property
    def is_phantom(self) -> bool:
        """Whether any of the images are drawn."""
        return any(run.get("is_phantom") for run in self.runs)

    def methods(self, reference: str = REFERENCE) -> list[Method]:
        """Those that train nothing first, the reference's trainer last."""
        return ordered([self], reference)

    def row(self, method: Method, shots: int | None) -> Row | None:
        """The row at so many shots; of a method that uses none, its only one."""
        return self.rows.get((method, None if method in self.untrained else shots))


@dataclass(frozen=True)
class Transfer:
    """Models trained on one dataset and tested on others.

    Attributes:
        source: the rows of the trainings; only those of which an evaluation was begun.
        targets: for each other dataset a group of the same rows, real images first.
        untried: rows of the source's dataset that were evaluated on no other.
    """

    source: Group
    targets: tuple[Group, ...]
    untried: tuple[Place, ...] = ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The source's and the targets'."""
        return self.source, *self.targets

    def kinds(self) -> Iterator[tuple[bool, list[Group]]]:
        """The real targets, and the drawn ones, where there are two or more: only these are averaged together.

        One without any record may be of either kind; until it is known it stands with both, so that no mean leaves it
        out.
        """
        for drawn in (False, True):
            known = [one for one in self.targets if one.runs and one.is_phantom == drawn]
            unknown = [one for one in self.targets if not one.runs]
            if known and len(known) + len(unknown) > 1:
                yield drawn, [*known, *unknown]


@dataclass(frozen=True)
class Benchmark:
    """All groups and transfers, and what is wrong with the records that could not be read."""

    groups: tuple[Group, ...]
    transfers: tuple[Transfer, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def is_phantom(self) -> bool:
        """Whether any of the images are drawn."""
        tested = [*self.groups, *(group for transfer in self.transfers for group in transfer.groups)]
        return any(group.is_phantom for group in tested)

    def kinds(self) -> Iterator[tuple[str, list[Group]]]:
        """The datasets of real images and those of drawn ones (" (phantom)"), two or more: what is averaged."""
        for drawn, kind in ((False, ""), (True, " (phantom)")):
            groups = [one for one in self.groups if one.subsample == ALL and one.runs and one.is_phantom == drawn]
            if len(groups) > 1:
                yield kind, groups

    def labels(self) -> dict[Method, str]:
        """The methods' names, as short as they can be without two of one name."""
        methods = ordered(self.groups)
        one_cfg = len({method.cfg for method in methods}) < 2
        labels = {}
        for method in methods:
            details = ["" if one_cfg else method.cfg, method.tag, method.note.partition(":")[0]]
            inner = ", ".join(filter(None, details))
            labels[method] = f"{method.trainer} ({inner})" if inner else method.trainer
        return labels


def gather(out: Path, seeds: Iterable[int] = (), datasets: Sequence[str] = ()) -> Benchmark:
    """Reads the records below an output root.

    Args:
        out: the output root.
        seeds: that each row ought to have.
        datasets: names of folders; empty for all.

    Raises:
        ValueError: a dataset has no folder, or nothing was run.
    """
    damaged: list[str] = []
    folders = [out / name for name in datasets] or sorted(path for path in out.glob("*") if path.is_dir())
    if gone := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ValueError(f"nothing was run there: no folder {', '.join(gone)}")
    groups = [group for folder in folders for group in _groups(folder, list(seeds), damaged)]
    if not groups:
        raise ValueError(f"{out} holds no runs (<dataset>/<trainer>/<cfg>_<shots>shots/seed<k>/results.json)")
    transfers = [transfer for group in groups if (transfer := _transfer(group, damaged))]
    return Benchmark(tuple(groups), tuple(transfers), tuple(damaged))


def ordered(groups: Sequence[Group], reference: str = REFERENCE) -> list[Method]:
    """The methods of some groups: those that train nothing first, the reference's trainer last, by name between."""
    methods = {method for group in groups for method, _ in group.rows}
    untrained = {method for group in groups for method in group.untrained}
    return sorted(methods, key=lambda one: (one not in untrained, one.trainer == reference, one))


def slug(*names: str) -> str:
    """Names as a part of file names and ids."""
    return "-".join(re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "x" for name in names if name)


# Trainings, and their evaluations on new classes.


def _groups(folder: Path, seeds: Sequence[int], damaged: list[str]) -> Iterator[Group]:
    found: dict[tuple[str, str], dict[Place, Row]] = defaultdict(dict)
    rows = collect(folder, seeds=seeds, damaged=damaged)
    rows += [new for row in rows if (new := _on_new_classes(row, damaged))]
    usual = next((row.first.get("task", "") for row in rows if row.runs and not _TASK.search(row.setting.tag)), "")
    for row in rows:  # a row without a finished run is told by its folder's name
        tag = row.setting.tag
        named_task, named_classes = _TASK.search(tag), _SUBSAMPLE.search(tag)
        task = str(row.first.get("task") or (named_task[1] if named_task else usual))
        subsample = str(row.first.get("subsample") or (named_classes[1] if named_classes else ALL))
        rest = _SUBSAMPLE.sub("", _TASK.sub("", tag)).strip("_")
        method = Method(row.setting.trainer, row.setting.cfg, rest, row.note)
        found[task, subsample][method, row.setting.shots] = row
    alone = len({task for task, _ in found}) < 2
    for (task, subsample), own in sorted(found.items()):
        yield Group(folder.name, task, subsample, own, alone)


def _on_new_classes(row: Row, damaged: list[str]) -> Row | None:
    """The evaluations on new classes of a row that was trained on the base classes; None if there are none."""
    runs, places = {}, {}
    for seed, run in row.runs.items():
        if run.get("subsample") != BASE:
            continue
        for folder in sorted((row.folder / f"seed{seed}" / "evaluation").glob(f"*_{NEW}")):
            if (found := read_or_name(folder, damaged)) and found["dataset"] == run["dataset"]:
                runs[seed], places[seed] = found, folder
    missing = tuple(sorted({*row.runs, *row.missing} - runs.keys()))
    return replace(row, runs=runs, missing=missing, places=places) if runs else None


# Evaluations on other datasets. `xcoop sweep` names the target by its configuration, `train.py --eval-only` by
# `DATASET.NAME`; names that differ only in capitals are one target. What a run was trained on is none, nor are other
# epochs, other splits or models that were never trained.

Found = dict[int, tuple[Path, dict[str, Any]]]
"""The evaluations of one cell on one target: folder and record, by seed."""


def _transfer(group: Group, damaged: list[str]) -> Transfer | None:
    trained = {place: row for place, row in group.rows.items() if not row.places}  # others are evaluations themselves
    found = {place: _evaluations(group, row, damaged) for place, row in trained.items()}
    rows = {place: trained[place] for place, own in found.items() if own}
    names: dict[str, str] = {}  # spelled as `xcoop sweep` would (in small letters) if any is
    for name in sorted((name for own in found.values() for name in own), key=str.swapcase):
        names.setdefault(name.casefold(), name)
    if not names:
        return None
    targets = []
    for key, name in names.items():
        made = {}
        for place, row in rows.items():
            evaluations: Found = {}  # under any spelling; that of the sweep wins
            for spelled in sorted(found[place], key=str.swapcase, reverse=True):
                evaluations |= found[place][spelled] if spelled.casefold() == key else {}
            made[place] = _evaluated(name, row, evaluations)
        task = next((str(run.get("task", "")) for row in made.values() for run in row.runs.values()), "")
        targets.append(Group(name, task, group.subsample, made))
    targets.sort(key=lambda target: (target.is_phantom, target.dataset))
    untried = tuple(place for place in trained if place not in rows and trained[place].runs)
    return Transfer(replace(group, rows=rows), tuple(targets), untried)


def _evaluations(group: Group, row: Row, damaged: list[str]) -> dict[str, Found]:
    """What a row's models were evaluated on, by the target's name; without a record what was only begun."""
    found: dict[str, Found] = defaultdict(dict)
    ending = f"_{group.subsample}"
    for seed, run in row.runs.items():
        for folder in sorted((row.folder / f"seed{seed}" / "evaluation").glob(f"?*{ending}")):
            name = folder.name.removesuffix(ending)
            if name.casefold() == group.dataset.casefold():
                continue
            record = read_or_name(folder, damaged)
            if record is None:
                found[name] = found[name]
                continue
            own = name.casefold() == str(run["dataset"]).casefold() and record.get("test_hash") == run.get("test_hash")
            final = record.get("load_epoch") is None and record.get("evaluated_from") != UNTRAINED
            if final and not own and record.get("split") == run.get("split"):
                found[name][seed] = folder, record
    return dict(found)


def _evaluated(target: str, row: Row, found: Found) -> Row:
    """The row of the trainings with the records of their evaluations in the place of its own."""
    seeds = {*row.runs, *row.missing}
    if len({(record["config_hash"], record.get("split_hash")) for _, record in found.values()}) > 1:
        note = (
            f"{target}: the seeds of {row.setting.trainer} {row.setting.label} were evaluated with different "
            f"configurations or data, which are not averaged: compare config.yaml below {row.folder.as_posix()}"
        )
        return replace(row, runs={}, missing=tuple(sorted(seeds)), note=note)
    runs = {seed: record for seed, (_, record) in found.items()}
    places = {seed: folder for seed, (folder, _) in found.items()}
    return replace(row, runs=runs, missing=tuple(sorted(seeds - runs.keys())), places=places)
