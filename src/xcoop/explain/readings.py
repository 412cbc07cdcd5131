"""What the trust table says, in words and small charts: one sentence for the head of a page, one reading a row.

A warning is made of what was measured and of nothing else: where a measure was not made, nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from xcoop.explain.content import Control, Trust
from xcoop.page import interval, number

# Rows of the table, and controls, that are asked for by name.
DELETION, INSERTION = "Deletion AUC", "Insertion AUC"  # both go on with their baseline
ENERGY, OF_CONCEPTS = "Energy in mask", ", concepts"
OF_UNTRAINED = "Correlation with an untrained model's map"
EFFECT = "Effect of the top concepts"
LEARNED = "Prompts as trained"
KNOWLEDGE = "Knowledge of the untrained sentences"
SAME, UNRELATED = "the same sentences, untrained", "unrelated phrases, untrained"
AT_START = "prompts put back to their start"
DIRECTIONS = "random directions"
HEADLINES = {
    UNRELATED: "On these images the bank's sentences, as they are written, are not clearly better than unrelated "
    "phrases in their place: do not read the prompts as medical knowledge.",
    AT_START: "On these images what the prompts learned makes no clear difference: their sentences as written decide "
    "as well.",
}
SAME_MAP = 0.3  # the rank correlation above which two maps are much the same
DRAWN_BACKBONE = "phantom"  # the one that was trained on drawn images alone


def warning(backbone: str, is_phantom: bool, trust: Sequence[Trust]) -> str:
    """Where measures fail, in one sentence; "" if none that was made does.

    Args:
        backbone: of the run.
        is_phantom: whether its images are drawn, too.
        trust: the rows that were measured.
    """
    never = backbone == DRAWN_BACKBONE and not is_phantom
    failed = [line for line in (_decisions(trust), *_maps(trust), *_concepts(trust)) if line]
    parts = ["this backbone never saw real images"] if never else []
    if failed:
        images = max(one.n for one in trust)
        parts.append(f"on {images} test images {_listed(failed)}")
    return f"Read with care: {'; '.join(parts)}." if parts else ""


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (", and " if parts[1:] else "") + parts[-1]


def _decisions(trust: Sequence[Trust]) -> str:
    chance = any(one.metric == LEARNED and one.low is not None and one.low <= 0.5 for one in trust)
    return "its decisions are not clearly better than chance" if chance else ""


def _maps(trust: Sequence[Trust]) -> list[str]:
    """The worst that is known of the maps of classes, and whether those of concepts lie where concepts do."""
    found = []
    for control, words in (("random", "random ones"), ("centre", "a spot in the centre")):
        asked = _against(trust, (DELETION, INSERTION), control)
        if failed := [one for one in asked if one != "better"]:
            how = "" if len(failed) == len(asked) else f" by {len(failed)} of {len(asked)} measures"
            found.append(f"the maps are not clearly better than {words}{how}")
            break
    else:
        if any(one.metric == OF_UNTRAINED and one.low is not None and one.low > SAME_MAP for one in trust):
            found.append("the maps are much the same from an image tower that was never trained")
    if any(one != "better" for one in _against(trust, (ENERGY + OF_CONCEPTS,), "random")):
        found.append("the maps of concepts find known places not clearly better than random ones")
    return found


def _concepts(trust: Sequence[Trust]) -> list[str]:
    """Whether concepts, and what prompts learned of them, do more than what knows nothing."""
    found = []
    if _level(_against(trust, (KNOWLEDGE,), UNRELATED)):
        found.append("the bank's knowledge is not clearly better than unrelated phrases")
    if _level(_against(trust, (LEARNED,), AT_START)):
        found.append("what the prompts learned makes no clear difference")
    for control, words in ((UNRELATED, "unrelated phrases"), (DIRECTIONS, DIRECTIONS)):
        if any(one != "better" for one in _against(trust, (EFFECT,), control)):
            found.append(f"concepts move a decision not clearly more than {words}")
    return found


def _against(trust: Sequence[Trust], metrics: tuple[str, ...], control: str) -> list[str]:
    """How the rows whose names begin so stand beside a control, in the order of the table."""
    rows = [one for one in trust if one.metric.startswith(metrics)]
    return [beside(one, other) for one in rows for other in one.controls if other.name == control]


def _level(asked: Sequence[str]) -> bool:
    """Whether none of some rows, by which metric ever, is clearly better than its control."""
    return bool(asked) and all(one != "better" for one in asked)


def headlines(trust: Sequence[Trust]) -> list[str]:
    """What a reader must know first: where right knowledge, or what was learned, makes no clear difference."""
    return [
        HEADLINES[control]
        for metric, control in ((KNOWLEDGE, UNRELATED), (LEARNED, AT_START))
        if _level(_against(trust, (metric,), control))
    ]


def reading(metric: Trust) -> str:
    """What a metric says against its controls, in words.

    "clear of" means that the two 95 % intervals do not touch (stricter than a test at 5 %); a control without an
    interval stands for its value.
    """
    if not metric.controls:
        return "no control"
    if metric.low is None or metric.high is None:
        return "no interval"
    worse = [control.name for control in metric.controls if beside(metric, control) == "worse"]
    unclear = [control.name for control in metric.controls if beside(metric, control) == "unclear"]
    if worse:
        return f"worse than: {', '.join(worse)}"
    return f"not clear of: {', '.join(unclear)}" if unclear else "better than its controls"


def beside(metric: Trust, control: Control) -> Literal["better", "worse", "unclear"]:
    """Whether a metric is clear of a control, and to which side."""
    low, high = (control.value, control.value) if control.low is None else (control.low, control.high)
    if low is None or high is None or metric.low is None or metric.high is None:
        return "unclear"
    if metric.low <= high and metric.high >= low:
        return "unclear"
    return "better" if (metric.low > high) == (metric.direction == "higher") else "worse"


# Charts.


class Mark(NamedTuple):
    """A value and its interval on a row's own scale, all in percent of its width."""

    at: float
    low: float
    high: float


class Chart(NamedTuple):
    """A row of the table drawn: what is asked, then its controls."""

    marks: Sequence[Mark | None]  # None where a value is not known
    alt: str  # all of it in words


def chart(metric: Trust) -> Chart:
    """The row's values and intervals below one another, from the lowest of them to the highest."""
    lines: list[tuple[str, Trust | Control]] = [("here", metric), *((one.name, one) for one in metric.controls)]
    ends = [end for _, one in lines for end in (one.value, one.low, one.high) if end is not None]
    low, span = (min(ends), max(ends) - min(ends)) if ends else (0.0, 0.0)

    def place(value: float) -> float:
        return 2 + 96 * (value - low) / span if span else 50.0  # a mark at either end stays whole

    marks: list[Mark | None] = []
    for _, one in lines:
        if one.value is None:
            marks.append(None)
        else:
            ends = [one.value if end is None else end for end in (one.low, one.high)]
            marks.append(Mark(*map(place, (one.value, *ends))))
    said = (f"{name} {number(one.value)} {interval((one.low, one.high))}".strip() for name, one in lines)
    return Chart(marks, f"{metric.metric}: {'; '.join(said)}")
