"""The methods of a table against each other: one reference against all, and all against a column's best.

Only whole cells are compared, and only on the same images (`comparisons` has the statistics). All p-values of one
table, or of one column, are corrected together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from xcoop.evaluation.paired import PAIRED_DRAWS, draws_for
from xcoop.results.benchmark import Group, Method, complete
from xcoop.results.comparisons import Comparison, compare_all, corrected
from xcoop.results.measures import Measure
from xcoop.results.outcomes import Outcomes
from xcoop.results.sheet import BEST, TIED
from xcoop.results.tables_shots import Place

LEVEL = 0.05


@dataclass(frozen=True)
class Against:
    """A method against the reference.

    Attributes:
        method: the other one.
        shots: of the reference; the other has as many, or uses none.
        found: the comparison, corrected for all of its table.
    """

    method: Method
    shots: int | None
    found: Comparison


def reference_method(group: Group, trainer: str) -> Method | None:
    """The trainer's line without overrides, or else its first; None if it has none."""
    own = sorted(method for method, _ in group.rows if method.trainer == trainer)
    return next((method for method in own if not method.tag and not method.note), own[0] if own else None)


def against_reference(
    group: Group, measure: Measure, outcomes: Outcomes, trainer: str, draws: int = 0
) -> list[Against]:
    """The reference against each other method, at each of its shots; [] if nothing can be compared.

    Args:
        group: of one dataset.
        measure: what is compared.
        outcomes: of the group's cells.
        trainer: of the reference.
        draws: of the bootstrap; 0: as many as the comparisons need.
    """
    reference = reference_method(group, trainer)
    if reference is None or not group.same_images:
        return []
    order = {method: place for place, method in enumerate(group.methods(trainer))}
    pairs: dict[int | None, list[Place]] = {}
    for shots in sorted((shots for method, shots in group.rows if method == reference), key=lambda shots: shots or 0):
        able = _whole(group, outcomes, (shots, None))
        if (reference, shots) in able:
            others = (place for place in able if place[0] != reference)
            pairs[shots] = sorted(others, key=lambda place: order[place[0]])
    draws = draws or draws_for(sum(map(len, pairs.values())))
    found: list[Comparison] = []
    for shots, places in pairs.items():
        found += _compared(outcomes, (reference, shots), places, measure, draws)
    named = ((method, shots) for shots, places in pairs.items() for method, _ in places)
    return [Against(method, shots, one) for (method, shots), one in zip(named, corrected(found), strict=True)]


def marks(group: Group, measure: Measure, outcomes: Outcomes, draws: int = PAIRED_DRAWS) -> dict[Place, str]:
    """The best cell of each number of shots, and those that are not significantly worse (level 0.05).

    Each is compared with the best by the paired bootstrap, corrected for the comparisons of the column. Where nothing
    can be tested (a measure without p-values, such as ECE; too few images), only the best is marked.
    """
    found: dict[Place, str] = {}
    for shots in (None, *group.shots) if group.same_images else ():
        able = {place: group.rows[place].mean(measure.name) for place in _whole(group, outcomes, (shots,))}
        means = {place: measure.sign * mean for place, mean in able.items() if mean is not None}
        best = [place for place, mean in means.items() if mean == max(means.values())]
        rest = [place for place in means if place not in best]
        if len(means) > 1:
            found |= dict.fromkeys(best, BEST)
            tested = zip(rest, _compared(outcomes, best[0], rest, measure, draws), strict=True)
            found |= {place: TIED for place, one in tested if one.p_corrected is not None and one.p_corrected >= LEVEL}
    return found


def _whole(group: Group, outcomes: Outcomes, shots: Iterable[int | None]) -> list[Place]:
    """The cells at these shots that can be compared."""
    wanted = set(shots)
    return [place for place, row in group.rows.items() if place[1] in wanted and complete(row) and place in outcomes]


def _compared(
    outcomes: Outcomes, reference: Place, places: list[Place], measure: Measure, draws: int
) -> list[Comparison]:
    """Each of some cells against one, corrected for these alone."""
    others = {str(number): outcomes[place] for number, place in enumerate(places)}
    return compare_all(outcomes[reference], others, (measure.name,), draws=draws)
