"""The rows of all tables: what was run on a dataset, and the mean and spread over its seeds.

Only `results.json` is read. What is missing is marked, and what disagrees is not averaged.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xcoop.results.record import read_run

_FOLDER = re.compile(r"(?P<cfg>.+?)_(?P<shots>-?\d+)shots(?:_(?P<tag>.+))?")


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
    """One line of the table.

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

    def mean(self, metric: str) -> float | None:
        """Mean over the seeds, a fraction; None if any seed lacks it."""
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def std(self, metric: str) -> float | None:
        """Standard deviation over the seeds (ddof 1), a fraction; None for fewer than two seeds."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def values(self, metric: str) -> list[float]:
        """The metric of each seed; empty if one of them lacks it."""
        values = [run["metrics"].get(metric) for run in self.runs.values()]
        return [] if None in values else values

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


def _rows(setting: Setting, path: Path, seeds: Iterable[int], damaged: list[str] | None) -> list[Row]:
    begun = {int(child.name[4:]): child for child in path.glob("seed*") if child.name[4:].isdigit()}
    runs = {seed: run for seed, child in sorted(begun.items()) if (run := read_or_name(child, damaged))}
    wanted = set(begun) if setting.shots is None else {*seeds, *begun}
    missing = tuple(sorted(wanted - runs.keys()))
    groups: dict[tuple[str, str | None], dict[int, dict[str, Any]]] = defaultdict(dict)
    for seed, run in runs.items():
        groups[run["config_hash"], run.get("split_hash")][seed] = run
    if len(groups) < 2:
        return [Row(setting, runs, missing, folder=path)]
    configs = len({config for config, _ in groups})
    rows = []
    for (config, split), group in groups.items():
        if configs > 1:
            note = (
                f"config {config[:8]}: its seeds ran with different configurations, which are not averaged: "
                "compare their config.yaml"
            )
        else:
            note = f"splits {str(split)[:8]}: its seeds ran on different data or splits, which are not averaged"
        rows.append(Row(setting, group, missing, note, path))
    return rows


def read_or_name(folder: Path, damaged: list[str] | None) -> dict[str, Any] | None:
    """The record in a folder; None if there is none, or it is damaged and there is a list that takes what is wrong."""
    try:
        return read_run(folder)
    except ValueError as error:
        if damaged is None:
            raise
        damaged.append(str(error))
        return None
