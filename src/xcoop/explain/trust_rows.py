"""What the trust table is made from: the images that are asked, and rows with their intervals and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xcoop.evaluation.bootstrap import mean_of_known
from xcoop.explain.metrics import METRICS
from xcoop.explain.schema import Control, Trust
from xcoop.explain.truth import Truth

Floats = NDArray[np.float64]
OWN = ""  # among the values of a row, those of what is asked; the others are its controls


@dataclass(frozen=True)
class Sample:
    """The images that are asked.

    Attributes:
        paths: B of them.
        images: preprocessed, (B, 3, S, S).
        patients: who is shown, B; images of one patient are drawn together by the bootstrap.
        truth: what is known of them; None if nothing is.
        labels: the class of each, B names; () if they are not known.
    """

    paths: Sequence[str]
    images: Tensor
    patients: Sequence[str]
    truth: Truth | None = None
    labels: Sequence[str] = field(default=())


def known_row(
    metric: str,
    values: Mapping[str, Floats],
    patients: Sequence[str],
    note: str,
    suffix: str = "",
    n: int | None = None,
) -> Trust:
    """A row of a metric of `metrics.METRICS`; see `row`. `n`: images, where there are several values an image."""
    known = METRICS[metric]
    made = row(known.title + suffix, known.better, known.unit, values, patients, note)
    made["n"] = made["n"] if n is None else n
    return made


def row(title: str, better: str, unit: str, values: Mapping[str, Floats], patients: Sequence[str], note: str) -> Trust:
    """A row from values of each image, with bootstrap intervals.

    Args:
        title: of the measure.
        better: `higher` or `lower`.
        unit: of the values.
        values: by name, (N,) each, NaN where not known; `OWN` is what is asked, the rest are its controls.
        patients: of each value, N.
        note: what a reader must know.
    """
    intervals = {name: mean_of_known(given, clusters=list(patients)) for name, given in values.items()}
    own = intervals.pop(OWN)
    controls = [Control(name=k, value=_known(v[0]), low=_known(v[1]), high=_known(v[2])) for k, v in intervals.items()]
    return Trust(
        metric=title, direction=better, unit=unit, value=_known(own.estimate), low=_known(own.low),  # type: ignore[typeddict-item]
        high=_known(own.high), n=own.known, controls=controls, note=note,
    )  # fmt: skip


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
