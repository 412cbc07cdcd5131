"""What all figures share: matplotlib without its global state, colours and markers, PNG and PDF.

The colours are those of M. Okabe and K. Ito, "Color Universal Design", 2008 (without its yellow, which is faint on
white). No figure tells lines apart by colour alone: markers differ too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

NEEDS = "figures need matplotlib: pip install matplotlib"
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
    """

    key: str
    title: str
    caption: tuple[str, ...]
    origin: tuple[str, ...]
    alt: str
    png: bytes
    pdf: bytes


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


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
