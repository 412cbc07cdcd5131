"""The reference against each other method, as a table and as numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from xcoop.evaluation.paired import draws_for
from xcoop.results.benchmark import Group
from xcoop.results.compare import LEVEL, Against, reference_method
from xcoop.results.facts import facts, short
from xcoop.results.measures import Measure
from xcoop.results.sheet import NONE, Sheet, Shown
from xcoop.results.tables_shots import Labels

HEAD = ("Method", "Shots", "Difference", "95 % interval", "p", "p corrected", "Right alone (reference / it)",
        "McNemar p", "McNemar corrected")  # fmt: skip

_NUMBERS = ("value", "difference", "low", "high", "p", "p_corrected", "p_bonferroni",
            "n_comparisons", "n_images", "n_patients")  # fmt: skip


def compare_sheet(
    group: Group, measure: Measure, found: Sequence[Against], labels: Labels, trainer: str
) -> Sheet | str:
    """The table; a sentence that says why nothing was compared, if nothing was."""
    reference = reference_method(group, trainer)
    if reference is None:
        return f"Nothing is compared on {group.title}: {trainer}, the reference, was not run on it."
    if not group.same_images:
        return f"Nothing is compared on {group.title}: not all runs were tested on the same images ({_images(group)})."
    if not found:
        return f"Nothing is compared on {group.title}: no other method has all its seeds where {labels[reference]} has."
    count, tested = len(found), max(one.found.n_comparisons for one in found)
    exact = sum(one.found.mcnemar is not None for one in found)
    notes = [
        f"Differences in points (percent): the method less {labels[reference]}, each the mean over its seeds, on the "
        f"same images; {measure.direction}. Interval and p-value: paired bootstrap over the images, {draws_for(count)} "
        "draws, patients whole where they are known. They speak of other images, not of other trainings.",
        f"Corrected: Holm, over the {tested} comparisons of this table; below {LEVEL:g} it is significant.",
        _mcnemar_note(measure, exact),
    ]
    rows = tuple(_row(one, labels) for one in found)
    title = f"{measure.title} on {group.title}: each method compared with {labels[reference]}"
    return Sheet(f"{group.key}-comparisons", title, HEAD, rows, tuple(notes), tuple(facts(group.runs, measure.name)))


def comparison_lines(
    group: Group, measure: Measure, found: Sequence[Against], trainer: str
) -> Iterator[dict[str, Any]]:
    """The same as numbers (fractions), for a file."""
    reference = reference_method(group, trainer)
    if reference is None:
        return
    for one in found:
        test = one.found.mcnemar._asdict() if one.found.mcnemar else {}
        yield {
            "dataset": group.title,
            "metric": measure.name,
            "reference": " ".join(filter(None, (reference.trainer, reference.cfg, reference.tag))),
            "trainer": one.method.trainer,
            "cfg": one.method.cfg,
            "overrides": one.method.tag,
            "shots": one.shots,
            "reference_value": one.found.reference,
            **{key: getattr(one.found, key) for key in _NUMBERS},
            "only_reference_right": test.get("only_a"),
            "only_method_right": test.get("only_b"),
            "mcnemar_p": test.get("p"),
            "mcnemar_p_corrected": one.found.mcnemar_corrected,
        }


def _row(one: Against, labels: Labels) -> tuple[Shown, ...]:
    found, test = one.found, one.found.mcnemar
    figures = (
        _points(found.difference),
        "n/a" if found.low is None else f"[{_points(found.low)}, {_points(found.high)}]",
        _p(found.p),
        _p(found.p_corrected),
        "n/a" if test is None else f"{test.only_a} / {test.only_b}",
        _p(test.p if test else None),
        _p(found.mcnemar_corrected),
    )
    shots = NONE if one.shots is None else str(one.shots)
    return (Shown(labels[one.method]), Shown(shots), *map(Shown, figures))


def _points(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:+.1f}"


def _p(value: float | None) -> str:
    if value is None:
        return "n/a"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _mcnemar_note(measure: Measure, exact: int) -> str:
    if not exact:
        return "McNemar's test is not given: patients have several images, which it would take for independent."
    other = "" if measure.name == "accuracy" else " (of right and wrong, whatever is compared beside it)"
    return f"McNemar: exact test on the majority of the seeds{other}; Holm over its {exact} tests."


def _images(group: Group) -> str:
    """Which methods were tested on which images."""
    tested: dict[str, set[str]] = {}
    for (method, _), row in group.rows.items():
        for run in row.runs.values():
            tested.setdefault(str(run.get("test_hash")), set()).add(method.trainer)
    return "; ".join(f"test_hash {short(key)}: {', '.join(sorted(names))}" for key, names in sorted(tested.items()))
