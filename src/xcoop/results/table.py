"""Tables of results: mean and spread over seeds, one row for each trainer and configuration.

The header says what the figures are; `rows` reads them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from xcoop.evaluation.calibration import ECE_BINS
from xcoop.results.facts import best_reachable, classes_said
from xcoop.results.rows import Row, Setting, collect, parse_folder
from xcoop.results.spreadsheets import spreadsheet_safe

__all__ = ["COLUMNS", "FORMATS", "Row", "Setting", "collect", "heading", "parse_folder", "render"]

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
        notes += best_reachable(runs)
    notes += classes_said(runs)
    if len({run.get("test_hash") for run in runs}) > 1:
        notes.append("WARNING: these rows were not all tested on the same images; do not compare them.")
    return notes


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
        writer.writerow({key: spreadsheet_safe(value) for key, value in (line | lists).items()})
    return text.getvalue()
