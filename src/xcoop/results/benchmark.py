"""What was run below an output root: rows of seeds, and the tables that they can stand in together.

<out>/<dataset>/<trainer>/<cfg>_<shots>shots[_<tag>]/seed<k>/results.json are trainings;
<that folder>/evaluation/<dataset>_new/results.json their evaluations on classes that they did not see;
<that folder>/evaluation/<target>_<classes>/results.json those on the test images of another dataset.

Only `results.json` is read. What is missing is marked, and what disagrees is not averaged.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xcoop.results.record import RESULTS, UNTRAINED, read_run
from xcoop.utils.reading import read_json

REFERENCE = "XCoOp"
ALL, BASE, NEW = "all", "base", "new"
_FOLDER = re.compile(r"(?P<cfg>.+?)_(?P<shots>-?\d+)shots(?:_(?P<tag>.+))?")
_SUBSAMPLE = re.compile(r"(?:^|_)subsample_classes-(all|base|new)(?=_|$)")
_TASK = re.compile(r"(?:^|_)task-([^_]+)(?=_|$)")
OWN_FOLDER = "folder"  # where older versions put the runs on own images of all folders, told apart by their tags
_PLACE = re.compile(r"(?:^|_)dataset_path-([^_]+)(?=_|$)")


# Rows: the seeds of one setting.


@dataclass(frozen=True)
class Setting:
    """One row's identity: what all of its seeds share. `shots` is None where none are used (zero-shot)."""

    trainer: str
    cfg: str
    shots: int | None
    tag: str

    @property
    def label(self) -> str:
        """The configuration as a reader sees it, with the overrides that mark it."""
        return f"{self.cfg} {self.tag}" if self.tag else self.cfg


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        setting: trainer, configuration, shots, overrides.
        runs: the records that are averaged, by seed.
        missing: seeds that were asked for, or begun, and are not finished.
        note: what a reader must know about this row, e.g. that its seeds disagree.
        folder: that holds the seeds' folders.
        places: the folders of records that do not lie in `<folder>/seed<k>`.
    """

    setting: Setting
    runs: dict[int, dict[str, Any]]
    missing: tuple[int, ...] = ()
    note: str = ""
    folder: Path = Path()
    places: Mapping[int, Path] = field(default_factory=dict)

    def values(self, metric: str) -> list[float]:
        """The metric of each seed, a fraction; empty if one of them lacks it."""
        values = [run["metrics"].get(metric) for run in self.runs.values()]
        return [] if None in values else values

    def mean(self, metric: str) -> float | None:
        """Mean over the seeds; None if any seed lacks it."""
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def std(self, metric: str) -> float | None:
        """Standard deviation over the seeds (ddof 1); None for fewer than two seeds."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def folders(self) -> list[Path]:
        """The folders of the records, by seed."""
        return [self.places.get(seed, self.folder / f"seed{seed}") for seed in sorted(self.runs)]

    @property
    def seeds(self) -> str:
        """The seeds averaged and those missing, e.g. "1 2 (missing: 3)"; "-" where seeds make no difference."""
        done = " ".join(map(str, sorted(self.runs))) or "none"
        if self.setting.shots is None and self.runs:
            return "-"
        return f"{done} (missing: {' '.join(map(str, self.missing))})" if self.missing else done

    @property
    def first(self) -> dict[str, Any]:
        """The first of its records; empty if no run is finished."""
        return next(iter(self.runs.values()), {})

    @property
    def complete(self) -> bool:
        """Whether all its seeds are there, of one configuration: only then it is averaged with others, or compared."""
        return bool(self.runs) and not self.missing and not self.note


def collect(
    folder: Path, shots: int | None = None, seeds: Iterable[int] = (), damaged: list[str] | None = None
) -> list[Row]:
    """The rows of all trainers and configurations that were run on a dataset.

    Args:
        folder: `<OUT>/<dataset>`.
        shots: only these shots, beside what uses none; None for all.
        seeds: the seeds that each row ought to have.
        damaged: takes what is wrong with damaged records, which count as missing then.

    Returns:
        Rows sorted by shots and trainer, zero-shot first. Seeds whose configurations differ stand in rows of their own.

    Raises:
        ValueError: a record is damaged, and there is no list for it; the message names the file.
    """
    rows: list[Row] = []
    for path in sorted(path for path in folder.glob("*/*") if any(path.glob("seed*"))):
        setting = parse_folder(path)
        if shots is None or setting.shots in (None, shots):
            rows += _rows(setting, path, seeds, damaged)
    return sorted(rows, key=lambda row: (row.setting.shots or 0, row.setting.trainer, row.setting.label, row.note))


def parse_folder(path: Path) -> Setting:
    """The setting that a folder `<trainer>/<cfg>_<shots>shots[_<tag>]` (or, without shots, `<cfg>[__<tag>]`) names."""
    if match := _FOLDER.fullmatch(path.name):
        return Setting(path.parent.name, match["cfg"], int(match["shots"]), match["tag"] or "")
    cfg, _, tag = path.name.partition("__")
    return Setting(path.parent.name, cfg, None, tag)


def _rows(setting: Setting, path: Path, seeds: Iterable[int], damaged: list[str] | None) -> Iterator[Row]:
    begun = {int(child.name[4:]): child for child in path.glob("seed*") if child.name[4:].isdigit()}
    runs = {seed: run for seed, child in sorted(begun.items()) if (run := _read(child, damaged))}
    wanted = set(begun) if setting.shots is None else {*seeds, *begun}
    missing = tuple(sorted(wanted - runs.keys()))
    groups: dict[tuple[str, str | None], dict[int, dict[str, Any]]] = defaultdict(dict)
    for seed, run in runs.items():
        groups[run["config_hash"], run.get("split_hash")][seed] = run
    if len(groups) < 2:
        yield Row(setting, runs, missing, folder=path)
        return
    one_config = len({config for config, _ in groups}) == 1
    for (config, split), group in groups.items():
        note = (
            f"splits {str(split)[:8]}: its seeds ran on different data or splits, which are not averaged"
            if one_config
            else f"config {config[:8]}: its seeds ran with different configurations, which are not averaged: "
            "compare their config.yaml"
        )
        yield Row(setting, group, missing, note, path)


def _read(folder: Path, damaged: list[str] | None) -> dict[str, Any] | None:
    """The record in a folder; None if there is none, or it is damaged and there is a list that takes what is wrong."""
    try:
        return read_run(folder)
    except ValueError as error:
        if damaged is None:
            raise
        damaged.append(str(error))
        return None


# Groups: the rows that can stand in one table, of the same dataset, task and classes.


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
        dataset: its folder's name, which is its label.
        task: of the dataset.
        subsample: which classes: all, base (seen in training) or new.
        rows: one for each method and number of shots that was begun.
        name: the dataset, with its task if it has several.
    """

    dataset: str
    task: str
    subsample: str
    rows: dict[Place, Row]
    name: str

    @property
    def title(self) -> str:
        """For headings: the name, and which classes."""
        return self.name if self.subsample == ALL else f"{self.name}, {self.subsample} classes"

    @property
    def shots(self) -> list[int]:
        """The numbers of shots, in order."""
        return sorted({shots for _, shots in self.rows if shots is not None})

    @property
    def untrained(self) -> set[Method]:
        """The methods that use no shots."""
        return {method for method, shots in self.rows if shots is None}

    @property
    def columns(self) -> list[int | None]:
        """The numbers of shots, with None before them if a method uses none."""
        return [*([None] if self.untrained else []), *self.shots]

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

    def row(self, method: Method, shots: int | None) -> Row | None:
        """The row at so many shots; of a method that uses none, its only one."""
        return self.rows.get((method, None if method in self.untrained else shots))


def ordered(groups: Sequence[Group], reference: str = REFERENCE) -> list[Method]:
    """The methods of some groups: those that train nothing first, the reference's trainer last, by name between."""
    methods = {method for group in groups for method, _ in group.rows}
    untrained = {method for group in groups for method in group.untrained}
    return sorted(methods, key=lambda one: (one not in untrained, one.trainer == reference, one))


def _by_kind(groups: Iterable[Group]) -> Iterator[tuple[bool, list[Group]]]:
    """Those of real images and those of drawn ones, where there are two or more: what is averaged together."""
    found = list(groups)
    for drawn in (False, True):
        own = [group for group in found if group.is_phantom == drawn]
        if len(own) > 1:
            yield drawn, own


@dataclass(frozen=True)
class Transfer:
    """Models trained on one dataset and tested on others.

    Attributes:
        source: the rows of the trainings; only those of which an evaluation was begun.
        targets: for each other dataset a group of the same rows, real images first.
    """

    source: Group
    targets: tuple[Group, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The source's and the targets'."""
        return self.source, *self.targets

    def kinds(self) -> list[tuple[bool, list[Group]]]:
        """The real targets, and the drawn ones (True); what was only begun counts as real."""
        return list(_by_kind(self.targets))


@dataclass(frozen=True)
class Benchmark:
    """All groups and transfers.

    Attributes:
        groups: one for each dataset, task, and choice of classes.
        transfers: of those whose models were tested on other datasets, too.
        damaged: what is wrong with the records that could not be read.
        seeds: that each row ought to have.
        out: the output root.
    """

    groups: tuple[Group, ...]
    transfers: tuple[Transfer, ...] = ()
    damaged: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    out: Path = Path()

    @property
    def is_phantom(self) -> bool:
        """Whether any of the images are drawn."""
        return any(one.is_phantom for one in (*self.groups, *(one for own in self.transfers for one in own.targets)))

    def kinds(self) -> Iterator[tuple[str, list[Group]]]:
        """The datasets of real images, and those of drawn ones (" (phantom)")."""
        for drawn, groups in _by_kind(one for one in self.groups if one.subsample == ALL and one.runs):
            yield " (phantom)" if drawn else "", groups

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
        ValueError: nothing was run.
    """
    damaged: list[str] = []
    wanted = tuple(seeds)
    folders = [out / name for name in datasets] or sorted(path for path in out.glob("*") if path.is_dir())
    groups = [group for folder in folders for group in _groups(folder, wanted, damaged)]
    if not groups:
        raise ValueError(f"{out} holds no runs (<dataset>/<trainer>/<cfg>_<shots>shots/seed<k>/results.json)")
    transfers = [transfer for group in groups if (transfer := _transfer(group, damaged))]
    return Benchmark(tuple(groups), tuple(transfers), tuple(damaged), wanted, out)


def own_sets(out: Path) -> list[str]:
    """The labels of the user's own images that were run below an output root, sorted."""
    firsts = (next(folder.glob(f"*/*/seed*/{RESULTS}"), None) for folder in sorted(out.glob("*")))
    records = (read_json(path) for path in firsts if path)
    return sorted(str(run["label"]) for run in records if isinstance(run, dict) and run.get("label"))


def slug(*names: str) -> str:
    """Names as a part of file names and ids."""
    return "-".join(re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "x" for name in names if name)


def _groups(folder: Path, seeds: Sequence[int], damaged: list[str]) -> Iterator[Group]:
    """Trainings, and their evaluations on new classes."""
    rows = collect(folder, seeds=seeds, damaged=damaged)
    if folder.name == OWN_FOLDER and any(_PLACE.search(row.setting.tag) for row in rows):
        places: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            told, rest = _PLACE.search(row.setting.tag), _PLACE.sub("", row.setting.tag).strip("_")
            places[told[1] if told else ""].append(replace(row, setting=replace(row.setting, tag=rest)))
        for place, own in sorted(places.items()):
            yield from _of_dataset(f"{folder.name}: {place}" if place else folder.name, own, damaged)
    else:
        yield from _of_dataset(folder.name, rows, damaged)


def _of_dataset(dataset: str, rows: list[Row], damaged: list[str]) -> Iterator[Group]:
    """The groups of one dataset's trainings."""
    found: dict[tuple[str, str], dict[Place, Row]] = defaultdict(dict)
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
    several = len({task for task, _ in found}) > 1
    for (task, subsample), own in sorted(found.items()):
        yield Group(dataset, task, subsample, own, f"{dataset}, task {task}" if several and task else dataset)


def _on_new_classes(row: Row, damaged: list[str]) -> Row | None:
    """The evaluations on new classes of a row that was trained on the base classes; None if there are none."""
    runs, places = {}, {}
    for seed, run in row.runs.items():
        if run.get("subsample") != BASE:
            continue
        for folder in sorted((row.folder / f"seed{seed}" / "evaluation").glob(f"*_{NEW}")):
            if (found := _read(folder, damaged)) and _of_one_dataset(found, run):
                runs[seed], places[seed] = found, folder
    missing = tuple(sorted({*row.runs, *row.missing} - runs.keys()))
    return replace(row, runs=runs, missing=missing, places=places) if runs else None


def _of_one_dataset(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of one dataset; those of older versions have no label."""
    labels = {run["label"] for run in (one, other) if run.get("label")}
    return one["dataset"] == other["dataset"] and len(labels) < 2


# Evaluations on other datasets. `xcoop sweep` names the target by its configuration or label, `train.py --eval-only`
# by its label or `DATASET.NAME`; names that differ only in capitals are one target. What a run was trained on is none,
# nor are other epochs, other splits or models that were never trained.

Found = dict[int, tuple[Path, dict[str, Any]]]
"""The evaluations of one cell on one target: folder and record, by seed."""


def _transfer(group: Group, damaged: list[str]) -> Transfer | None:
    trained = {place: row for place, row in group.rows.items() if not row.places}  # others are evaluations themselves
    found = {place: own for place, row in trained.items() if (own := _evaluations(group, row, damaged))}
    if not found:
        return None
    targets = []
    for name in sorted({name for own in found.values() for name in own}):
        made = {place: _evaluated(name, trained[place], own.get(name, {})) for place, own in found.items()}
        records = [run for row in made.values() for run in row.runs.values()]
        task = next((str(run.get("task", "")) for run in records), "")
        label = next((str(run["label"]) for run in records if run.get("label")), name)
        targets.append(Group(label, task, group.subsample, made, label))
    targets.sort(key=lambda target: target.is_phantom)
    return Transfer(replace(group, rows={place: trained[place] for place in found}), tuple(targets))


def _evaluations(group: Group, row: Row, damaged: list[str]) -> dict[str, Found]:
    """What a row's models were evaluated on, by the target's name in small letters; no record of what was only begun.

    Where a seed was evaluated under two spellings, that of `xcoop sweep` (in small letters) counts.
    """
    found: dict[str, Found] = defaultdict(dict)
    ending = f"_{group.subsample}"
    for seed, run in row.runs.items():
        evaluations = (row.folder / f"seed{seed}" / "evaluation").glob(f"?*{ending}")
        for folder in sorted(evaluations, key=lambda path: path.name.swapcase()):
            name = folder.name.removesuffix(ending).casefold()
            if name == group.dataset.casefold():
                continue
            record = _read(folder, damaged)
            if record is None:
                found[name] = found[name]
                continue
            own = name == str(run["dataset"]).casefold() and record.get("test_hash") == run.get("test_hash")
            final = record.get("load_epoch") is None and record.get("evaluated_from") != UNTRAINED
            if final and not own and record.get("split") == run.get("split"):
                found[name].setdefault(seed, (folder, record))
    return dict(found)


def _evaluated(target: str, row: Row, found: Found) -> Row:
    """The row of the trainings with the records of their evaluations in the place of its own."""
    note = ""
    if len({(record["config_hash"], record.get("split_hash")) for _, record in found.values()}) > 1:
        place = "/".join(row.folder.parts[-3:])
        note = (
            f"{target}: the seeds of {row.setting.trainer} {row.setting.label} were evaluated with different "
            f"configurations or data, which are not averaged: compare config.yaml below {place}"
        )
        found = {}
    runs = {seed: record for seed, (_, record) in found.items()}
    places = {seed: folder for seed, (folder, _) in found.items()}
    missing = tuple(sorted({*row.runs, *row.missing} - runs.keys()))
    return replace(row, runs=runs, missing=missing, note=note or row.note, places=places)
