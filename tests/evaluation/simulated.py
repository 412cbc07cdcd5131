"""Planted truths for intervals: classifiers whose accuracy and AUC over all images of their kind are known."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm


def truth(gap: float) -> dict[str, float]:
    """Accuracy and AUC of a classifier whose scores are normal, with variance 1 and means `gap` apart."""
    return {"accuracy": norm.cdf(gap / 2), "macro_auc": norm.cdf(gap / np.sqrt(2))}


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Of two classes, (N, 2), from scores of class 1, (N,); the threshold is 0."""
    one = 1 / (1 + np.exp(-2 * scores))
    return np.stack([1 - one, one], axis=1)


def classifiers(
    rng: np.random.Generator, images: int, gaps: tuple[float, ...], shared: float = 0.6
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels, and the probabilities of one classifier a gap; what is hard for one is hard for the others (`shared`)."""
    labels = np.arange(images) % 2
    common = rng.normal(0, np.sqrt(shared), images)
    own = [common + rng.normal(0, np.sqrt(1 - shared), images) for _ in gaps]
    return labels, [probabilities((labels - 0.5) * gap + noise) for gap, noise in zip(gaps, own, strict=True)]


def of_patients(
    rng: np.random.Generator, patients: int, each: int, gap: float, alike: float = 0.8
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, probabilities and patient ids; `alike` is the share of the variance that a patient's images share."""
    which = np.repeat(np.arange(patients), each)
    noise = rng.normal(0, np.sqrt(alike), patients)[which] + rng.normal(0, np.sqrt(1 - alike), len(which))
    labels = which % 2
    return labels, probabilities((labels - 0.5) * gap + noise), [f"patient-{i}" for i in which]


def random_case(seed: int, images: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels that hold each class, and probabilities in steps of a tenth, so that many are equal."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, images - classes)])
    values = np.exp(rng.normal(size=(images, classes)) + np.eye(classes)[labels])
    return labels, rng.multinomial(10, values / values.sum(1, keepdims=True)) / 10
