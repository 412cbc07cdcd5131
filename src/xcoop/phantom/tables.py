"""What can be seen on a phantom: concepts, how often each value occurs in each group; and what is said of it.

The tables stand in `tables.yaml`. Given the group the concepts are drawn independently, so the best that any classifier
can reach is known exactly. The words stand in `captions.yaml`: captions speak of visual concepts, in varied words, and
rarely of a diagnosis.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from xcoop.utils.console import unknown
from xcoop.utils.reading import read_yaml

_T = TypeVar("_T")

ABSENT = "absent"

# A diagnosis stands in this share of the captions whose case has one. Captions in the wild name what is
# seen more often than what it means; this keeps bare class names weak, and concepts strong.
DIAGNOSIS_RATE = 0.03
# Of each finding that is there, how often it is spoken of; of each that is not, how often its absence is.
_SAID = (0.6, 0.95)
_DENIED = 0.12
# How often a finding is named by a term that fits several values ("streaks" for "irregular streaks").
_VAGUE = 0.15


@dataclass(frozen=True)
class ConceptTable:
    """Concepts, their values, and P(value | group).

    Attributes:
        values: of each concept, its values in a fixed order, "absent" first.
        given: of each group, of each concept, the probabilities of its values, in the order of `values`.
    """

    values: Mapping[str, Sequence[str]]
    given: Mapping[str, Mapping[str, Sequence[float]]]

    def sample(self, group: str, rng: np.random.Generator) -> dict[str, str]:
        """Draws the profile of one case of a group: the value of each concept, independently."""
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

TABLES = {kind: ConceptTable(drawn["values"], drawn["given"]) for kind, drawn in DRAWN.items()}
DERM_TABLE, CHEST_TABLE = TABLES["derm"], TABLES["chest"]


def seven_point_score(profile: Mapping[str, str]) -> int:
    """The seven-point checklist's sum, 0 to 10, with Derm7pt's weights; 3 and more is suspected melanoma."""
    points = DRAWN["derm"]["points"]
    return sum(values.get(profile.get(concept, ABSENT), 0) for concept, values in points.items())


class BestReachable(NamedTuple):
    """Upper bounds, as fractions."""

    accuracy: float
    auc: float


def best_reachable(table: ConceptTable, priors: Mapping[str, float], positive: Collection[str]) -> BestReachable:
    """Accuracy and AUC of the Bayes classifier of two classes that sees the concepts without error.

    A class of several groups is a mixture, so its concepts are not independent: every combination of concept values is
    visited (8,640 for dermoscopy, 5,184 for chests). The Bayes rule takes the likelier class; ranking by the posterior
    gives the highest ROC curve (Neyman and Pearson), hence the highest AUC.

    Args:
        table: P(value | group), concepts independent given the group.
        priors: the share of each group that takes part, above 0; scaled to sum to one.
        positive: the groups of the positive class; the others of `priors` are the negative one.
    """
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


@dataclass(frozen=True)
class Term:
    """One thing that a caption can say of an image.

    Attributes:
        kind: "derm" or "chest".
        concept: the concept's name in the profile; several, joined by "+", where all must have one of the values.
        values: the values of the concept of which the term is true.
        wordings: the ways to say it; no wording belongs to two terms of a kind.
    """

    kind: str
    concept: str
    values: frozenset[str]
    wordings: tuple[str, ...]

    @property
    def negative(self) -> bool:
        """Whether it speaks of an absence (said less often)."""
        return self.values == {ABSENT}

    def true_of(self, profile: Mapping[str, str]) -> bool:
        """Whether a case shows it; a profile that does not know the concept shows nothing."""
        return all(profile.get(concept) in self.values for concept in self.concept.split("+"))


class Caption(NamedTuple):
    """A sentence, the terms that it states, and the word for the diagnosis in it, or None."""

    text: str
    said: tuple[Term, ...]
    diagnosis: str | None


@cache
def words() -> dict[str, Any]:
    """What stands in `captions.yaml`."""
    return dict(read_yaml(Path(__file__).with_name("captions.yaml")))


@cache
def terms(kind: str) -> tuple[Term, ...]:
    """All terms of a kind of image, in a fixed order."""
    return tuple(
        Term(kind, concept, frozenset(values.split("|")), tuple(wordings))
        for concept, rows in words()[kind]["terms"].items()
        for values, wordings in rows.items()
    )


def value_terms(kind: str) -> dict[tuple[str, str], Term]:
    """The term that is true of exactly one concept value, for each value that is something to see."""
    exact = [term for term in terms(kind) if len(term.values) == 1 and not term.negative]
    return {(term.concept, next(iter(term.values))): term for term in exact}


def make_caption(kind: str, profile: Mapping[str, str], rng: np.random.Generator, group: str | None = None) -> Caption:
    """Describes one image, and only says what is true: most of what is there, a little of what is not.

    Args:
        kind: "derm" or "chest".
        profile: the value of each concept.
        rng: decides on what is said, in which order and words; the same state gives the same caption.
        group: the diagnostic group; None if the case has none (concepts drawn uniformly).
    """
    true: dict[str, list[Term]] = {}  # of each concept
    for term in terms(kind):
        if term.true_of(profile):
            true.setdefault(term.concept, []).append(term)
    rate = rng.uniform(*_SAID)
    spoken = [found for found in true.values() if rng.random() < (_DENIED if found[0].negative else rate)]
    spoken = spoken or [_pick(list(true.values()), rng)]  # one finding at least
    said = []
    for i in rng.permutation(len(spoken)):
        vague = [term for term in spoken[i] if len(term.values) > 1]
        exact = [term for term in spoken[i] if len(term.values) == 1]
        said.append(_pick(vague if vague and (not exact or rng.random() < _VAGUE) else exact, rng))

    diagnosis = None
    frames = words()[kind]["frames"]
    if group is not None and rng.random() < DIAGNOSIS_RATE:
        diagnosis = _pick(words()[kind]["diagnoses"][group], rng)
        frames = [frame for frame in frames if "{s}" in frame or "{a}" in frame]
    findings = [_pick(term.wordings, rng) for term in said]
    if len(findings) > 1 and rng.random() < 0.5:
        findings[-2:] = [f"{findings[-2]} and {findings[-1]}"]
    return Caption(_filled(_pick(frames, rng), kind, ", ".join(findings), rng, diagnosis), tuple(said), diagnosis)


def phrase(term: Term, rng: np.random.Generator) -> str:
    """A sentence that states one term, in random words."""
    return _filled(_pick(words()[term.kind]["frames"], rng), term.kind, _pick(term.wordings, rng), rng)


def all_sentences(kind: str) -> list[str]:
    """Sentences that together hold every word that a caption of this kind can hold."""
    own = words()[kind]
    wordings = [wording for term in terms(kind) for wording in term.wordings]
    names = [name for names in own["diagnoses"].values() for name in names]
    frames = [frame.replace("{s}", "").replace("{f}", "").replace("{a}", "") for frame in own["frames"]]
    return [*wordings, *names, *own["subjects"], *words()["views"], *frames, "and", "a, b", "a: b.", "x."]


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]


def _filled(frame: str, kind: str, findings: str, rng: np.random.Generator, diagnosis: str | None = None) -> str:
    subject = diagnosis or _pick(words()[kind]["subjects"], rng)
    view = diagnosis or _pick(words()["views"], rng)
    return frame.replace("{s}", subject).replace("{a}", view).replace("{f}", findings)
