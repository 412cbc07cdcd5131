"""The figures of a benchmark: few-shot curves, reliability diagrams, critical-difference diagrams; PNG and PDF.

They are drawn by matplotlib without its global state. The colours are those of M. Okabe and K. Ito, "Color Universal
Design", 2008 (without its yellow, which is faint on white). No figure tells lines apart by colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from xcoop.evaluation.metrics import ECE_BINS, Reliability, reliability
from xcoop.evaluation.statistics import Interval, RankComparison, compare_ranks
from xcoop.results.benchmark import Benchmark, Group, Method, Place, ordered, slug
from xcoop.results.compare import Measure, Outcomes
from xcoop.results.table import facts, percent

Labels = Mapping[Method, str]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
_RULES: dict[Any, Any] = {
    "pdf.fonttype": 42,  # the fonts themselves go into the file, as journals ask
    "ps.fonttype": 42,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.usetex": False,
    "text.parse_math": False,  # a "$" in a name is a "$"
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class Drawing:
    """A figure with what a reader must know about it.

    Attributes:
        key: for file names and ids.
        title: plain text.
        caption: plain sentences: what is drawn, and how.
        origin: plain sentences on where the figures come from.
        alt: what the figure shows, for who cannot see it.
        png: the image.
        pdf: the same for papers.
        lead: whether it opens its section of the page.
    """

    key: str
    title: str
    caption: tuple[str, ...]
    origin: tuple[str, ...]
    alt: str
    png: bytes
    pdf: bytes
    lead: bool = False


@contextmanager
def canvas(width: float, height: float) -> Iterator[Any]:
    """A matplotlib figure of so many inches, under our rules and nobody else's settings."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RULES)
        yield Figure(figsize=(width, height), layout="constrained")


def saved(figure: Any) -> tuple[bytes, bytes]:
    """PNG and PDF, without the time or the machine in them; to be called inside `canvas`."""
    files = []
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        file = io.BytesIO()
        figure.savefig(file, format=kind, bbox_inches="tight", pad_inches=0.05, metadata=metadata)
        files.append(file.getvalue())
    return files[0], files[1]


def style(place: int) -> dict[str, Any]:
    """Colour, marker and dashes of the line number `place`; 84 lines differ in colour and marker together."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
    }


# Few-shot curves: a measure over the number of shots.

CURVE = (
    "Lines: mean over the seeds. Bands: the spread over seeds (standard deviation, ddof 1). Thin bars, moved sideways "
    "so that they can be told apart: the 95 % interval over the test images (bootstrap). The two are different "
    "things: a band says how far another training would move a figure, a bar how far other images would.",
    "The reference's line is the heavy one. Cells that lack seeds are left out.",
)
# Of the distance between two numbers of shots: between the bars of two methods, and over which all are spread at most.
_APART, _SPREAD = 0.05, 0.45


def curve(
    group: Group, measure: Measure, labels: Labels, intervals: Mapping[Place, Interval | None], reference: str
) -> Drawing | None:
    """The curves of all methods on one dataset; None if no method is whole at two numbers of shots."""
    lines: dict[Method, dict[int | None, tuple[float, float | None]]] = {}  # mean and spread by shots
    for method in ordered([group], reference):
        rows = {shots: group.rows[method, shots] for shots in group.columns if (method, shots) in group.rows}
        means = {shots: row.mean(measure.name) for shots, row in rows.items() if row.complete}
        points = {shots: (mean, rows[shots].std(measure.name)) for shots, mean in means.items() if mean is not None}
        if points:
            lines[method] = points
    if all(len(points) < 2 for points in lines.values()):
        return None
    columns: list[int | None] = [*([None] if group.untrained & lines.keys() else []), *group.shots]
    title, said = f"{measure.title} on {group.title} over the number of shots", []
    with canvas(7.2, max(3.2, 0.75 + 0.19 * len(lines))) as figure:
        axes = figure.add_subplot()
        for place, (method, points) in enumerate(lines.items()):
            look, heavy = style(place), method.trainer == reference
            at = np.array([columns.index(shots) for shots in points])
            heights = 100 * np.array([mean for mean, _ in points.values()])
            spreads = 100 * np.array([spread or 0.0 for _, spread in points.values()])
            axes.plot(at, heights, label=labels[method], markersize=4.5, linewidth=2.4 if heavy else 1.2,
                      zorder=4 if heavy else 3, **look)  # fmt: skip
            if len(at) > 1:
                axes.fill_between(
                    at, heights - spreads, heights + spreads, color=look["color"], alpha=0.15, linewidth=0
                )
            shift = min(_APART * len(lines), _SPREAD) * ((place + 0.5) / len(lines) - 0.5)
            for x, shots in zip(at, points, strict=True):
                if found := intervals.get((method, shots)):
                    ends = [100 * found.low, 100 * found.high]
                    axes.plot([x + shift] * 2, ends, color=look["color"], linewidth=0.6, alpha=0.75)
            figures = [
                f"{percent(*point)} {'without shots' if shots is None else f'at {shots}'}"
                for shots, point in points.items()
            ]
            said.append(f"{labels[method]} {', '.join(figures)}")
        axes.set_xticks(
            range(len(columns)), ["0" if shots is None else str(shots) if shots > 0 else "all" for shots in columns]
        )
        axes.set_xlabel("shots a class")
        axes.set_ylabel(f"{measure.title}, percent ({measure.direction})")
        axes.set_title(f"{group.title}{' (drawn images)' if group.is_phantom else ''}")
        figure.legend(loc="outside right upper", frameon=False)
        png, pdf = saved(figure)
    alt = f"Line chart. {title}, in percent: {'; '.join(said)}."
    key, origin = slug(group.title, measure.name, "curve"), facts(group.runs, measure.name)
    return Drawing(key, title, CURVE, origin, alt, png, pdf)


# Reliability diagrams: whether a method that says 80 % is right 80 % of the time.

ACROSS = 4
RELIABILITY = (
    f"Each bar: of the images whose top probability falls into the bin ({ECE_BINS} bins of equal width), the share "
    "that is predicted correctly, in solid; the line from its top to the mean confidence of these images is the gap. "
    "On the diagonal, confidence and accuracy agree. The darker a bar, the more images it holds. All seeds together; "
    "ECE: expected calibration error (lower is better), mean over the seeds."
)


def reliability_drawing(
    group: Group, shots: int | None, labels: Labels, outcomes: Outcomes, reference: str
) -> Drawing | None:
    """One diagram for each method on a dataset at so many shots, beside those that use none; None if there are none."""
    places = [(method, None if method in group.untrained else shots) for method in ordered([group], reference)]
    places = [place for place in places if place in outcomes]
    if not places:
        return None
    across = min(ACROSS, len(places))
    down = -(-len(places) // across)
    said = []
    with canvas(1.9 * across + 0.3, 2.05 * down + 0.3) as figure:
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes in panels.flat[len(places) :]:
            axes.set_visible(False)
        for axes in panels.flat[max(0, len(places) - across) : len(places)]:
            axes.tick_params(labelbottom=True)
        for axes, place in zip(panels.flat, places, strict=False):
            runs, name = outcomes[place], labels[place[0]]
            bins = reliability(
                np.concatenate([run.labels for run in runs]), np.concatenate([run.probabilities for run in runs])
            )
            error = 100 * (group.rows[place].mean("ece") or 0.0)
            gap = _panel(axes, bins)
            axes.set_title(f"{name if len(name) <= 26 else f'{name[:25]}…'}\nECE {error:.1f} %", fontsize=7.5)
            lean = "too sure" if gap > 0.005 else "not sure enough" if gap < -0.005 else "as sure as it is right"
            said.append(f"{name} is on the whole {lean} (confidence minus accuracy {100 * gap:+.1f} points, "
                        f"expected calibration error {error:.1f} percent)")  # fmt: skip
        figure.supxlabel("confidence", fontsize=9)
        figure.supylabel("share predicted correctly", fontsize=9)
        png, pdf = saved(figure)
    title = f"Reliability on {group.title}{'' if shots is None else f' at {shots} shots'}"
    origin = facts([run for place in places for run in group.rows[place].runs.values()], "ece")
    alt = f"Reliability diagrams. {title}: {'; '.join(said)}."
    return Drawing(slug(group.title, "reliability"), title, (RELIABILITY,), origin, alt, png, pdf)


def _panel(axes: Any, bins: Reliability) -> float:
    """Draws one diagram; mean confidence less accuracy."""
    filled = bins.images > 0
    edges = np.linspace(0, 1, len(bins.images) + 1)
    middle, share = ((edges[1:] + edges[:-1]) / 2)[filled], bins.images[filled] / bins.images.sum()
    accuracy, confidence = bins.accuracy[filled], bins.confidence[filled]
    for at, height, weight in zip(middle, accuracy, share, strict=True):
        axes.bar(at, height, edges[1], color=COLOURS[0], alpha=0.2 + 0.8 * min(1.0, 2 * float(weight)),
                 edgecolor="white", linewidth=0.4)  # fmt: skip
    axes.vlines(middle, accuracy, confidence, color=COLOURS[1], linewidth=1.2)
    axes.plot(middle, confidence, "_", color=COLOURS[1], markersize=5)
    axes.plot([0, 1], [0, 1], color="#555555", linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    return float((share * (confidence - accuracy)).sum())


# Critical-difference diagrams: the mean ranks of the methods over the datasets, and which are not told apart.

RANKS = (
    "Mean ranks over the datasets (1 is best). A bar joins methods that are not told apart: their mean ranks differ by "
    "less than Nemenyi's critical difference (CD, level 0.05). Read it only if Friedman's test says that the methods "
    "differ at all."
)


def rank_drawings(benchmark: Benchmark, measure: Measure, labels: Labels, draws: bool) -> Iterator[Drawing | str]:
    """The diagram of the real datasets and that of the phantoms, at the largest number of shots that they share.

    A sentence says why there is none: too few datasets or methods. Without `draws`, it says what one would show.
    """
    for kind, groups in benchmark.kinds():
        shots, methods = _shared(groups, measure)
        rows = [[group.row(method, shots) for method in methods] for group in groups]
        scores = np.array([[row.mean(measure.name) if row else None for row in line] for line in rows], dtype=float)
        names = [labels[method] for method in methods]
        try:
            found = compare_ranks(names, scores, higher_is_better=measure.higher)
        except ValueError as error:
            yield f"No critical-difference diagram{kind}: {error}."
            continue
        ranks = "; ".join(f"{name} {rank:.2f}" for name, rank in zip(found.methods, found.ranks, strict=True))
        joined = "; ".join(", ".join(names) for names in found.groups) or "none"
        said = (
            f"Critical-difference diagram. Mean ranks by {measure.title.lower()} over {found.datasets} datasets at "
            f"{shots} shots, best first: {ranks}. Critical difference {found.critical_difference:.2f}. Not told apart: "
            f"{joined}."
        )
        if not draws:
            yield said
            continue
        rough = " With so few datasets or methods these are rough approximations." if found.rough else ""
        yield Drawing(
            slug("ranks", measure.name + kind),
            f"Mean ranks by {measure.title.lower()} over {len(groups)} datasets{kind}, {shots} shots a class",
            (
                RANKS,
                f"Friedman: chi-square {found.chi_square:.2f}, p {found.p:.3g}. CD {found.critical_difference:.2f}."
                f"{rough}",
                "Methods that lack a dataset or seeds are left out. Datasets: "
                f"{', '.join(group.title for group in groups)}.",
            ),
            facts([run for line in rows for row in line if row for run in row.runs.values()]),
            said,
            *_rank_diagram(found),
        )


def _shared(groups: Sequence[Group], measure: Measure) -> tuple[int | None, list[Method]]:
    """The number of shots at which most methods are whole on all datasets (the largest such), and those methods."""
    best: tuple[int | None, list[Method]] = (None, [])
    for shots in sorted({number for group in groups for number in group.shots}):
        able = []
        for method in sorted({method for method, _ in groups[0].rows}):
            rows = [group.row(method, shots) for group in groups if group.same_images]
            whole = [row for row in rows if row and row.complete and row.mean(measure.name) is not None]
            if len(whole) == len(groups):
                able.append(method)
        if len(able) >= len(best[1]):
            best = shots, able
    return best


def _rank_diagram(found: RankComparison) -> tuple[bytes, bytes]:
    """PNG and PDF: ranks from left (best) to right, methods that are not told apart joined by bars."""
    from pandas import DataFrame, Series
    from scikit_posthocs import critical_difference_diagram

    ranks, width = np.array(found.ranks), found.critical_difference
    alike = np.abs(ranks[:, None] - ranks) < width  # what the p-values of Nemenyi's test would say
    with canvas(6.6, 1.1 + 0.2 * ((len(ranks) + 1) // 2) + 0.13 * len(found.groups)) as figure:
        figure.set_layout_engine("none")  # the names lie outside the axes
        axes = figure.add_axes((0.25, 0.0, 0.5, 1.0))
        axes.grid(visible=False)
        critical_difference_diagram(
            Series(found.ranks, found.methods),
            DataFrame(alike.astype(float), found.methods, found.methods),
            ax=axes,
            label_fmt_left="{label}  {rank:.2f} ",
            label_fmt_right=" {rank:.2f}  {label}",
            label_props={"fontsize": 8},
            elbow_props={"color": "black", "linewidth": 0.9},
            marker_props={"marker": "|"},
            text_h_margin=0.05 * len(ranks),
        )
        axes.plot([1, 1 + width], [2, 2], color="black", linewidth=1.5, marker="|")  # above the ranks
        axes.text(1 + width / 2, 2.2, f"CD {width:.2f}", ha="center", va="bottom")
        return saved(figure)
