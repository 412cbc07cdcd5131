"""What a method costs: parameters, seconds, memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from xcoop.results.benchmark import Group, Method
from xcoop.results.facts import facts
from xcoop.results.rows import Row
from xcoop.results.sheet import NONE, UNKNOWN, Sheet, Shown

HEAD = ("Method", "Shots", "Trained parameters", "Training s", "Features s", "Test s", "Memory MiB", "GPU memory MiB")


def cost_sheet(group: Group, labels: Mapping[Method, str], reference: str) -> Sheet:
    """One row for each method, at its largest number of shots: means over the seeds."""
    lines = []
    for method in group.methods(reference):
        shots = max((shots for own, shots in group.rows if own == method), key=lambda number: number or 0)
        lines.append((Shown(labels[method]), Shown(NONE if shots is None else str(shots)),
                      *map(Shown, _figures(group.rows[method, shots]))))  # fmt: skip
    places = sorted({_place(run) for run in group.runs})
    notes = [
        "Means over the seeds, wall time. Training without the features of frozen towers, which are computed once and "
        "may have come from a cache. Memory: the most that the process held, Python and PyTorch included.",
        f"Computed on: {'; '.join(places) or 'nothing'}.",
        *(["WARNING: not all on the same machine; do not compare times."] if len(places) > 1 else []),
    ]
    title = f"Cost of the methods on {group.title}, at their largest number of shots"
    return Sheet(f"{group.key}-cost", title, HEAD, tuple(lines), tuple(notes), tuple(facts(group.runs)), minor=True)


def mean_of(runs: Iterable[dict[str, Any]], *path: str) -> float | None:
    """The mean of a number below nested keys; None if a run lacks it."""
    values = []
    for run in runs:
        found: Any = run
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        values.append(found)
    return None if not values or None in values else statistics.fmean(map(float, values))


def _figures(row: Row) -> list[str]:
    runs = list(row.runs.values())
    parameters = mean_of(runs, "trained_parameters")
    seconds = [mean_of(runs, "seconds", phase) for phase in ("train", "features", "test")]
    memory = [mean_of(runs, key) for key in ("peak_memory_mb", "peak_gpu_memory_mb")]
    return [
        UNKNOWN if parameters is None else f"{parameters:,.0f}",
        *(UNKNOWN if value is None else f"{value:.2f}" for value in seconds),
        *(UNKNOWN if value is None else f"{value:,.0f}" for value in memory),
    ]


def _place(run: dict[str, Any]) -> str:
    hardware = run.get("hardware", {})
    return ", ".join(
        [*dict.fromkeys(str(hardware.get(key, "?")) for key in ("device", "processor")),
         f"{hardware.get('threads', '?')} threads"]
    )  # fmt: skip
