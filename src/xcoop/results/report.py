"""Everything that the records of a benchmark give: sections of tables and figures, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xcoop.evaluation.bootstrap import DRAWS
from xcoop.results.assess import Assessed, AssessedTransfer, assess, assess_transfer, harmonic_intervals
from xcoop.results.benchmark import REFERENCE, Benchmark, Method
from xcoop.results.cells_csv import cells
from xcoop.results.compare import Against, against_reference
from xcoop.results.critical_difference import rank_drawings
from xcoop.results.curves import curve
from xcoop.results.drawing import NEEDS, Drawing, can_draw
from xcoop.results.measures import Measure
from xcoop.results.page import Part, Section
from xcoop.results.reliability import reliability_drawing
from xcoop.results.sheet import Sheet
from xcoop.results.tables_base_new import Halves, base_new_interval_sheet, base_new_sheet, halves
from xcoop.results.tables_compare import compare_sheet, comparison_lines
from xcoop.results.tables_cost import cost_sheet
from xcoop.results.tables_mean import mean_sheets
from xcoop.results.tables_shots import interval_sheet, shots_sheet
from xcoop.results.tables_transfer import transfer_interval_sheet, transfer_sheet
from xcoop.results.transfer import transfers

Labels = Mapping[Method, str]


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        measures: of tables and curves; the first is the one that is compared.
        reference: the trainer that the others are compared with.
        figures: whether figures are drawn.
        draws: of the bootstrap.
    """

    measures: tuple[Measure, ...]
    reference: str = REFERENCE
    figures: bool = True
    draws: int = DRAWS


@dataclass(frozen=True)
class Report:
    """What was made of the records.

    Attributes:
        sections: of the page.
        cells: every figure, see `cells_csv`.
        comparisons: with the reference, see `tables_compare`.
        damaged: what is wrong with records that count as missing.
        notes: what the reader of the terminal ought to know, e.g. that there are no figures, and why.
        is_phantom: whether any of the images are drawn.
    """

    sections: tuple[Section, ...]
    cells: tuple[dict[str, Any], ...]
    comparisons: tuple[dict[str, Any], ...]
    damaged: tuple[str, ...]
    notes: tuple[str, ...]
    is_phantom: bool = False

    @property
    def sheets(self) -> list[Sheet]:
        """All tables, in order."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Sheet)]

    @property
    def drawings(self) -> list[Drawing]:
        """All figures, in order."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Drawing)]


def report(benchmark: Benchmark, wanted: Wanted, tell: Callable[[str], None] = lambda line: None) -> Report:
    """Tables, figures and numbers of a benchmark; `tell` hears what is being worked on."""
    labels, damaged = benchmark.labels(), list(benchmark.damaged)
    found = []
    for group in benchmark.groups:
        tell(f"{group.title}: intervals and comparisons of {len(group.rows)} cells")
        found.append(assess(group, wanted.measures, damaged, wanted.draws))
    sources, moved = {one.group.title: one for one in found}, []
    for transfer in transfers(benchmark, damaged):
        tell(f"{transfer.source.title} to {', '.join(group.title for group in transfer.targets)}: intervals")
        own = sources[transfer.source.title]
        moved.append(assess_transfer(transfer, own, wanted.measures, damaged, wanted.draws))
    draws = wanted.figures and can_draw()
    sections = [*_overall(benchmark, labels, wanted)]
    if both := [*_base_new(halves(found), labels, wanted)]:
        sections.append(Section("Base and new classes", both))
    if moved:
        sections.append(Section("Cross-dataset transfer", [*_transferred(moved, labels, wanted)]))
    first = wanted.measures[0]
    compared = [against_reference(one.group, first, one.outcomes, wanted.reference) for one in found]
    sections += [
        Section(one.group.title, list(_parts(one, own, labels, wanted, draws)))
        for one, own in zip(found, compared, strict=True)
    ]
    against = [
        line
        for one, own in zip(found, compared, strict=True)
        for line in comparison_lines(one.group, first, own, wanted.reference)
    ]
    lines = [line for one in found for line in _cells(one, wanted)]
    lines += [line for one in moved for target in one.targets
              for line in _cells(target, wanted, one.transfer.source.dataset)]  # fmt: skip
    notes = [NEEDS] if wanted.figures and not draws else []
    is_phantom = benchmark.is_phantom or any(one.transfer.is_phantom for one in moved)
    return Report(
        tuple(sections), tuple(lines), tuple(against), tuple(dict.fromkeys(damaged)), tuple(notes), is_phantom
    )


def _overall(benchmark: Benchmark, labels: Labels, wanted: Wanted) -> Iterator[Section]:
    means = [
        sheet for measure in wanted.measures for sheet in mean_sheets(benchmark, measure, labels, wanted.reference)
    ]
    ranked = rank_drawings(benchmark, wanted.measures[0], labels, wanted.figures and can_draw())
    if means:
        yield Section("All datasets", [*means, *ranked])


def _base_new(pairs: Sequence[Halves], labels: Labels, wanted: Wanted) -> Iterator[Sheet]:
    first = wanted.measures[0]
    for pair in pairs:
        harmonic = harmonic_intervals(*pair, first, wanted.draws)
        yield base_new_sheet(pair, first, labels, wanted.reference)
        yield base_new_interval_sheet(pair, first, harmonic, labels, wanted.reference)


def _transferred(moved: Sequence[AssessedTransfer], labels: Labels, wanted: Wanted) -> Iterator[Sheet]:
    for one in moved:
        for measure in wanted.measures:
            intervals = [group.intervals[measure.name] for group in (one.source, *one.targets)]
            yield transfer_sheet(one.transfer, measure, labels, wanted.reference)
            yield transfer_interval_sheet(one.transfer, measure, labels, intervals, wanted.reference)


def _cells(one: Assessed, wanted: Wanted, source: str = "") -> Iterator[dict[str, Any]]:
    for measure in wanted.measures:
        yield from cells(one.group, measure, one.intervals[measure.name], one.marks[measure.name], source)


def _parts(one: Assessed, compared: Sequence[Against], labels: Labels, wanted: Wanted, draws: bool) -> Iterator[Part]:
    group = one.group
    for measure in wanted.measures:
        intervals = one.intervals[measure.name]
        yield shots_sheet(group, measure, labels, one.marks[measure.name], wanted.reference)
        yield interval_sheet(group, measure, labels, intervals, wanted.reference)
        if draws and len(group.shots) > 1 and (drawing := curve(group, measure, labels, intervals, wanted.reference)):
            yield drawing
    yield compare_sheet(group, wanted.measures[0], compared, labels, wanted.reference)
    largest: Sequence[int | None] = group.shots or [None]
    if draws and (drawing := reliability_drawing(group, largest[-1], labels, one.outcomes, wanted.reference)):
        yield drawing
    yield cost_sheet(group, labels, wanted.reference)
