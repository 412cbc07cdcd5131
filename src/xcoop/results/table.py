"""Tables of results: mean and spread over seeds, one row for each trainer and configuration.

Only `results.json` is read. What is missing is marked, what disagrees is not averaged, and the header says what the
figures are.
"""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from xcoop.evaluation.calibration import ECE_BINS
from xcoop.results.record import read_run

# key in `metrics`: column title
COLUMNS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced acc.",
    "macro_f1": "Macro-F1",
    "macro_auc": "Macro-AUC",
    "ece": "ECE (lower is better)",
}
FORMATS = ("terminal", "markdown", "csv", "json", "latex")
UNKNOWN = "n/a"
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
    """

    setting: Setting
    runs: dict[int, dict[str, Any]]
    missing: tuple[int, ...] = ()
    note: str = ""

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

    @property
    def seeds(self) -> str:
        """The seeds averaged and those missing, e.g. "1 2 (missing: 3)"; "-" where seeds make no difference."""
        done = " ".join(map(str, sorted(self.runs))) or "none"
        if self.setting.shots is None and self.runs:
            return "-"
        return f"{done} (missing: {' '.join(map(str, self.missing))})" if self.missing else done


def collect(folder: Path, shots: int | None = None, seeds: Iterable[int] = ()) -> list[Row]:
    """The rows of all trainers and configurations that were run on a dataset.

    Args:
        folder: `<OUT>/<dataset>`.
        shots: only these shots, beside what uses none; None for all.
        seeds: the seeds that each row ought to have.

    Returns:
        Rows sorted by shots and trainer, zero-shot first. Seeds whose configurations differ stand in rows of their own.

    Raises:
        ValueError: a record is damaged; the message names the file.
    """
    rows: list[Row] = []
    for setting, path in _settings(folder):
        if shots is None or setting.shots in (None, shots):
            rows += _rows(setting, path, seeds)
    return sorted(rows, key=lambda row: (row.setting.shots or 0, row.setting.trainer, row.setting.label, row.note))


def _settings(folder: Path) -> list[tuple[Setting, Path]]:
    paths = sorted(path for path in folder.glob("*/*") if any(path.glob("seed*")))
    return [(parse_folder(path), path) for path in paths]


def parse_folder(path: Path) -> Setting:
    """The setting that a folder `<trainer>/<cfg>_<shots>shots[_<tag>]` (or, without shots, `<cfg>[__<tag>]`) names."""
    if match := _FOLDER.fullmatch(path.name):
        return Setting(path.parent.name, match["cfg"], int(match["shots"]), match["tag"] or "")
    cfg, _, tag = path.name.partition("__")
    return Setting(path.parent.name, cfg, None, tag)


def _rows(setting: Setting, path: Path, seeds: Iterable[int]) -> list[Row]:
    begun = {int(child.name[4:]): child for child in path.glob("seed*") if child.name[4:].isdigit()}
    runs = {seed: run for seed, child in sorted(begun.items()) if (run := read_run(child))}
    wanted = set(begun) if setting.shots is None else {*seeds, *begun}
    missing = tuple(sorted(wanted - runs.keys()))
    groups: dict[tuple[str, str | None], dict[int, dict[str, Any]]] = defaultdict(dict)
    for seed, run in runs.items():
        groups[run["config_hash"], run.get("split_hash")][seed] = run
    if len(groups) < 2:
        return [Row(setting, runs, missing)]
    return [Row(setting, group, missing, _difference(key, groups)) for key, group in groups.items()]


def _difference(key: tuple[str, str | None], others: Iterable[tuple[str, str | None]]) -> str:
    """Why a group of seeds has a row of its own: another configuration, or the same one on other data."""
    if len({config for config, _ in others}) > 1:
        note = "its seeds ran with different configurations, which are not averaged: compare their config.yaml"
        return f"config {key[0][:8]}: {note}"
    return f"splits {str(key[1])[:8]}: its seeds ran on different data or splits, which are not averaged"


def render(rows: Sequence[Row], dataset: str, style: str = "terminal") -> str:
    """The table as text.

    Args:
        rows: of `collect`.
        dataset: its name, for the heading.
        style: one of `FORMATS`.

    Raises:
        ValueError: an unknown style.
    """
    if style == "csv":
        return _csv(rows)
    if style == "json":
        return json.dumps([_plain(row) for row in rows], indent=2) + "\n"
    if style not in FORMATS:
        raise ValueError(f"unknown table format {style!r}; known: {', '.join(FORMATS)}")
    notes = _notes(rows)
    marks = {text: f"[{number}]" for number, text in enumerate(dict.fromkeys(r.note for r in rows if r.note), 1)}
    body = [_cells(row, marks.get(row.note, "")) for row in rows]
    headers = ["Trainer", "Config", "Shots", "Seeds", *COLUMNS.values()]
    lines = [*heading(rows, dataset), *notes, *(f"{mark} {text}" for text, mark in marks.items())]
    if style == "latex":
        table = tabulate(body, headers, tablefmt="latex_booktabs", disable_numparse=True)
        return "\n".join([*(f"% {line}" for line in lines), table.replace("±", r"$\pm$")]) + "\n"
    table = tabulate(body, headers, tablefmt="simple" if style == "terminal" else "github", disable_numparse=True)
    gap = "\n" if style == "terminal" else "\n\n"
    return gap.join(lines) + f"\n\n{table}\n"


def heading(rows: Sequence[Row], dataset: str) -> list[str]:
    """What the figures are: dataset, test images, how mean and spread are computed, how the model was selected."""
    runs = [run for row in rows for run in row.runs.values()]
    sizes = " or ".join(str(n) for n in sorted({run["n_test"] for run in runs})) or "no"
    split = " or ".join(sorted({run["split"] for run in runs})) or "test"
    selection = " or ".join(sorted({run["selection"] for run in runs})) or "-"
    return [
        f"{dataset}, {sizes} {split} images; model: {selection}.",
        f"Percent, mean ± standard deviation over seeds (ddof 1; none for one seed). ECE: {ECE_BINS} bins.",
    ]


def _notes(rows: Sequence[Row]) -> list[str]:
    runs = [run for row in rows for run in row.runs.values()]
    notes = []
    if any(run.get("is_phantom") for run in runs):
        notes.append("phantom: not a clinical result.")
        notes += _best_reachable(runs)
    if len({run.get("test_hash") for run in runs}) > 1:
        notes.append("WARNING: these rows were not all tested on the same images; do not compare them.")
    return notes


def _best_reachable(runs: Sequence[dict[str, Any]]) -> list[str]:
    best = next((run["best_reachable"] for run in runs if run.get("best_reachable")), None)
    if not best:
        return []
    figures = ", ".join(f"{name.replace('auc', 'AUC')} {100 * value:.1f}" for name, value in best.items())
    return [f"Best that any classifier can reach on it: {figures}."]


def _cells(row: Row, mark: str) -> list[str]:
    setting = row.setting
    shots = "-" if setting.shots is None else str(setting.shots)
    label = f"{setting.label} {mark}".strip()
    return [setting.trainer, label, shots, row.seeds, *(_figure(row, metric) for metric in COLUMNS)]


def _figure(row: Row, metric: str) -> str:
    mean, std = row.mean(metric), row.std(metric)
    if mean is None:
        return UNKNOWN if row.runs else "missing"
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"


def _plain(row: Row) -> dict[str, Any]:
    """A row as numbers (fractions), with the files that it was made from."""
    first = next(iter(row.runs.values()), {})
    plain: dict[str, Any] = {
        "trainer": row.setting.trainer,
        "cfg": row.setting.cfg,
        "overrides": row.setting.tag,
        "shots": row.setting.shots,
        "seeds": sorted(row.runs),
        "missing_seeds": list(row.missing),
        "backbone": first.get("backbone"),
        "n_test": first.get("n_test"),
        "selection": first.get("selection"),
        "is_phantom": first.get("is_phantom"),
        "config_hash": first.get("config_hash"),
        "note": row.note,
    }
    for metric in COLUMNS:
        plain[f"{metric}_mean"], plain[f"{metric}_std"] = row.mean(metric), row.std(metric)
    return plain


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    plain = [_plain(row) for row in rows]
    writer = csv.DictWriter(text, list(_plain(Row(Setting("", "", None, ""), {}))), lineterminator="\n")
    writer.writeheader()
    for line in plain:
        lists = {key: " ".join(map(str, value)) for key, value in line.items() if isinstance(value, list)}
        writer.writerow(line | lists)
    return text.getvalue()
