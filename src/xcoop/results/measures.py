"""The measures that tables and curves show: their titles and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

from xcoop.utils.suggest import unknown


@dataclass(frozen=True)
class Measure:
    """One of the metrics of a record.

    Attributes:
        name: its key in `metrics`.
        title: for headings.
        higher: whether more is better.
    """

    name: str
    title: str
    higher: bool = True

    @property
    def direction(self) -> str:
        """In words."""
        return "higher is better" if self.higher else "lower is better"

    @property
    def sign(self) -> int:
        """1 if more is better, else -1."""
        return 1 if self.higher else -1


MEASURES = {
    one.name: one
    for one in (
        Measure("accuracy", "Accuracy"),
        Measure("balanced_accuracy", "Balanced accuracy"),
        Measure("macro_f1", "Macro-F1"),
        Measure("macro_auc", "Macro-AUC"),
        Measure("ece", "Expected calibration error", higher=False),
        Measure("brier", "Brier score", higher=False),
    )
}


def measure(name: str) -> Measure:
    """A measure by its name.

    Raises:
        ValueError: there is none; the message says what is near.
    """
    if name not in MEASURES:
        raise ValueError(unknown("metric", name, MEASURES))
    return MEASURES[name]
