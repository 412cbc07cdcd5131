"""The concepts of the chest phantom, and how often each value occurs in normal, bacterial and viral cases.

Every frequency here is *assumed* by us: chosen so that the groups differ and overlap as text-books describe: bacterial
pneumonia tends to lobar consolidation with air bronchograms and effusion, viral to diffuse interstitial opacity, thick
bronchial walls and air trapping, and a perfect reader would still err on some cases. No real frequency is claimed.
Given the group the concepts are drawn independently, hence the best reachable accuracy is known exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xcoop.phantom.bayes import BestReachable
from xcoop.phantom.tables import ConceptTable

ABSENT = "absent"

VALUES: dict[str, tuple[str, ...]] = {
    "consolidation": ("absent", "right upper", "right lower", "left upper", "left lower", "patchy"),
    "interstitial_opacity": ("absent", "present"),
    # Air shows in bronchi only against airless lung: without consolidation a small hazy patch is drawn around them.
    "air_bronchograms": ("absent", "present"),
    "pleural_effusion": ("absent", "small", "large"),
    "obscured_border": ("absent", "cardiac", "diaphragmatic"),
    "peribronchial_thickening": ("absent", "present"),
    "hyperinflation": ("absent", "present"),
    "cardiomegaly": ("absent", "present"),  # no sign of pneumonia here: a distractor
    "support_device": ("absent", "ECG leads", "tube"),  # a distractor too
}
"""The concepts and their values; right and left are the patient's, whose right side is on the left of the picture."""

_GIVEN: dict[str, dict[str, tuple[float, ...]]] = {
    "normal": {
        "consolidation": (0.95, 0.01, 0.01, 0.01, 0.01, 0.01),
        "interstitial_opacity": (0.92, 0.08),
        "air_bronchograms": (0.97, 0.03),
        "pleural_effusion": (0.96, 0.03, 0.01),
        "obscured_border": (0.94, 0.03, 0.03),
        "peribronchial_thickening": (0.87, 0.13),
        "hyperinflation": (0.88, 0.12),
        "cardiomegaly": (0.90, 0.10),
        "support_device": (0.82, 0.12, 0.06),
    },
    "bacterial": {
        "consolidation": (0.26, 0.15, 0.20, 0.09, 0.15, 0.15),
        "interstitial_opacity": (0.74, 0.26),
        "air_bronchograms": (0.48, 0.52),
        "pleural_effusion": (0.66, 0.20, 0.14),
        "obscured_border": (0.48, 0.28, 0.24),
        "peribronchial_thickening": (0.74, 0.26),
        "hyperinflation": (0.84, 0.16),
        "cardiomegaly": (0.88, 0.12),
        "support_device": (0.72, 0.16, 0.12),
    },
    "viral": {
        "consolidation": (0.66, 0.05, 0.06, 0.04, 0.04, 0.15),
        "interstitial_opacity": (0.20, 0.80),
        "air_bronchograms": (0.84, 0.16),
        "pleural_effusion": (0.90, 0.08, 0.02),
        "obscured_border": (0.76, 0.15, 0.09),
        "peribronchial_thickening": (0.34, 0.66),
        "hyperinflation": (0.50, 0.50),
        "cardiomegaly": (0.88, 0.12),
        "support_device": (0.76, 0.14, 0.10),
    },
}

CHEST_TABLE = ConceptTable(VALUES, _GIVEN)
GROUPS: tuple[str, ...] = CHEST_TABLE.groups
CONCEPTS: tuple[str, ...] = tuple(VALUES)

PRIORS: dict[str, float] = {"normal": 0.2706, "bacterial": 0.4752, "viral": 0.2542}
"""The shares of the groups among the published counts of the chest X-ray set (1583, 2780 and 1493 images)."""


def sample_profile(group: str, rng: np.random.Generator) -> dict[str, str]:
    """Draws the concepts of one chest of a group (`normal`, `bacterial` or `viral`).

    Raises:
        ValueError: there is no such group.
    """
    return CHEST_TABLE.sample(group, rng)


def sample_uniform(rng: np.random.Generator) -> dict[str, str]:
    """Draws the concepts of one chest, every value equally likely (for pretraining)."""
    return CHEST_TABLE.sample_uniform(rng)


def best_normal_or_pneumonia(priors: Mapping[str, float] = PRIORS) -> BestReachable:
    """The best accuracy and AUC of any classifier of normal against pneumonia that sees the concepts without error.

    Pneumonia is a mixture of the bacterial and the viral group, so its concepts are not independent: every
    combination of values is visited (5,184), and the likelihood ratio of pneumonia decides and ranks.

    Args:
        priors: the share of each group; scaled to sum to one.

    Returns:
        Both as fractions.
    """
    shares = {group: priors[group] / sum(priors.values()) for group in GROUPS}
    healthy = shares["normal"] * _probabilities("normal")  # (profiles,)
    ill = shares["bacterial"] * _probabilities("bacterial") + shares["viral"] * _probabilities("viral")
    order = np.argsort(ill / (healthy + ill))
    healthy, ill = healthy[order], ill[order]
    below = np.cumsum(healthy) - healthy
    # Two profiles never share a ratio but by rounding, which moves the area by less than 1e-9.
    auc = float(ill @ (below + healthy / 2) / (ill.sum() * healthy.sum()))
    return BestReachable(float(np.maximum(healthy, ill).sum()), auc)


def _probabilities(group: str) -> np.ndarray:
    """P(profile | group) of every combination of values (profiles,), concepts in the order of the table."""
    whole = np.ones(1)
    for concept in CONCEPTS:
        whole = np.outer(whole, CHEST_TABLE.given[group][concept]).ravel()
    return whole
