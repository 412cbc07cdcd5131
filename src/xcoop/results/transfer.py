"""Trained models on the test images of other datasets: the records of evaluations below the runs that were trained.

<run>/evaluation/<target>_<classes>/results.json. `xcoop sweep` names the target by its configuration, `train.py
--eval-only` by `DATASET.NAME`; names that differ only in capitals are one target. What a run was trained on is none,
nor are other epochs, other splits or models that were never trained.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xcoop.results.benchmark import Benchmark, Group, Method
from xcoop.results.record import UNTRAINED
from xcoop.results.rows import Row, read_or_name

Place = tuple[Method, int | None]
Found = dict[int, tuple[Path, dict[str, Any]]]
"""The evaluations of one cell on one target: folder and record, by seed."""


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

    @property
    def is_phantom(self) -> bool:
        """Whether any of the images are drawn."""
        return any(group.is_phantom for group in self.groups)

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


def transfers(benchmark: Benchmark, damaged: list[str]) -> list[Transfer]:
    """One for each dataset and task whose models were evaluated on others.

    Args:
        benchmark: the trainings.
        damaged: takes what is wrong with damaged records, which count as missing then.
    """
    return [one for group in benchmark.groups if (one := _transfer(group, damaged))]


def _transfer(group: Group, damaged: list[str]) -> Transfer | None:
    trained = {place: row for place, row in group.rows.items() if not row.places}  # others are evaluations themselves
    found = {place: _evaluations(group, row, damaged) for place, row in trained.items()}
    rows = {place: trained[place] for place, own in found.items() if own}
    names = _names(name for own in found.values() for name in own)
    if not names:
        return None
    targets = [_target(group, spelled, rows, {place: _merged(found[place], key) for place in rows})
               for key, spelled in names.items()]  # fmt: skip
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
            elif _elsewhere(name, record, run):
                found[name][seed] = folder, record
    return dict(found)


def _elsewhere(name: str, record: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether a record is one of the run's final model, on the same split of another dataset."""
    own = name.casefold() == str(run["dataset"]).casefold() and record.get("test_hash") == run.get("test_hash")
    final = record.get("load_epoch") is None and record.get("evaluated_from") != UNTRAINED
    return final and not own and record.get("split") == run.get("split")


def _names(found: Iterable[str]) -> dict[str, str]:
    """The targets' names, spelled as `xcoop sweep` would (in small letters) if any is."""
    names: dict[str, str] = {}
    for name in sorted(found, key=str.swapcase):
        names.setdefault(name.casefold(), name)
    return names


def _merged(found: dict[str, Found], key: str) -> Found:
    """A target's evaluations under any spelling of its name; the first in the order of `_names` wins."""
    merged: Found = {}
    for name in sorted((name for name in found if name.casefold() == key), key=str.swapcase, reverse=True):
        merged |= found[name]
    return merged


def _target(source: Group, name: str, rows: dict[Place, Row], found: dict[Place, Found]) -> Group:
    made = {place: _row(name, row, found[place]) for place, row in rows.items()}
    tasks = [str(run.get("task", "")) for row in made.values() for run in row.runs.values()]
    return Group(name, tasks[0] if tasks else "", source.subsample, made)


def _row(target: str, row: Row, found: Found) -> Row:
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
