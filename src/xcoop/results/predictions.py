"""What a run predicted for each test image, read back from its record, and several runs laid side by side.

Statistics are computed from these, never from the rounded figures of a table. A record is checked as it is read; runs
are aligned by image, and runs on other images are refused.

Symbols: N images, C classes, S runs.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xcoop.evaluation.metrics import Floats, Ints, checked
from xcoop.results.record import COLUMNS, PREDICTIONS, RESULTS, from_spreadsheet, read_run


@dataclass(frozen=True)
class Predictions:
    """One run's test images, in the order of its file.

    Attributes:
        images: N paths as the run recorded them, all different.
        patients: N ids; None where it is not known.
        labels: true classes, (N,).
        probabilities: (N, C), each row sums to one.
        classnames: C names.
        source: the folder, for messages.
    """

    images: tuple[str, ...]
    patients: tuple[str | None, ...]
    labels: Ints
    probabilities: Floats
    classnames: tuple[str, ...]
    source: str = ""


@dataclass(frozen=True)
class Aligned:
    """Several runs on the same test images, sorted by image.

    Attributes:
        images: N paths.
        patients: N ids; None where no run knows it.
        labels: true classes, (N,).
        probabilities: of each run, (S, N, C).
    """

    images: tuple[str, ...]
    patients: tuple[str | None, ...]
    labels: Ints
    probabilities: Floats


def read_predictions(folder: Path) -> Predictions:
    """The predictions of a finished run.

    Args:
        folder: that of the run, which holds `results.json` and `predictions.csv`.

    Raises:
        ValueError: the run is not finished, or its record is damaged or contradicts itself; the message names the file.
    """
    run = read_run(folder)
    if run is None:
        raise ValueError(f"{folder} holds no finished run ({RESULTS} is missing)")
    path = folder / PREDICTIONS
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = [list(map(from_spreadsheet, row)) for row in csv.reader(file)] or [[]]
    try:
        return _parsed(header, rows, run, str(folder))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parsed(header: list[str], rows: list[list[str]], run: dict[str, Any], source: str) -> Predictions:
    first = len(COLUMNS)
    names = tuple(run.get("classnames") or [column.removeprefix("p_") for column in header[first:]])
    expected = [*COLUMNS, *(f"p_{name}" for name in names)]
    if header != expected:
        raise ValueError(f"the columns are {', '.join(header)}; expected {', '.join(expected)}")
    ragged = [number for number, row in enumerate(rows, 2) if len(row) != len(header)]
    if ragged:
        raise ValueError(f"line {ragged[0]} has not {len(header)} fields")
    if len(rows) != run.get("n_test", len(rows)):
        raise ValueError(f"{len(rows)} images, but {RESULTS} says {run['n_test']}")
    labels, probabilities = checked(
        np.array([int(row[2]) for row in rows], dtype=np.int64),
        np.array([[float(cell) for cell in row[first:]] for row in rows]).reshape(len(rows), len(names)),
    )
    images = tuple(row[0] for row in rows)
    twice = [image for image, times in Counter(images).items() if times > 1]
    if twice:
        raise ValueError(f"{len(twice)} images stand there more than once, the first is {twice[0]!r}")
    for row, label, guess in zip(rows, labels.tolist(), probabilities.argmax(1).tolist(), strict=True):
        if row[3] != names[label]:
            raise ValueError(f"image {row[0]!r} has label {label} ({names[label]!r}) but is named {row[3]!r}")
        if int(row[4]) != guess:
            raise ValueError(f"image {row[0]!r} is said to be predicted as {row[4]}; its probabilities say {guess}")
    return Predictions(images, tuple(row[1] or None for row in rows), labels, probabilities, names, source)


def aligned(runs: Sequence[Predictions]) -> Aligned:
    """Runs on the same test images, laid side by side; the order of their files does not matter.

    Raises:
        ValueError: no run, or runs whose images, labels, patients or class names differ; the message names one.
    """
    if not runs:
        raise ValueError("no runs to align")
    first, orders = runs[0], [sorted(range(len(run.images)), key=run.images.__getitem__) for run in runs]
    images = tuple(first.images[i] for i in orders[0])
    labels = first.labels[orders[0]]
    patients: list[str | None] = [None] * len(images)
    for run, order in zip(runs, orders, strict=True):
        both = f"{first.source or 'the first run'} and {run.source or 'another run'}"
        if run.classnames != first.classnames:
            raise ValueError(f"{both} have different classes: {first.classnames}, {run.classnames}")
        only_first, only_run = set(first.images) - set(run.images), set(run.images) - set(first.images)
        if only_first or only_run:
            raise ValueError(
                f"{both} were not tested on the same images: {len(only_first)} are only in the first, "
                f"{len(only_run)} only in the second, e.g. {min(only_first | only_run)!r}; run both on the same split"
            )
        other = np.flatnonzero(run.labels[order] != labels)
        if len(other):
            raise ValueError(f"{both} disagree on the label of {images[other[0]]!r}")
        for place, i in enumerate(order):
            known, own = patients[place], run.patients[i]
            if known and own and known != own:
                raise ValueError(f"{both} disagree on the patient of {images[place]!r}: {known}, {own}")
            patients[place] = known or own
    probabilities = np.stack([run.probabilities[order] for run, order in zip(runs, orders, strict=True)])
    return Aligned(images, tuple(patients), labels, probabilities)
