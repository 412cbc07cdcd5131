"""Everything that the records of a benchmark give: one page, each table and figure as files, and the numbers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xcoop.evaluation.bootstrap import DRAWS
from xcoop.page import render
from xcoop.results.benchmark import REFERENCE, Benchmark, Group, Method
from xcoop.results.compare import Assessed, Comparison, Measure, against_reference, assess, harmonic_intervals
from xcoop.results.figures import Drawing, curve, rank_drawings, reliability_drawing
from xcoop.results.sheet import Sheet, latex, lines_csv, markdown, table_csv, terminal
from xcoop.results.tables import (
    base_new_sheets,
    cell_lines,
    compare_sheet,
    comparison_lines,
    cost_sheet,
    halves,
    mean_sheets,
    shots_sheets,
    transfer_sheets,
)
from xcoop.utils.files import atomic_write_bytes, atomic_write_text, sha256_file
from xcoop.utils.reading import read_json

PAGE, LIST = "benchmark.html", "files.json"
Part = Sheet | Drawing | str
"""A table, a figure or a plain sentence."""


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
class Section:
    """A part of the page.

    Attributes:
        title: plain text.
        parts: tables, figures and plain sentences, in order.
    """

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Report:
    """What was made of the records.

    Attributes:
        sections: of the page.
        cells: every figure, see `xcoop.results.tables.cell_lines`.
        comparisons: with the reference, see `xcoop.results.tables.comparison_lines`.
        damaged: what is wrong with records that count as missing.
        is_phantom: whether any of the images are drawn.
    """

    sections: tuple[Section, ...]
    cells: tuple[dict[str, Any], ...]
    comparisons: tuple[dict[str, Any], ...]
    damaged: tuple[str, ...]
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
    labels, damaged, reference = benchmark.labels(), list(benchmark.damaged), wanted.reference
    first = wanted.measures[0]

    def assessed(group: Group) -> Assessed:
        return assess(group, wanted.measures, damaged, wanted.draws)

    found = []
    for group in benchmark.groups:
        tell(f"{group.title}: intervals and comparisons of {len(group.rows)} cells")
        found.append(assessed(group))
    by_title = {one.group.title: one for one in found}
    transferred = []
    for transfer in benchmark.transfers:
        tell(f"{transfer.source.title} to {', '.join(group.title for group in transfer.targets)}: intervals")
        transferred.append([by_title[transfer.source.title], *map(assessed, transfer.targets)])
    compared = [against_reference(one.group, first, one.outcomes, reference) for one in found]

    sections: list[tuple[str, list[Part]]] = []
    means = [sheet for measure in wanted.measures for sheet in mean_sheets(benchmark, measure, labels, reference)]
    if means:
        sections.append(("All datasets", [*means, *rank_drawings(benchmark, first, labels, wanted.figures)]))
    both: list[Part] = []
    for base, new in halves(found):
        harmonic = harmonic_intervals(base, new, first, wanted.draws)
        both += base_new_sheets((base, new), first, harmonic, labels, reference)
    if both:
        sections.append(("Base and new classes", both))
    moved: list[Part] = []
    for transfer, own in zip(benchmark.transfers, transferred, strict=True):
        for measure in wanted.measures:
            moved += transfer_sheets(transfer, own, measure, labels, reference)
    if moved:
        sections.append(("Cross-dataset transfer", moved))
    for one, against in zip(found, compared, strict=True):
        sections.append((one.group.title, list(_of_group(one, against, labels, wanted))))

    cells = [line for one in found for measure in wanted.measures for line in cell_lines(one, measure)]
    for source, *targets in transferred:
        for target in targets:
            for measure in wanted.measures:
                cells += cell_lines(target, measure, source.group.dataset)
    lines = [
        line
        for one, against in zip(found, compared, strict=True)
        for line in comparison_lines(one.group, first, against, reference)
    ]
    return Report(
        tuple(Section(title, parts) for title, parts in sections),
        tuple(cells),
        tuple(lines),
        tuple(dict.fromkeys(damaged)),
        benchmark.is_phantom,
    )


def _of_group(
    one: Assessed, against: Sequence[Comparison], labels: Mapping[Method, str], wanted: Wanted
) -> Iterator[Part]:
    """Tables and figures of one dataset."""
    group, reference = one.group, wanted.reference
    for measure in wanted.measures:
        yield from shots_sheets(one, measure, labels, reference)
        intervals = one.intervals[measure.name]
        if wanted.figures and len(group.shots) > 1 and (drawing := curve(group, measure, labels, intervals, reference)):
            yield drawing
    yield compare_sheet(group, wanted.measures[0], against, labels, reference)
    largest = group.shots[-1] if group.shots else None
    if wanted.figures and (drawing := reliability_drawing(group, largest, labels, one.outcomes, reference)):
        yield drawing
    yield cost_sheet(group, labels, reference)


# The files.


def page(found: Report, intro: Sequence[str]) -> str:
    """All tables and figures as one self-contained HTML page; `intro` says what was read."""
    images = {drawing.key: base64.b64encode(drawing.png).decode() for drawing in found.drawings}
    return render("results/benchmark.html.j2", found=found, intro=intro, images=images)


def publish(found: Report, folder: Path, intro: Sequence[str]) -> list[Path]:
    """Writes all files below a folder; their paths, the page first.

    A list of them is kept. Files of the list before that are not made any more, and that nobody has changed, go: a
    table of runs that are gone would be taken for a result. What is there and not on the list is somebody else's.

    Raises:
        ValueError: the list is damaged, or not ours; the message names it.
        FileExistsError: a file of somebody else's, or a link, would be replaced; nothing was written then.
    """
    before, files = _listed(folder), dict(_files(found, intro))
    written = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name in (*written, LIST):
        path = folder / name
        if path.is_symlink() or (path.exists() and name not in (*before, LIST)):
            raise FileExistsError(f"{path} is not xcoop's, and would be replaced: move it away, or name another --to")
    # First of all what is ours, so that a report that was interrupted can be written again.
    atomic_write_text(folder / LIST, json.dumps(written | before, indent=1) + "\n")
    for name, data in files.items():
        atomic_write_bytes(folder / name, data)
    for name in before.keys() - written.keys():
        path = folder / name
        if path.is_file() and sha256_file(path) == before[name]:
            path.unlink()
    atomic_write_text(folder / LIST, json.dumps(written, indent=1) + "\n")
    return [folder / name for name in written]


def _listed(folder: Path) -> dict[str, str]:
    """The files of the report before, with their hashes; none outside the folder."""
    if not (folder / LIST).is_file():
        return {}
    found = read_json(folder / LIST)
    hashes = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key) for key in hashes):
        raise ValueError(
            f"{folder / LIST} is not the list of a report's files: move it away, or name another folder (--to)"
        )
    ours = re.compile(r"(?:(?:tables|figures)/)?[A-Za-z0-9_-]+\.(?:html|csv|txt|md|tex|png|pdf)")
    return {name: key for name, key in found.items() if ours.fullmatch(name)}


def _files(found: Report, intro: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    yield PAGE, page(found, intro).encode()
    yield "cells.csv", lines_csv(found.cells).encode()
    yield "comparisons.csv", lines_csv(found.comparisons).encode()
    for sheet in found.sheets:
        for kind, write in (("txt", terminal), ("md", markdown), ("tex", latex), ("csv", table_csv)):
            yield f"tables/{sheet.key}.{kind}", write(sheet).encode()
    for drawing in found.drawings:
        yield f"figures/{drawing.key}.png", drawing.png
        yield f"figures/{drawing.key}.pdf", drawing.pdf
