"""Cross-dataset transfer: models trained on one dataset, on its own test images and on those of others."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from xcoop.evaluation.bootstrap import Interval
from xcoop.results.benchmark import Group, slug
from xcoop.results.facts import SPREAD, facts
from xcoop.results.measures import Measure
from xcoop.results.rows import Row
from xcoop.results.sheet import MISSING, NONE, Sheet, Shown, percent
from xcoop.results.tables_mean import means_of_seeds
from xcoop.results.tables_shots import INTERVALS, OTHER_IMAGES, Labels, Place, column, interval_cell, mean_cell
from xcoop.results.transfer import Transfer

Intervals = Mapping[Place, Interval | None]


def transfer_sheet(transfer: Transfer, measure: Measure, labels: Labels, reference: str) -> Sheet:
    """Methods and shots against the source, each target, and the mean over the targets of one kind.

    Args:
        transfer: of one source.
        measure: what is shown.
        labels: the methods' names.
        reference: the trainer whose lines stand last.
    """
    kinds = list(transfer.kinds())

    def cells(place: Place) -> list[Shown]:
        figures = [mean_cell(group.rows[place], measure.name) for group in transfer.groups]
        return figures + [_mean(targets, place, measure.name) for _, targets in kinds]

    means = [_mean_name(drawn, len(targets), mixed=len(kinds) > 1) for drawn, targets in kinds]
    notes = [
        f"{SPREAD}; {measure.direction}. Trained on {_name(transfer.source)} alone{_untrained(transfer, labels)}.",
        *_mean_notes(transfer),
        *_notes(transfer, labels),
    ]
    head = (*_head(transfer), *means)
    return _sheet(transfer, measure, "", head, _lines(transfer, labels, reference, cells), notes)


def transfer_interval_sheet(
    transfer: Transfer, measure: Measure, labels: Labels, intervals: Sequence[Intervals], reference: str
) -> Sheet:
    """The same with 95 % intervals over the test images of each dataset; `intervals` as `Transfer.groups`."""

    def cells(place: Place) -> list[Shown]:
        pairs = zip(transfer.groups, intervals, strict=True)
        return [interval_cell(group.rows[place], own.get(place)) for group, own in pairs]

    notes = [f"{INTERVALS}; {measure.direction}.", *_notes(transfer, labels)]
    lines = _lines(transfer, labels, reference, cells)
    return _sheet(transfer, measure, "intervals", _head(transfer), lines, notes)


def _sheet(
    transfer: Transfer,
    measure: Measure,
    detail: str,
    head: tuple[str, ...],
    lines: tuple[tuple[Shown, ...], ...],
    notes: Sequence[str],
) -> Sheet:
    title = f"{measure.title} of models trained on {_name(transfer.source)}, on other datasets"
    title += ", with intervals over the test images" if detail else ""
    key = "-".join(filter(None, (transfer.source.key, "transfer", slug(measure.name), detail)))
    origin = facts([run for group in transfer.groups for run in group.runs], measure.name)
    return Sheet(key, title, head, lines, tuple(notes), tuple(origin), minor=bool(detail))


def _lines(
    transfer: Transfer, labels: Labels, reference: str, cells: Callable[[Place], list[Shown]]
) -> tuple[tuple[Shown, ...], ...]:
    order = {method: number for number, method in enumerate(transfer.source.methods(reference))}
    places = sorted(transfer.source.rows, key=lambda place: (order[place[0]], place[1] or 0))
    return tuple(
        (Shown(labels[method]), Shown(NONE if shots is None else str(shots)), *cells((method, shots)))
        for method, shots in places
    )


def _head(transfer: Transfer) -> tuple[str, ...]:
    return "Method", "Shots", f"{_name(transfer.source)}, the source", *map(_name, transfer.targets)


def _name(group: Group) -> str:
    """A dataset's name, which says if its images are drawn."""
    return f"{group.title} (phantom)" if group.is_phantom and "phantom" not in group.title else group.title


def _untrained(transfer: Transfer, labels: Labels) -> str:
    names = sorted(labels[method] for method in transfer.source.untrained)
    return f"; not trained at all: {', '.join(names)}" if names else ""


def _mean_name(drawn: bool, targets: int, mixed: bool) -> str:
    kind = f"{'phantom' if drawn else 'real'} " if mixed or drawn else ""
    return f"Mean of {targets} {kind}targets"


def _mean(targets: Sequence[Group], place: Place, metric: str) -> Shown:
    values = means_of_seeds([target.rows[place] for target in targets], metric)
    if values is None or not all(target.same_images for target in targets):
        return Shown(MISSING)
    return Shown(percent(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None))


def _mean_notes(transfer: Transfer) -> Iterator[str]:
    for drawn, targets in transfer.kinds():
        yield (
            f"Mean of the {'drawn' if drawn else 'real'} targets ({', '.join(target.title for target in targets)}): of "
            "each seed, then over the seeds; missing where one of the targets is, or lacks seeds."
        )
    unknown = [target.title for target in transfer.targets if not target.runs]
    if unknown and len(unknown) < len(transfer.targets):
        yield f"Whether the images of {', '.join(unknown)} are drawn is not known yet: it counts with both kinds."


def _notes(transfer: Transfer, labels: Labels) -> Iterator[str]:
    yield f"Test images: {'; '.join(f'{_name(group)} {_sizes(group)}' for group in transfer.groups)}."
    drawn = [group.title for group in transfer.groups if group.is_phantom]
    real = [group.title for group in transfer.groups if group.runs and not group.is_phantom]
    if drawn and real:
        yield f"Drawn images (phantom): {', '.join(drawn)}. Real images: {', '.join(real)}."
    yield from (f"{group.title}: {OTHER_IMAGES}" for group in transfer.groups if not group.same_images)
    rows: list[Row] = [row for group in transfer.groups for row in group.rows.values()]
    yield from dict.fromkeys(row.note for row in rows if row.note)
    if any(row.runs and row.missing for row in rows):
        yield "Cells that lack seeds name those that they have."
    if transfer.untried:
        names = ", ".join(f"{labels[method]} ({column(shots)})" for method, shots in transfer.untried)
        yield f"Not evaluated on another dataset: {names}."


def _sizes(group: Group) -> str:
    return " or ".join(map(str, sorted({run["n_test"] for run in group.runs}))) or "not known"
