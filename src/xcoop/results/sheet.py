"""A table as data, before it is text, LaTeX or HTML."""

from __future__ import annotations

from dataclasses import dataclass

BEST, TIED = "best", "tied"
MISSING, NONE, UNKNOWN = "missing", "-", "n/a"
LEGEND = {
    BEST: "best of its column",
    TIED: "not significantly worse than the best (paired bootstrap over the images, Holm over the column, level 0.05)",
}


@dataclass(frozen=True)
class Shown:
    """What one cell shows.

    Attributes:
        text: plain.
        mark: `BEST`, `TIED` or "".
    """

    text: str
    mark: str = ""


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
    """

    key: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]
    notes: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    minor: bool = False

    @property
    def marks(self) -> list[str]:
        """The marks that it uses."""
        used = {cell.mark for row in self.rows for cell in row}
        return [mark for mark in LEGEND if mark in used]


def percent(share: float, spread: float | None = None) -> str:
    """A fraction in percent, with its spread if there is one: `85.1 ± 1.2`."""
    return f"{100 * share:.1f}" if spread is None else f"{100 * share:.1f} ± {100 * spread:.1f}"
