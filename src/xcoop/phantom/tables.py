"""The seven checklist concepts of Derm7pt, and how often each value occurs in each diagnostic group.

Frequencies marked *real* were counted in the public Derm7pt metadata (252 melanomas, 575 nevi, 42 basal cell
carcinomas, 45 seborrheic keratoses). What those counts leave open - how a merged count divides over its values, and
most of what is rare - is *assumed*, and marked so. Given the group the concepts are drawn independently, so the best
accuracy that any classifier can reach is known exactly; see `xcoop.phantom.bayes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xcoop.names import unknown

Profile = dict[str, str]
"""One case: the value of each concept, by the concept's column name."""

ABSENT = "absent"


@dataclass(frozen=True)
class ConceptTable:
    """Concepts, their values, and P(value | group).

    Attributes:
        values: of each concept, its values in a fixed order.
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
    def groups(self) -> tuple[str, ...]:
        """The names of the groups, in the order of the table."""
        return tuple(self.given)

    def sample(self, group: str, rng: np.random.Generator) -> Profile:
        """Draws one case of a group, the concepts independently.

        Raises:
            ValueError: there is no such group.
        """
        if group not in self.given:
            raise ValueError(unknown("group", group, self.groups))
        rows = self.given[group]
        return {concept: str(rng.choice(values, p=rows[concept])) for concept, values in self.values.items()}

    def sample_uniform(self, rng: np.random.Generator) -> Profile:
        """Draws one case in which every value of every concept is equally likely (for pretraining)."""
        return {concept: str(rng.choice(values)) for concept, values in self.values.items()}


VALUES: dict[str, tuple[str, ...]] = {
    "pigment_network": ("absent", "typical", "atypical"),
    "streaks": ("absent", "regular", "irregular"),
    "pigmentation": (
        "absent",
        "diffuse regular",
        "localized regular",
        "diffuse irregular",
        "localized irregular",
    ),
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
"""The seven concepts by their column in Derm7pt's meta.csv, and the values that stand in that column."""

_GIVEN: dict[str, dict[str, tuple[float, ...]]] = {
    "NEV": {
        "pigment_network": (0.33, 0.53, 0.14),  # real
        "streaks": (0.69, 0.16, 0.15),  # irregular real, regular assumed
        "pigmentation": (
            0.63,
            0.13,
            0.03,
            0.13,
            0.08,
        ),  # diffuse regular and irregular (0.21) real, the division assumed
        "regression_structures": (0.79, 0.13, 0.05, 0.03),  # absent real, the division assumed
        "dots_and_globules": (0.19, 0.51, 0.30),  # real
        "blue_whitish_veil": (0.89, 0.11),  # real
        # dotted + linear irregular (0.03) real, the rest assumed
        "vascular_structures": (0.88, 0.01, 0.04, 0.01, 0.02, 0.01, 0.02, 0.01),
    },
    "MEL": {
        "pigment_network": (0.32, 0.13, 0.55),  # real
        "streaks": (0.34, 0.06, 0.60),  # irregular real, regular assumed
        "pigmentation": (
            0.41,
            0.01,
            0.02,
            0.33,
            0.23,
        ),  # diffuse regular and irregular (0.56) real, the division assumed
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

DERM_TABLE = ConceptTable(VALUES, _GIVEN)
GROUPS: tuple[str, ...] = DERM_TABLE.groups
CONCEPTS: tuple[str, ...] = tuple(VALUES)


def sample_profile(group: str, rng: np.random.Generator) -> Profile:
    """Draws the seven concepts of one skin lesion of a group (`NEV`, `MEL`, `BCC`, `SK` or `MISC`).

    Raises:
        ValueError: there is no such group.
    """
    return DERM_TABLE.sample(group, rng)


def sample_uniform(rng: np.random.Generator) -> Profile:
    """Draws the seven concepts of one skin lesion, every value equally likely (for pretraining)."""
    return DERM_TABLE.sample_uniform(rng)


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
