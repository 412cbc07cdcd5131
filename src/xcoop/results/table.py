"""A table as data, what it says of itself, the formats that it is written in; and the table of `xcoop table`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tabulate import LATEX_ESCAPE_RULES, tabulate

from xcoop.evaluation.metrics import ECE_BINS
from xcoop.results.benchmark import Row
from xcoop.results.record import ABSENT, spreadsheet_safe

BEST, TIED = "best", "tied"
MISSING, NONE, UNKNOWN = "missing", "-", "n/a"
LEGEND = {
    BEST: "best of its column",
    TIED: "not significantly worse than the best (paired bootstrap over the images, Holm over the column, level 0.05)",
}
SIGNS = {BEST: " *", TIED: " ~", "": ""}
INTERVAL = (
    "In brackets: the 95 % interval over the test images (bootstrap within classes, patients drawn whole where they "
    "are known); the spread over seeds is no part of it"
)
SPREAD = "Percent; mean ± standard deviation over the seeds (ddof 1; none for one seed)"
PHANTOM = "phantom: drawn images; not a clinical result."


@dataclass(frozen=True)
class Shown:
    """What one cell shows: plain text, the mark `BEST`, `TIED` or "", and what stands below it, such as an interval."""

    text: str
    mark: str = ""
    below: str = ""

    @property
    def signed(self) -> str:
        """The text with the mark as a sign behind it."""
        return self.text + SIGNS[self.mark]

    @property
    def line(self) -> str:
        """All of it on one line."""
        return " ".join(filter(None, (self.text, self.below))) + SIGNS[self.mark]


@dataclass(frozen=True)
class Sheet:
    """A table with its caption and all that a reader must know about it.

    Attributes:
        key: for file names and ids.
        title: the caption.
        head: names of the columns.
        rows: cells; the first of each row names it.
        notes: plain sentences below it: what its figures are.
        origin: plain sentences on where they come from.
        minor: whether it adds detail to another table, so that a terminal need not show it.
        lead: whether it is what was asked for, which opens its section of the page.
    """

    key: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]
    notes: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    minor: bool = False
    lead: bool = False

    @property
    def marks(self) -> list[str]:
        """The marks that it uses."""
        used = {cell.mark for row in self.rows for cell in row}
        return [mark for mark in LEGEND if mark in used]

    @property
    def legend(self) -> list[str]:
        """What the signs of its marks mean."""
        return [f"{SIGNS[mark].strip()} {LEGEND[mark]}" for mark in self.marks]


def finished(sheet: Sheet, names: int = 1) -> Sheet | None:
    """A table without the rows and columns of which nothing is finished, which a note names; None if nothing is left.

    Args:
        sheet: the table.
        names: how many of its first columns name the rows.
    """

    def known(cells: Iterable[Shown]) -> bool:
        return any(cell.text not in (MISSING, NONE) for cell in cells)

    rows = [row for row in sheet.rows if known(row[names:])]
    kept = [i for i in range(len(sheet.head)) if i < names or known(row[i] for row in rows)]
    if not rows:
        return None
    gone = [
        " at ".join(cell.text for cell in row[:names] if cell.text != NONE) for row in sheet.rows if row not in rows
    ]
    gone += [name for i, name in enumerate(sheet.head) if i not in kept]
    note = [f"Not shown, since every cell of it is missing: {', '.join(gone)}."] if gone else []
    return replace(
        sheet,
        head=tuple(sheet.head[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in rows),
        notes=(*sheet.notes, *note),
    )


def percent(share: float, spread: float | None = None) -> str:
    """A fraction in percent, with its spread if there is one: `85.1 ± 1.2`."""
    return f"{100 * share:.1f}" if spread is None else f"{100 * share:.1f} ± {100 * spread:.1f}"


# What a table says of itself: the images, the selection, where its figures come from.


def facts(runs: Sequence[dict[str, Any]], metric: str = "") -> tuple[str, ...]:
    """Plain sentences on the records behind a table of a metric, or of none."""
    if not runs:
        return ("No run is finished.",)
    lines = [PHANTOM] if any(run.get("is_phantom") for run in runs) else []
    if lines and metric in ("", "accuracy", "macro_auc") and len({run.get("test_hash") for run in runs}) == 1:
        lines += best_reachable(runs)
    if metric == "ece":
        lines.append(f"ECE over {ECE_BINS} bins of equal width.")
    versions = ", ".join(
        f"{name} {either(run.get('versions', {}).get(name, 'not known') for run in runs)}"
        for name in ("xcoop", "engine", "python", "torch")
    )
    return (
        *lines,
        *classes_said(runs),
        f"{either(run['n_test'] for run in runs)} {either(run['split'] for run in runs)} images "
        f"({_hashes('test_hash', runs)}; {_hashes('split_hash', runs)}). "
        f"Model of each run: {either(run['selection'] for run in runs)}.",
        f"Made by {_hashes('config_hash', runs)}; {_hashes('git', runs, 'commit')}; {versions}.",
    )


def either(values: Iterable[Any]) -> str:
    """The different values: `200 or 624`."""
    return " or ".join(map(str, sorted(set(values))))


def classes_said(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Which of two classes is positive (in records of older versions, the last), and which have no test image."""
    twos = [run for run in runs if len(run.get("classnames", ())) == 2]
    positive = either(str(run.get("positive_class") or run["classnames"][-1]) for run in twos)
    absent = sorted({name for run in runs for name in run.get("absent_classes", ())})
    lines = [f"Positive class: {positive}."] if positive else []
    return lines + ([f"WARNING: no test image of {', '.join(absent)}: {ABSENT}."] if absent else [])


def best_reachable(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What any classifier can reach on a phantom, if its card says so."""
    best = next((run["best_reachable"] for run in runs if run.get("best_reachable")), None)
    if not best:
        return []
    figures = ", ".join(f"{name.replace('auc', 'AUC')} {100 * value:.1f}" for name, value in best.items())
    return [f"Best that any classifier can reach on it: {figures}."]


def short(value: str) -> str:
    """The first digits of a hash, with the mark of a checkout that was changed; what is no hash (`not known`) whole."""
    return value if " " in value else value[:8] + ("-dirty" if value.endswith("-dirty") else "")


def _hashes(key: str, runs: Iterable[dict[str, Any]], name: str = "") -> str:
    """The different values of a hash: each one if they are few, else how many, and one hash of them all."""
    values = sorted({str(run.get(key) or "not known") for run in runs})
    if len(values) <= 4:
        return f"{name or key} {', '.join(map(short, values))}"
    together = hashlib.sha256("\n".join(values).encode()).hexdigest()
    return f"{len(values)} different {name or key}, together {short(together)} (each in cells.csv)"


# The formats.


def terminal(sheet: Sheet) -> str:
    """For a terminal; marks are signs behind the figures."""
    body = [["\n".join(filter(None, (cell.signed, cell.below))) for cell in row] for row in sheet.rows]
    table = tabulate(body, sheet.head, tablefmt="simple", disable_numparse=True)
    return "\n".join([sheet.title, "", table, "", *sheet.legend, *sheet.notes, *sheet.origin]) + "\n"


def markdown(sheet: Sheet) -> str:
    """As GitHub shows it; the best is bold, what is not significantly worse italic."""
    around = {BEST: "**", TIED: "*", "": ""}
    body = [
        [
            f"{around[cell.mark]}{in_markdown(cell.text)}{around[cell.mark]}"
            + (f"<br>{in_markdown(cell.below)}" if cell.below else "")
            for cell in row
        ]
        for row in sheet.rows
    ]
    table = tabulate(body, [in_markdown(name) for name in sheet.head], tablefmt="github", disable_numparse=True)
    legend = {BEST: f"**Bold**: {LEGEND[BEST]}.", TIED: f"*Italic*: {LEGEND[TIED]}."}
    notes = [*(legend[mark] for mark in sheet.marks), *map(in_markdown, (*sheet.notes, *sheet.origin))]
    return "\n\n".join([f"**{in_markdown(sheet.title)}**", table, *notes]) + "\n"


def in_markdown(value: str) -> str:
    """A name as Markdown text."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(value.split()))


def latex(sheet: Sheet) -> str:
    """A `table` with `booktabs` rules; the best is bold, what is not significantly worse underlined."""
    around = {BEST: r"\textbf{%s}", TIED: r"\underline{%s}", "": "%s"}
    legend = {BEST: rf"\textbf{{Bold}}: {LEGEND[BEST]}.", TIED: rf"\underline{{Underlined}}: {LEGEND[TIED]}."}
    notes = [*(legend[mark] for mark in sheet.marks), *map(in_latex, (*sheet.notes, *sheet.origin))]
    stacked = r"\shortstack{%s\\{\scriptsize %s}}"  # of LaTeX itself
    body = []
    for row in sheet.rows:
        cells = [(around[cell.mark] % in_latex(cell.text), in_latex(cell.below)) for cell in row]
        body.append([stacked % pair if pair[1] else pair[0] for pair in cells])
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{in_latex(sheet.title)}}}",
            rf"\label{{tab:{sheet.key}}}",
            booktabs([in_latex(name) for name in sheet.head], body),
            *([r"\par\smallskip\footnotesize", " ".join(notes)] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def booktabs(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A LaTeX `tabular` of cells that are LaTeX already."""
    import pandas

    # a bracket at the start of a row would be taken for an argument of the line break before it
    rows = [[f"{{}}{first}" if first.startswith("[") else first, *rest] for first, *rest in body]
    columns = "l" + "r" * (len(head) - 1)
    return pandas.DataFrame(rows, columns=list(head)).to_latex(index=False, column_format=columns).rstrip()


def in_latex(value: str) -> str:
    """A name or figure as LaTeX text, on one line; a hyphen before a figure is too short for a minus sign."""
    rules = {**LATEX_ESCAPE_RULES, "±": r"$\pm$", "\N{MINUS SIGN}": "$-$"}
    text = "".join(rules.get(letter, letter) for letter in " ".join(value.split()))
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", text)


def table_csv(sheet: Sheet) -> str:
    """As it is shown, with the title and the notes as comment lines in front."""
    notes = "".join(f"# {' '.join(line.split())}\n" for line in (sheet.title, *sheet.notes, *sheet.origin))
    return notes + lines_csv([[cell.line for cell in row] for row in sheet.rows], sheet.head)


def lines_csv(lines: Sequence[Mapping[str, Any] | Sequence[Any]], head: Sequence[str] | None = None) -> str:
    """Lines (with a `head`, or by column names) as CSV whose cells a spreadsheet does not compute; "" for none."""
    import pandas

    frame = pandas.DataFrame(lines, columns=None if head is None else list(head), dtype=object)
    frame.columns = pandas.Index([spreadsheet_safe(name) for name in frame.columns])
    return frame.map(spreadsheet_safe).to_csv(index=False, lineterminator="\n") if len(frame.columns) else ""


# `xcoop table`: mean and spread over seeds, one row for each trainer and configuration of a dataset.

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
