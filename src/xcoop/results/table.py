"""`xcoop table`: mean and spread over seeds, one row for each trainer and configuration of a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from xcoop.evaluation.metrics import ECE_BINS
from xcoop.results.benchmark import Row
from xcoop.results.sheet import (
    MISSING,
    UNKNOWN,
    best_reachable,
    booktabs,
    classes_said,
    either,
    in_latex,
    in_markdown,
    lines_csv,
    percent,
)

# key in `metrics`: column title
COLUMNS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced acc.",
    "macro_f1": "Macro-F1",
    "macro_auc": "Macro-AUC",
    "ece": "ECE (lower is better)",
}
FORMATS = ("terminal", "markdown", "csv", "json", "latex")


def render(rows: Sequence[Row], dataset: str, style: str = "terminal") -> str:
    """The table as text.

    Args:
        rows: of `xcoop.results.benchmark.collect`.
        dataset: its name, for the heading.
        style: one of `FORMATS`.
    """
    if style == "json":
        return json.dumps([_plain(row) for row in rows], indent=2) + "\n"
    if style == "csv":
        return lines_csv([{key: _in_cell(value) for key, value in _plain(row).items()} for row in rows])
    marks = {text: f"[{number}]" for number, text in enumerate(dict.fromkeys(r.note for r in rows if r.note), 1)}
    headers, body = ["Trainer", "Config", "Shots", "Seeds", *COLUMNS.values()], []
    for row in rows:
        setting = row.setting
        named = [setting.trainer, f"{setting.label} {marks.get(row.note, '')}".strip()]
        shots = "-" if setting.shots is None else str(setting.shots)
        body.append([*named, shots, row.seeds, *(_figure(row, metric) for metric in COLUMNS)])
    lines = [*_heading(rows, dataset), *(f"{mark} {text}" for text, mark in marks.items())]
    if style == "latex":
        table = booktabs([in_latex(name) for name in headers], [[in_latex(cell) for cell in row] for row in body])
        return "\n".join([*(f"% {line}" for line in lines), table]) + "\n"
    if style == "markdown":
        body = [[in_markdown(cell) for cell in row] for row in body]
    table = tabulate(body, headers, tablefmt="simple" if style == "terminal" else "github", disable_numparse=True)
    gap = "\n" if style == "terminal" else "\n\n"
    return gap.join(lines) + f"\n\n{table}\n"


def _heading(rows: Sequence[Row], dataset: str) -> list[str]:
    """What the figures are: test images, selection, how mean and spread are computed, and what to beware of."""
    runs = [run for row in rows for run in row.runs.values()]
    sizes, split, selection = (either(run[key] for run in runs) for key in ("n_test", "split", "selection"))
    lines = [
        f"{dataset}, {sizes or 'no'} {split or 'test'} images; model: {selection or '-'}.",
        f"Percent, mean ± standard deviation over seeds (ddof 1; none for one seed). ECE: {ECE_BINS} bins.",
    ]
    if any(run.get("is_phantom") for run in runs):
        lines += ["phantom: not a clinical result.", *best_reachable(runs)]
    lines += classes_said(runs)
    if len({run.get("test_hash") for run in runs}) > 1:
        lines.append("WARNING: these rows were not all tested on the same images; do not compare them.")
    return lines


def _figure(row: Row, metric: str) -> str:
    mean = row.mean(metric)
    if mean is None:
        return UNKNOWN if row.runs else MISSING
    return percent(mean, row.std(metric))


def _plain(row: Row) -> dict[str, Any]:
    """A row as numbers (fractions), with the files that it was made from."""
    plain: dict[str, Any] = {
        "trainer": row.setting.trainer,
        "cfg": row.setting.cfg,
        "overrides": row.setting.tag,
        "shots": row.setting.shots,
        "seeds": sorted(row.runs),
        "missing_seeds": list(row.missing),
        **{key: row.first.get(key) for key in ("backbone", "n_test", "selection", "is_phantom", "config_hash")},
        "note": row.note,
    }
    for metric in COLUMNS:
        plain[f"{metric}_mean"], plain[f"{metric}_std"] = row.mean(metric), row.std(metric)
    return plain


def _in_cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
