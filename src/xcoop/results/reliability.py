"""Reliability diagrams: whether a method that says 80 % is right 80 % of the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from xcoop.evaluation.calibration import ECE_BINS, Reliability, reliability
from xcoop.results.benchmark import Group, Method
from xcoop.results.drawing import COLOURS, Drawing, canvas, saved
from xcoop.results.facts import facts
from xcoop.results.outcomes import Outcomes
from xcoop.results.tables_shots import Labels

ACROSS = 4
HOW = (
    f"Each bar: of the images whose top probability falls into the bin ({ECE_BINS} bins of equal width), the share "
    "that is predicted correctly, in solid; the line from its top to the mean confidence of these images is the gap. "
    "On the diagonal, confidence and accuracy agree. The darker a bar, the more images it holds. All seeds together; "
    "ECE: expected calibration error (lower is better), mean over the seeds."
)


def reliability_drawing(
    group: Group, shots: int | None, labels: Labels, outcomes: Outcomes, reference: str
) -> Drawing | None:
    """One diagram for each method on a dataset at so many shots, beside those that use none; None if there are none."""
    shown: dict[Method, Reliability] = {}
    errors: dict[Method, float] = {}
    for method in group.methods(reference):
        place = (method, _shots(group, method, shots))
        if place not in outcomes:
            continue
        runs = outcomes[place]
        labels_of_all = np.concatenate([run.labels for run in runs])
        shown[method] = reliability(labels_of_all, np.concatenate([run.probabilities for run in runs]))
        errors[method] = group.rows[place].mean("ece") or 0.0
    if not shown:
        return None
    across = min(ACROSS, len(shown))
    down = -(-len(shown) // across)
    with canvas(1.9 * across + 0.3, 2.05 * down + 0.3) as figure:
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        for axes in panels.flat[max(0, len(shown) - across) : len(shown)]:
            axes.tick_params(labelbottom=True)
        for axes, (method, bins) in zip(panels.flat, shown.items(), strict=False):
            _panel(axes, bins)
            axes.set_title(f"{_wrapped(labels[method])}\nECE {100 * errors[method]:.1f} %", fontsize=7.5)
        figure.supxlabel("confidence", fontsize=9)
        figure.supylabel("share predicted correctly", fontsize=9)
        png, pdf = saved(figure)
    when = "" if shots is None else f" at {shots} shots"
    title = f"Reliability on {group.title}{when}"
    records = [run for method in shown for run in group.rows[method, _shots(group, method, shots)].runs.values()]
    origin, alt = tuple(facts(records, "ece")), _alt(title, shown, errors, labels)
    return Drawing(f"{group.key}-reliability", title, (HOW,), origin, alt, png, pdf)


def _shots(group: Group, method: Method, shots: int | None) -> int | None:
    return None if method in group.untrained else shots


def _panel(axes: Any, bins: Reliability) -> None:
    filled = bins.images > 0
    share = bins.images[filled] / bins.images.sum()
    middle, width = (bins.low + bins.high)[filled] / 2, (bins.high - bins.low)[filled]
    for at, wide, height, weight in zip(middle, width, bins.accuracy[filled], share, strict=True):
        axes.bar(at, height, wide, color=COLOURS[0], alpha=0.2 + 0.8 * min(1.0, 2 * float(weight)), edgecolor="white",
                 linewidth=0.4)  # fmt: skip
    axes.vlines(middle, bins.accuracy[filled], bins.confidence[filled], color=COLOURS[1], linewidth=1.2)
    axes.plot(middle, bins.confidence[filled], "_", color=COLOURS[1], markersize=5)
    axes.plot([0, 1], [0, 1], color="#555555", linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))


def _wrapped(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _alt(title: str, shown: Mapping[Method, Reliability], errors: Mapping[Method, float], labels: Labels) -> str:
    said = []
    for method, bins in shown.items():
        filled = bins.images > 0
        gap = float((bins.images * np.where(filled, bins.confidence - bins.accuracy, 0)).sum() / bins.images.sum())
        lean = "too sure" if gap > 0.005 else "not sure enough" if gap < -0.005 else "as sure as it is right"
        said.append(f"{labels[method]} is on the whole {lean} (confidence minus accuracy {100 * gap:+.1f} points, "
                    f"expected calibration error {100 * errors[method]:.1f} percent)")  # fmt: skip
    return f"Reliability diagrams. {title}: {'; '.join(said)}."
