"""Every cell as one line of numbers: what the tables show, unrounded, with the hashes that they come from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xcoop.evaluation.bootstrap import Interval
from xcoop.results.benchmark import Group
from xcoop.results.measures import Measure
from xcoop.results.rows import Row
from xcoop.results.spreadsheets import spreadsheet_safe
from xcoop.results.tables_cost import mean_of
from xcoop.results.tables_shots import Place


def cells(
    group: Group,
    measure: Measure,
    intervals: Mapping[Place, Interval | None],
    marks: Mapping[Place, str],
    source: str = "",
) -> Iterator[dict[str, Any]]:
    """A line for each cell of a table, fractions in the place of percents; what is missing is empty.

    Args:
        group: the cells.
        measure: of the table.
        intervals: by cell.
        marks: by cell.
        source: the dataset that was trained on, if it is not the one that was tested on. Such lines bear a `dataset`
            of their own, "<source> to <target>", so that no other line is taken for one of them.
    """
    for place, row in group.rows.items():
        method, shots = place
        found = intervals.get(place)
        yield {
            "dataset": f"{source} to {group.dataset}" if source else group.dataset,
            "task": group.task,
            "classes": group.subsample,
            "trainer": method.trainer,
            "cfg": method.cfg,
            "overrides": method.tag,
            "shots": shots,
            "seeds": " ".join(map(str, sorted(row.runs))),
            "missing_seeds": " ".join(map(str, row.missing)),
            "note": row.note,
            "metric": measure.name,
            "mean": row.mean(measure.name),
            "std": row.std(measure.name),
            "low": found.low if found else None,
            "high": found.high if found else None,
            "mark": marks.get(place, ""),
            "folder": row.folder.as_posix(),
            **_origin(row),
            "source": source or group.dataset,
            "target": group.dataset,
        }


def lines_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Such lines as CSV; empty for none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    if lines:
        writer.writeheader()
    writer.writerows({key: spreadsheet_safe(value) for key, value in line.items()} for line in lines)
    return text.getvalue()


def _origin(row: Row) -> dict[str, Any]:
    runs = list(row.runs.values())

    def all_of(*path: str) -> str:
        return " ".join(sorted({str(_below(run, path)) for run in runs}))

    return {
        **{key: all_of(key) for key in ("n_test", "is_phantom", "selection", "split_hash", "test_hash", "config_hash")},
        "commit": all_of("git"),
        "xcoop": all_of("versions", "xcoop"),
        "torch": all_of("versions", "torch"),
        "trained_parameters": mean_of(runs, "trained_parameters"),
        "train_seconds": mean_of(runs, "seconds", "train"),
        "peak_memory_mb": mean_of(runs, "peak_memory_mb"),
        "peak_gpu_memory_mb": mean_of(runs, "peak_gpu_memory_mb"),
    }


def _below(run: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = run
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
