"""What can be seen on a phantom: concepts, how often each value occurs in each diagnostic group, and what follows.

Given the group the concepts are drawn independently, so the best that any classifier can reach is known exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from xcoop.utils.suggest import unknown

ABSENT = "absent"


@dataclass(frozen=True)
class ConceptTable:
    """Concepts, their values, and P(value | group).

    Attributes:
        values: of each concept, its values in a fixed order, "absent" first.
        given: of each group, of each concept, the probabilities of its values, in the order of `values`.

    Raises:
        ValueError: a row is missing, has the wrong length, a negative entry, or does not sum to one.
    """

    values: Mapping[str, tuple[str, ...]]
    given: Mapping[str, Mapping[str, tuple[float, ...]]]

    def __post_init__(self) -> None:
        for group, rows in self.given.items():
            if set(rows) != set(self.values):
                raise ValueError(f"group {group!r} has concepts {sorted(rows)}, the table has {sorted(self.values)}")
            for concept, row in rows.items():
                if len(row) != len(self.values[concept]) or min(row) < 0 or abs(sum(row) - 1) > 1e-9:
                    raise ValueError(f"{group!r}, {concept!r}: {row} is no distribution over {self.values[concept]}")

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of the concepts, in the order of the table."""
        return tuple(self.values)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups, in the order of the table."""
        return tuple(self.given)

    @property
    def value_counts(self) -> list[int]:
        """How many values each concept has."""
        return [len(values) for values in self.values.values()]

    def sample(self, group: str, rng: np.random.Generator) -> dict[str, str]:
        """Draws the profile of one case of a group: the value of each concept, independently.

        Raises:
            ValueError: there is no such group.
        """
        if group not in self.given:
            raise ValueError(unknown("group", group, self.groups))
        rows = self.given[group]
        return {concept: str(rng.choice(values, p=rows[concept])) for concept, values in self.values.items()}

    def sample_uniform(self, rng: np.random.Generator) -> dict[str, str]:
        """Draws a profile in which every value of every concept is equally likely (for pretraining)."""
        return {concept: str(rng.choice(values)) for concept, values in self.values.items()}

    def complete(self, profile: Mapping[str, str]) -> dict[str, str]:
        """The profile with every concept that it leaves out absent.

        Raises:
            ValueError: a concept or value that the table does not have; the message names the nearest.
        """
        for concept, value in profile.items():
            if concept not in self.values:
                raise ValueError(unknown("concept", concept, self.values))
            if value not in self.values[concept]:
                raise ValueError(unknown(f"value of {concept}", value, self.values[concept]))
        return {concept: profile.get(concept, ABSENT) for concept in self.values}


# The seven checklist concepts of Derm7pt by their column in its meta.csv, with the values that stand there.
_DERM_VALUES: dict[str, tuple[str, ...]] = {
    "pigment_network": ("absent", "typical", "atypical"),
    "streaks": ("absent", "regular", "irregular"),
    "pigmentation": ("absent", "diffuse regular", "localized regular", "diffuse irregular", "localized irregular"),
    "regression_structures": ("absent", "blue areas", "white areas", "combinations"),
    "dots_and_globules": ("absent", "regular", "irregular"),
    "blue_whitish_veil": ("absent", "present"),
    "vascular_structures": (
        "absent",
        "arborizing",
        "comma",
        "hairpin",
        "within regression",
        "wreath",
        "dotted",
        "linear irregular",
    ),
}

# Frequencies marked *real* were counted in the public Derm7pt metadata (252 melanomas, 575 nevi, 42 basal cell
# carcinomas, 45 seborrheic keratoses). What those counts leave open - how a merged count divides over its values, and
# most of what is rare - is *assumed*, and marked so.
_DERM_GIVEN: dict[str, dict[str, tuple[float, ...]]] = {
    "NEV": {
        "pigment_network": (0.33, 0.53, 0.14),  # real
        "streaks": (0.69, 0.16, 0.15),  # irregular real, regular assumed
        # irregular of both extents (0.21) real, the division assumed
        "pigmentation": (0.63, 0.13, 0.03, 0.13, 0.08),
        "regression_structures": (0.79, 0.13, 0.05, 0.03),  # absent real, the division assumed
        "dots_and_globules": (0.19, 0.51, 0.30),  # real
        "blue_whitish_veil": (0.89, 0.11),  # real
        # dotted + linear irregular (0.03) real, the rest assumed
        "vascular_structures": (0.88, 0.01, 0.04, 0.01, 0.02, 0.01, 0.02, 0.01),
    },
    "MEL": {
        "pigment_network": (0.32, 0.13, 0.55),  # real
        "streaks": (0.34, 0.06, 0.60),  # irregular real, regular assumed
        # irregular of both extents (0.56) real, the division assumed
        "pigmentation": (0.41, 0.01, 0.02, 0.33, 0.23),
        "regression_structures": (0.56, 0.14, 0.12, 0.18),  # absent real, the division assumed
        "dots_and_globules": (0.08, 0.04, 0.88),  # real
        "blue_whitish_veil": (0.52, 0.48),  # real
        # dotted + linear irregular (0.18) real, the rest assumed
        "vascular_structures": (0.72, 0.01, 0.01, 0.02, 0.05, 0.01, 0.09, 0.09),
    },
    "BCC": {
        "pigment_network": (0.93, 0.02, 0.05),  # absent real, the division assumed
        "streaks": (0.90, 0.02, 0.08),  # assumed
        "pigmentation": (0.60, 0.02, 0.05, 0.10, 0.23),  # assumed
        "regression_structures": (0.88, 0.05, 0.05, 0.02),  # assumed
        "dots_and_globules": (0.55, 0.05, 0.40),  # assumed
        "blue_whitish_veil": (0.80, 0.20),  # assumed
        "vascular_structures": (0.34, 0.55, 0.01, 0.02, 0.01, 0.01, 0.02, 0.04),  # arborizing real, the rest assumed
    },
    "SK": {
        "pigment_network": (0.73, 0.12, 0.15),  # absent real, the division assumed
        "streaks": (0.88, 0.04, 0.08),  # assumed
        "pigmentation": (0.33, 0.22, 0.08, 0.22, 0.15),  # assumed ("regular or irregular pigmentation" is typical)
        "regression_structures": (0.85, 0.07, 0.05, 0.03),  # assumed
        "dots_and_globules": (0.45, 0.15, 0.40),  # assumed
        "blue_whitish_veil": (0.85, 0.15),  # assumed
        "vascular_structures": (0.74, 0.02, 0.02, 0.13, 0.01, 0.02, 0.04, 0.02),  # hairpin real, the rest assumed
    },
    "MISC": {  # dermatofibroma, lentigo, melanosis, vascular lesions: all assumed
        "pigment_network": (0.50, 0.37, 0.13),
        "streaks": (0.93, 0.04, 0.03),
        "pigmentation": (0.55, 0.20, 0.08, 0.10, 0.07),
        "regression_structures": (0.85, 0.04, 0.09, 0.02),
        "dots_and_globules": (0.65, 0.17, 0.18),
        "blue_whitish_veil": (0.90, 0.10),
        "vascular_structures": (0.83, 0.02, 0.02, 0.02, 0.01, 0.02, 0.07, 0.01),
    },
}

DERM_TABLE = ConceptTable(_DERM_VALUES, _DERM_GIVEN)

_POINTS: dict[str, dict[str, int]] = {
    "pigment_network": {"atypical": 2},
    "blue_whitish_veil": {"present": 2},
    "vascular_structures": {"dotted": 2, "linear irregular": 2},
    "pigmentation": {"diffuse irregular": 1, "localized irregular": 1},
    "streaks": {"irregular": 1},
    "dots_and_globules": {"irregular": 1},
    "regression_structures": {"blue areas": 1, "white areas": 1, "combinations": 1},
}


def seven_point_score(profile: Mapping[str, str]) -> int:
    """The seven-point checklist's sum, 0 to 10, with Derm7pt's weights; 3 and more is suspected melanoma."""
    return sum(points.get(profile.get(concept, ABSENT), 0) for concept, points in _POINTS.items())


# Right and left are the patient's, whose right side is on the left of the image.
_CHEST_VALUES: dict[str, tuple[str, ...]] = {
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

# Every frequency here is *assumed* by us: chosen so that the groups differ and overlap as text-books describe:
# bacterial pneumonia tends to lobar consolidation with air bronchograms and effusion, viral to diffuse interstitial
# opacity, thick bronchial walls and air trapping, and a perfect reader would still err on some cases. No real
# frequency is claimed.
_CHEST_GIVEN: dict[str, dict[str, tuple[float, ...]]] = {
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

CHEST_TABLE = ConceptTable(_CHEST_VALUES, _CHEST_GIVEN)

CHEST_PRIORS: dict[str, float] = {"normal": 0.2706, "bacterial": 0.4752, "viral": 0.2542}
"""The shares of the groups among the published counts of the chest X-ray set (1583, 2780 and 1493 images)."""

TABLES: dict[str, ConceptTable] = {"derm": DERM_TABLE, "chest": CHEST_TABLE}
"""The table of each kind of image."""


@dataclass(frozen=True)
class BestReachable:
    """Upper bounds, as fractions: `accuracy`, and `auc` (one group against the others, mean over groups)."""

    accuracy: float
    auc: float


@dataclass(frozen=True)
class Summary:
    """What was written into a drawn folder: of each split, the cases of each group; and what can be reached on it."""

    counts: dict[str, dict[str, int]]
    best: BestReachable


def best_reachable(table: ConceptTable, priors: Mapping[str, float]) -> BestReachable:
    """Accuracy and AUC of the Bayes classifier that sees the concepts without error.

    Every combination of concept values is visited (8,640 for dermoscopy). The Bayes rule takes the likeliest
    group; ranking by the posterior gives the highest ROC curve (Neyman and Pearson), hence the highest AUC.

    Args:
        table: P(value | group), concepts independent given the group.
        priors: the share of each group that takes part; scaled to sum to one.

    Returns:
        The accuracy, and the AUC: of two groups the binary one, of more the mean of one-versus-rest.

    Raises:
        ValueError: fewer than two groups, a group that the table lacks, or a share that is not positive.
    """
    lacking = [group for group in priors if group not in table.given]
    if lacking or len(priors) < 2 or min(priors.values(), default=0) <= 0:
        raise ValueError(f"priors must give two or more of {table.groups} a positive share, not {dict(priors)}")
    shares = np.array(list(priors.values()), dtype=np.float64)
    shares = shares / shares.sum()
    likelihood = np.stack([_profile_probabilities(table, group) for group in priors])  # (G, profiles)
    joint = likelihood * shares[:, None]
    posterior = joint / np.maximum(joint.sum(0), np.finfo(float).tiny)
    # Scores that differ by less than 1e-12 differ by rounding alone.
    aucs = [_auc(posterior[g].round(12), likelihood[g], joint.sum(0) - joint[g]) for g in range(len(shares))]
    return BestReachable(float(joint.max(0).sum()), float(np.mean(aucs)))


def best_normal_or_pneumonia(priors: Mapping[str, float] = CHEST_PRIORS) -> BestReachable:
    """The best accuracy and AUC of any classifier of normal against pneumonia that sees the concepts without error.

    Pneumonia is a mixture of the bacterial and the viral group, so its concepts are not independent: every
    combination of values is visited (5,184), and the likelihood ratio of pneumonia decides and ranks.

    Args:
        priors: the share of each group; scaled to sum to one.
    """
    joint = {g: priors[g] / sum(priors.values()) * _profile_probabilities(CHEST_TABLE, g) for g in CHEST_TABLE.groups}
    healthy, ill = joint["normal"], joint["bacterial"] + joint["viral"]  # (profiles,)
    order = np.argsort(ill / (healthy + ill))  # the order of summing: the written cards hold all digits
    healthy, ill = healthy[order], ill[order]
    # Two profiles never share a ratio but by rounding, which moves the area by less than 1e-9.
    return BestReachable(float(np.maximum(healthy, ill).sum()), _auc(ill / (healthy + ill), ill, healthy))


def _profile_probabilities(table: ConceptTable, group: str) -> NDArray[np.float64]:
    """P(profile | group) of every combination of values, concepts in the order of the table."""
    rows = [np.array(table.given[group][concept]) for concept in table.values]
    return reduce(lambda left, right: np.multiply.outer(left, right).ravel(), rows, np.ones(1))


def _auc(score: NDArray[np.float64], positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """AUC of scores (n,) with the probability masses (n,) of positives and negatives; equal scores count half."""
    _, place = np.unique(score, return_inverse=True)
    pos = np.bincount(place, weights=positive)
    neg = np.bincount(place, weights=negative)
    below = np.cumsum(neg) - neg
    return float(pos @ (below + neg / 2) / (pos.sum() * neg.sum()))
