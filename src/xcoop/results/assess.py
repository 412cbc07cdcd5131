"""What the predictions add to the means of a table: intervals over the images, and which figures are the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xcoop.evaluation.bootstrap import DRAWS, Interval
from xcoop.evaluation.harmonic import harmonic_interval
from xcoop.evaluation.intervals import image_intervals
from xcoop.results.benchmark import Group
from xcoop.results.compare import marks
from xcoop.results.measures import Measure
from xcoop.results.outcomes import Outcomes, outcomes
from xcoop.results.predictions import aligned
from xcoop.results.tables_shots import Place
from xcoop.results.transfer import Transfer


@dataclass(frozen=True)
class Assessed:
    """A group with what its predictions tell.

    Attributes:
        group: of one dataset.
        outcomes: the predictions of each cell.
        intervals: by measure and cell.
        marks: by measure and cell: best, or not significantly worse.
    """

    group: Group
    outcomes: Outcomes
    intervals: Mapping[str, Mapping[Place, Interval | None]]
    marks: Mapping[str, Mapping[Place, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class AssessedTransfer:
    """A transfer with what its predictions tell.

    Attributes:
        transfer: the models' own dataset, and the others.
        source: the former.
        targets: the latter, in the order of the transfer.
    """

    transfer: Transfer
    source: Assessed
    targets: Sequence[Assessed]


def assess(group: Group, measures: Sequence[Measure], damaged: list[str], draws: int = DRAWS) -> Assessed:
    """Reads the predictions of a group, and computes intervals and marks.

    Args:
        group: of one dataset.
        measures: of the tables.
        damaged: takes what is wrong with predictions that cannot be used.
        draws: of the bootstrap.
    """
    found = outcomes(group, damaged)
    names = [measure.name for measure in measures]
    by_place = {}
    for place, runs in found.items():
        one = aligned(runs)
        by_place[place] = image_intervals(one.labels, one.probabilities, one.patients, metrics=names, draws=draws)
    intervals = {name: {place: own[name] for place, own in by_place.items()} for name in names}
    marked = {measure.name: marks(group, measure, found) for measure in measures}
    return Assessed(group, found, intervals, marked)


def assess_transfer(
    transfer: Transfer, source: Assessed, measures: Sequence[Measure], damaged: list[str], draws: int = DRAWS
) -> AssessedTransfer:
    """The same of each target; the source was assessed before."""
    return AssessedTransfer(transfer, source, [assess(one, measures, damaged, draws) for one in transfer.targets])


def harmonic_intervals(
    base: Assessed, new: Assessed, measure: Measure, draws: int = DRAWS
) -> dict[Place, Interval | None]:
    """Of each cell that has the same seeds on base and on new classes: the harmonic mean, with its interval.

    Args:
        base: the classes that were trained.
        new: the other classes.
        measure: of the table; {} for one of which less is better.
        draws: of the bootstrap.
    """
    found: dict[Place, Interval | None] = {}
    for place in base.outcomes.keys() & new.outcomes.keys() if measure.higher else ():
        if base.group.rows[place].runs.keys() == new.group.rows[place].runs.keys():
            halves = [aligned(one.outcomes[place]) for one in (base, new)]
            found[place] = harmonic_interval(
                *((half.labels, half.probabilities, half.patients) for half in halves),
                metric=measure.name,
                draws=draws,
            )
    return found
