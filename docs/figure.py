"""The figure of the README: a drawn lesion, where the concept that adds most is seen, and what each concept adds.

    bash scripts/main.sh phantom 16       # the run that it shows
    python docs/figure.py [RUN] [--image 23] [--to docs/figure.png]

All that is said of the picture comes from `xcoop.load_run(RUN).explain(picture)`. It is drawn here, apart from all
images that anything was trained or tested on. Nothing measured on drawn images is a clinical result.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import xcoop

if TYPE_CHECKING:
    from xcoop.explain.trained import Explanation

RUN = Path("output/phantom/XCoOp/phantom_16shots/seed1")
WIDTH, HEIGHT, DPI = 9.0, 7.2, 100  # inches, and pixels an inch: read at 900 pixels' width, and on a phone at 360
BARS = 5  # concepts that are named; the others are one bar
PAPER, INK, PALE = "#ffffff", "#1f2328", "#8c959f"  # a card of its own: it reads on light and on dark pages
MORE, LESS = "#d9730d", "#2f6fde"  # for the class and against it; told apart by those who see no red or green, too
LARGE, USUAL, SMALL = 36, 20, 18  # points; the smallest must be read on a phone
SIDE = 352  # pixels of the drawn picture


def drawing(index: int) -> NDArray[np.uint8]:
    """A drawn lesion, (SIDE, SIDE, 3)."""
    from xcoop.phantom.corpus import Case, draw_case

    picture: NDArray[np.uint8] = draw_case(Case("derm", "figure", 0, index, SIDE))[0]
    return picture


def steps_of(found: Explanation) -> list[tuple[str, float]]:
    """What leads from nothing to the predicted class's lead over the other: the bars of the waterfall.

    Returns:
        The lead in a typical training image; then by concept what it adds to the lead in this image, the largest
        first, and of all but `BARS` the sum. Together they are the lead. What belongs to the other class says so.
    """
    label, other = found.predicted, _other(found)
    added = [(text, value) for text, value in found.parts(label).items()]
    added += [(f"{text} ({other})", -value) for text, value in found.parts(other).items()]
    added.sort(key=lambda step: -abs(step[1]))
    rest = [value for _, value in added[BARS:]]
    start = found.base[label] - found.base[other]
    return [("a typical image", start), *added[:BARS], (f"{len(rest)} other concepts", sum(rest))]


def _other(found: Explanation) -> str:
    (other,) = (name for name in found.probabilities if name != found.predicted)
    return other


def draw(picture: NDArray[np.uint8], found: Explanation, to: Path) -> None:
    """Writes the figure: the picture, the one map of `found` over it, the decision; and below them the waterfall."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    ((concept, heat),) = found.concept_maps.items()
    with pyplot.rc_context({"font.size": USUAL, "text.color": INK, "font.family": "DejaVu Sans"}):
        figure = pyplot.figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor=PAPER)
        for left, title in ((0.02, "drawn image"), (0.345, concept)):
            axes = figure.add_axes((left, 0.55, 0.31, 0.31 * WIDTH / HEIGHT))
            axes.imshow(picture)
            axes.set_title(title, loc="left", size=USUAL, color=INK if left < 0.3 else MORE)
            axes.axis("off")
        over = np.tile(np.array(_rgba(MORE)), (*heat.shape, 1))  # (gh, gw, 4)
        over[..., 3] = 0.75 * np.clip(heat / heat.max(), 0, 1)
        axes.imshow(over, extent=(0, SIDE, SIDE, 0), interpolation="bilinear")
        share = f"{found.probabilities[found.predicted]:.0%}"
        figure.text(0.69, 0.87, found.predicted, size=USUAL + 8, weight="bold", va="center")
        figure.text(0.69, 0.775, share, size=LARGE, weight="bold", va="center")
        figure.text(0.69, 0.72, f"and not {_other(found)}:\nthe sum of what\nconcepts add", va="top", linespacing=1.3)
        _waterfall(figure.add_axes((0.47, 0.01, 0.51, 0.5)), found)
        _save(figure, to)
        pyplot.close(figure)


def _waterfall(axes: Any, found: Explanation) -> None:
    """A bar a step, each from where the one above it ends; the last from zero to where they end."""
    level, steps = 0.0, steps_of(found)
    for row, (name, value) in enumerate(steps):
        _bar(axes, row, name, level, value, PALE if row == 0 else MORE if value > 0 else LESS)
        level += value
        axes.plot([level, level], [-row - 0.35, -row - 0.65], color=PALE, linewidth=1)
    _bar(axes, len(steps), f"lead of {found.predicted}", 0.0, level, INK, "bold")
    axes.axvline(0, color=PALE, linewidth=1, zorder=0)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.2 * (high - low))
    axes.axis("off")


def _bar(axes: Any, row: int, name: str, level: float, value: float, colour: str, weight: str = "normal") -> None:
    text = {"va": "center", "size": SMALL, "weight": weight}
    axes.barh(-row, value, left=level, color=colour, height=0.7)
    axes.text(max(level, level + value), -row, f" {value:+.2f}", **text)
    axes.text(-0.02, -row, name, ha="right", transform=axes.get_yaxis_transform(), **text)


def _rgba(colour: str) -> tuple[float, float, float, float]:
    from matplotlib.colors import to_rgba

    return to_rgba(colour)


def _save(figure: Any, to: Path) -> None:
    """As a PNG of 256 colours, which is a third as large; nothing in it tells when or by what it was made."""
    from PIL import Image

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).quantize(256, method=Image.Quantize.MEDIANCUT).save(to, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Draws a lesion, explains it, and writes the figure."""
    parser = argparse.ArgumentParser(description="Makes the figure of the README.")
    parser.add_argument("run", nargs="?", type=Path, default=RUN, help="a run on phantom (default: %(default)s)")
    parser.add_argument("--image", type=int, default=23, help="which drawing (default: %(default)s)")
    parser.add_argument("--to", type=Path, default=Path(__file__).with_name("figure.png"))
    args = parser.parse_args(argv)
    picture, model = drawing(args.image), xcoop.load_run(args.run, device="cpu")
    parts = model.explain(picture, concepts=[])
    own = parts.parts(parts.predicted)
    draw(picture, model.explain(picture, concepts=[max(own, key=lambda text: own[text])]), args.to)


if __name__ == "__main__":
    main()
