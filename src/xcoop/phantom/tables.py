"""What can be seen on a phantom: concepts, how often each value occurs in each diagnostic group, and what follows.

The tables stand in `tables.yaml`. Given the group the concepts are drawn independently, so the best that any classifier
can reach is known exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from xcoop.utils.console import unknown
from xcoop.utils.reading import read_yaml

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


DRAWN: dict[str, dict[str, Any]] = read_yaml(Path(__file__).with_name("tables.yaml"))
"""Of each kind of image ("derm" and "chest") what stands in `tables.yaml`."""

TABLES: dict[str, ConceptTable] = {
    kind: ConceptTable(
        {concept: tuple(values) for concept, values in drawn["values"].items()},
        {g: {concept: tuple(row) for concept, row in rows.items()} for g, rows in drawn["given"].items()},
    )
    for kind, drawn in DRAWN.items()
}
"""The table of each kind of image."""

DERM_TABLE, CHEST_TABLE = TABLES["derm"], TABLES["chest"]


def seven_point_score(profile: Mapping[str, str]) -> int:
    """The seven-point checklist's sum, 0 to 10, with Derm7pt's weights; 3 and more is suspected melanoma."""
    points = DRAWN["derm"]["points"]
    return sum(values.get(profile.get(concept, ABSENT), 0) for concept, values in points.items())


@dataclass(frozen=True)
class BestReachable:
    """Upper bounds, as fractions: `accuracy`, and `auc`."""

    accuracy: float
    auc: float


@dataclass(frozen=True)
class Summary:
    """What was written into a drawn folder: of each split, the cases of each group; and what can be reached on it."""

    counts: dict[str, dict[str, int]]
    best: BestReachable


def best_reachable(table: ConceptTable, priors: Mapping[str, float], positive: Collection[str]) -> BestReachable:
    """Accuracy and AUC of the Bayes classifier of two classes that sees the concepts without error.

    A class of several groups is a mixture, so its concepts are not independent: every combination of concept values is
    visited (8,640 for dermoscopy, 5,184 for chests). The Bayes rule takes the likelier class; ranking by the posterior
    gives the highest ROC curve (Neyman and Pearson), hence the highest AUC.

    Args:
        table: P(value | group), concepts independent given the group.
        priors: the share of each group that takes part; scaled to sum to one.
        positive: the groups of the positive class; the others of `priors` are the negative one.

    Raises:
        ValueError: a group that the table lacks, a share that is not positive, or a class without a group.
    """
    if not set(priors) <= set(table.given) or min(priors.values(), default=0) <= 0:
        raise ValueError(f"priors must give some of {table.groups} a positive share, not {dict(priors)}")
    if not set(positive) < set(priors) or not positive:
        raise ValueError(f"the positive groups must be some, not all, of the priors' {list(priors)}, not {positive}")
    joint = {}  # P(group, profile)
    for group, share in priors.items():
        rows = [np.array(table.given[group][concept]) for concept in table.values]
        profiles = reduce(lambda left, right: np.multiply.outer(left, right).ravel(), rows, np.ones(1))
        joint[group] = share / sum(priors.values()) * profiles
    ill = np.sum([joint[group] for group in joint if group in positive], axis=0)  # (profiles,)
    healthy = np.sum([joint[group] for group in joint if group not in positive], axis=0)
    order = np.argsort(ill / (healthy + ill))  # the order of summing: the written cards hold all digits
    ill, healthy = ill[order], healthy[order]
    # The AUC: each score's positives, times the negatives below it and half of those at it. Scores that differ by
    # rounding alone lie on one line of the ROC curve, whose area does not depend on their order.
    _, score = np.unique(ill / (healthy + ill), return_inverse=True)
    positives, negatives = np.bincount(score, weights=ill), np.bincount(score, weights=healthy)
    below = np.cumsum(negatives) - negatives
    auc = positives @ (below + negatives / 2) / (positives.sum() * negatives.sum())
    return BestReachable(float(np.maximum(healthy, ill).sum()), float(auc))
