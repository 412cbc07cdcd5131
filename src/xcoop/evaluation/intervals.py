"""How far each metric would move with other test images: 95 % intervals over the images, from the probabilities.

Images are drawn within their class; where patients are known, patients are drawn whole (see
`xcoop.evaluation.bootstrap`). Of several seeds, each draw takes the same images from all of them, and the metric is
averaged over the seeds: the interval is that of the mean over these trained models, and the seeds add nothing to its
width but what their disagreement on an image adds. How far another training would move the figure is another question;
the spread over the seeds answers it, and the two belong side by side, never into one number.

An interval of no width says only that no draw shows an error: of N independent images without one, up to about 3 / N
may be wrong. Below some 20 images (patients) a class, percentile intervals are too short.

Symbols: N images, C classes, S seeds.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from xcoop.evaluation.bootstrap import DRAWS, Floats, Interval, Ints, image_counts
from xcoop.evaluation.drawn import STATISTICS, mean_over_seeds, packed, unpacked

Patients = Sequence[str | None] | None
"""The patient of each image, (N,), None where it is not known: such an image stands for itself."""


def image_intervals(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: Patients = None,
    *,
    metrics: Sequence[str] = tuple(STATISTICS),
    draws: int = DRAWS,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Each metric with its interval over the images; for several seeds, of its mean over them.

    Args:
        labels: true classes, (N,).
        probabilities: (N, C), or (S, N, C) of S seeds on the same images.
        patients: N ids, or None.
        metrics: keys of `xcoop.evaluation.drawn.STATISTICS`.
        draws: how many.
        confidence: of the interval, in (0, 1).
        seed: of the draws, 0 or more; equal seeds give equal intervals.

    Returns:
        By metric, fractions; None for what the labels cannot tell (a class without images).

    Raises:
        ValueError: wrong shapes, labels or probabilities, or an unknown metric.
    """
    runs = rows_of_seeds(labels, probabilities)
    found: dict[str, list[Floats]] = {metric: [] for metric in metrics}
    for counts in draws_of(unpacked(runs[0])[0], patients, draws, seed):
        for metric in metrics:
            found[metric].append(mean_over_seeds(runs, metric, counts))
    estimates = {metric: mean_over_seeds(runs, metric, once(len(runs[0]))) for metric in metrics}
    return {
        metric: interval(float(estimates[metric][0]), np.concatenate(drawn), confidence)
        for metric, drawn in found.items()
    }


def rows_of_seeds(labels: ArrayLike, probabilities: ArrayLike) -> list[Floats]:
    """`packed` rows of each seed, from probabilities (N, C) or (S, N, C)."""
    p = np.asarray(probabilities, dtype=np.float64)
    seeds = p[None] if p.ndim == 2 else p
    if seeds.ndim != 3 or not len(seeds):
        raise ValueError(f"expected probabilities (N, C), or (S, N, C) of S > 0 seeds, got shape {p.shape}")
    return [packed(labels, one) for one in seeds]


def draws_of(labels: Ints, patients: Patients, draws: int, seed: int) -> Iterator[Ints]:
    """Draws of images within their class, patients whole: how often each holds each image, (r, N), R rows in all."""
    if draws < 1:
        raise ValueError(f"draws must be 1 or more, not {draws}")
    return image_counts(
        len(labels), strata=labels.tolist(), clusters=clusters_of(patients, len(labels)), draws=draws, seed=seed
    )


def clusters_of(patients: Patients, images: int) -> list[Hashable] | None:
    """What is drawn whole: the patient of each image, an image of its own where none is known; None without any."""
    if patients is not None and len(patients) != images:
        raise ValueError(f"{len(patients)} patients for {images} images")
    if patients is None or not any(patients):
        return None
    return [patient or ("image", i) for i, patient in enumerate(patients)]


def interval(estimate: float, drawn: Floats, confidence: float) -> Interval | None:
    """The middle of the draws (R,); None if the estimate, or any draw, is not known."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), not {confidence}")
    if np.isnan(estimate) or np.isnan(drawn).any():
        return None
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high))


def once(images: int) -> Ints:
    """Counts that hold each image once, (1, N): a statistic of them is the metric of the images at hand."""
    return np.ones((1, images), dtype=np.int64)
