"""The best that any classifier can do when the generating table is known: exact, by enumeration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from xcoop.phantom.tables import ConceptTable

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BestReachable:
    """Upper bounds, as fractions: `accuracy`, and `auc` (one group against the others, mean over groups)."""

    accuracy: float
    auc: float


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
    shares = _shares(table, priors)
    likelihood = np.stack([_profile_probabilities(table, group) for group in priors])  # (G, profiles)
    joint = likelihood * shares[:, None]  # (G, profiles)
    posterior = joint / np.maximum(joint.sum(0), np.finfo(float).tiny)  # (G, profiles)
    aucs = [_auc(posterior[g], likelihood[g], joint.sum(0) - joint[g]) for g in range(len(shares))]
    return BestReachable(float(joint.max(0).sum()), float(np.mean(aucs)))


def _shares(table: ConceptTable, priors: Mapping[str, float]) -> Floats:
    lacking = [group for group in priors if group not in table.given]
    if lacking or len(priors) < 2 or min(priors.values(), default=0) <= 0:
        raise ValueError(f"priors must give two or more of {table.groups} a positive share, not {dict(priors)}")
    shares = np.array(list(priors.values()), dtype=np.float64)
    return shares / shares.sum()


def _profile_probabilities(table: ConceptTable, group: str) -> Floats:
    """P(profile | group) of every combination of values, concepts in the order of the table."""
    rows = [np.array(table.given[group][concept]) for concept in table.values]
    return reduce(lambda left, right: np.multiply.outer(left, right).ravel(), rows, np.ones(1))


def _auc(score: Floats, positive: Floats, negative: Floats) -> float:
    """AUC of a score over weighted points; equal scores count half.

    Args:
        score: (n,) the score of each point; differences below 1e-12 count as none, they are rounding.
        positive: (n,) probability mass of the positives at each point (any total).
        negative: (n,) the same of the negatives.
    """
    _, place = np.unique(np.round(score, 12), return_inverse=True)
    pos = np.bincount(place, weights=positive)
    neg = np.bincount(place, weights=negative)
    below = np.cumsum(neg) - neg
    return float(pos @ (below + neg / 2) / (pos.sum() * neg.sum()))
