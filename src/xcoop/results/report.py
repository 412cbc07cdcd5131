"""Everything that the records of a benchmark give: one page, each table and figure as files, and the numbers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xcoop.evaluation.statistics import DRAWS
from xcoop.page import render
from xcoop.results.benchmark import ALL, REFERENCE, Benchmark, Group, Method
from xcoop.results.compare import (
    Assessed,
    Comparison,
    Measure,
    against_reference,
    assess,
    harmonic_intervals,
    reference_method,
)
from xcoop.results.figures import Drawing, curve, rank_drawings, reliability_drawing
from xcoop.results.missing import ELSEWHERE, Gap, gaps
from xcoop.results.table import Sheet, latex, lines_csv, markdown, table_csv, terminal
from xcoop.results.tables import (
    base_new_sheet,
    below,
    compare_sheet,
    cost_sheet,
    halves,
    mean_of,
    mean_sheets,
    shots_sheet,
    transfer_sheet,
)
from xcoop.utils.files import atomic_write_bytes, atomic_write_text, sha256_file
from xcoop.utils.reading import read_json

PAGE, LIST, MISSING = "benchmark.html", "files.json", "missing.sh"
SHARED = ("All datasets", "Base and new classes", "Cross-dataset transfer")  # sections of more than one dataset
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
class Report:
    """What was made of the records.

    Attributes:
        sections: of the page, their tables, figures and sentences in order, by title; the datasets come first.
        cells: every figure, see `cell_lines`.
        comparisons: with the reference, see `comparison_lines`.
        damaged: what is wrong with records that count as missing.
        is_phantom: whether any of the images are drawn.
        gaps: what is missing in the tables.
        out: the output root.
        draws: of the bootstrap, behind every interval and test.
    """

    sections: dict[str, list[Part]]
    cells: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]
    damaged: list[str]
    is_phantom: bool
    gaps: list[Gap]
    out: Path
    draws: int

    @property
    def sheets(self) -> list[Sheet]:
        """All tables, in order."""
        return [part for parts in self.sections.values() for part in parts if isinstance(part, Sheet)]

    @property
    def drawings(self) -> list[Drawing]:
        """All figures, in order."""
        return [part for parts in self.sections.values() for part in parts if isinstance(part, Drawing)]


def report(benchmark: Benchmark, wanted: Wanted, tell: Callable[[str], None] = lambda line: None) -> Report:
    """Tables, figures and numbers of a benchmark; `tell` hears what is being worked on."""
    labels, damaged, reference = benchmark.labels(), list(benchmark.damaged), wanted.reference
    first = wanted.measures[0]

    def assessed(group: Group, trained_on: str = "") -> Assessed:
        tell(f"{trained_on}{group.title}: intervals and comparisons of {len(group.rows)} cells")
        return assess(group, wanted.measures, damaged, wanted.draws)

    found = [assessed(group) for group in benchmark.groups]
    of_title = {one.group.title: one for one in found}
    transferred = []
    for transfer in benchmark.transfers:
        title = transfer.source.title
        transferred.append([of_title[title], *(assessed(one, f"{title} to ") for one in transfer.targets)])

    sections: dict[str, list[Part]] = {one.group.title: [] for one in found if one.group.subsample == ALL}
    means, both, moved = (sections.setdefault(title, []) for title in SHARED)
    for measure in wanted.measures:
        for sheet in mean_sheets(benchmark, measure, labels, reference):
            means += _shown(sheet, measure == first)
    means += rank_drawings(benchmark, first, labels, wanted.figures)
    for base, new in halves(found):
        harmonic = harmonic_intervals(base, new, first, wanted.draws)
        both += _shown(base_new_sheet((base, new), first, harmonic, labels, reference))
    for transfer, own in zip(benchmark.transfers, transferred, strict=True):
        for measure in wanted.measures:
            moved += _shown(transfer_sheet(transfer, own, measure, labels, reference), measure == first)
    comparisons: list[dict[str, Any]] = []
    cells = [line for one in found for measure in wanted.measures for line in cell_lines(one, measure)]
    for source, *targets in transferred:
        for target in targets:
            for measure in wanted.measures:
                cells += cell_lines(target, measure, source.group.dataset)
    for one in found:
        against = against_reference(one.group, first, one.outcomes, reference, wanted.draws)
        sections[one.group.title] = list(_of_group(one, against, labels, wanted))
        comparisons += comparison_lines(one.group, first, against, reference)
    return Report(
        {title: parts for title, parts in sections.items() if parts},
        cells,
        comparisons,
        list(dict.fromkeys(damaged)),
        benchmark.is_phantom,
        gaps(benchmark),
        benchmark.out,
        wanted.draws,
    )


def _shown(sheet: Sheet | None, lead: bool = True) -> list[Part]:
    """A table, if there is one: the one that was asked for, or (not `lead`) one of its minor ones."""
    return [] if sheet is None else [replace(sheet, lead=lead, minor=not lead)]


def _of_group(
    one: Assessed, against: Sequence[Comparison], labels: Mapping[Method, str], wanted: Wanted
) -> Iterator[Part]:
    """Tables and figures of one dataset."""
    group, reference = one.group, wanted.reference
    if not group.runs:
        yield f"Nothing is finished on {group.title}."
        return
    for measure in wanted.measures:
        lead = measure == wanted.measures[0]
        yield from _shown(shots_sheet(one, measure, labels, reference), lead)
        intervals = one.intervals[measure.name]
        if wanted.figures and (drawing := curve(group, measure, labels, intervals, reference)):
            yield replace(drawing, lead=lead)
    yield compare_sheet(group, wanted.measures[0], against, labels, reference, wanted.draws)
    largest = group.shots[-1] if group.shots else None
    if wanted.figures and (drawing := reliability_drawing(group, largest, labels, one.outcomes, reference)):
        yield drawing
    yield cost_sheet(group, labels, reference)


# The numbers behind the tables, unrounded.


# Columns of cells.csv, and where they stand in a record: what is told of all seeds, and what is averaged over them.
_TOLD: dict[str, tuple[str, ...]] = {
    **{key: (key,) for key in ("n_test", "is_phantom", "selection", "split_hash", "test_hash", "config_hash")},
    "commit": ("git",),
    "xcoop": ("versions", "xcoop"),
    "torch": ("versions", "torch"),
}
_AVERAGED: dict[str, tuple[str, ...]] = {
    "trained_parameters": ("trained_parameters",),
    "train_seconds": ("seconds", "train"),
    "peak_memory_mb": ("peak_memory_mb",),
    "peak_gpu_memory_mb": ("peak_gpu_memory_mb",),
}


def cell_lines(one: Assessed, measure: Measure, source: str = "") -> Iterator[dict[str, Any]]:
    """A line for each cell of a table, with the hashes that it comes from; fractions, and what is missing is empty.

    Args:
        one: the cells.
        measure: of the table.
        source: the dataset that was trained on, if it is not the one that was tested on. Such lines bear a `dataset`
            of their own, "<source> to <target>", so that no other line is taken for one of them.
    """
    group = one.group
    for (method, shots), row in group.rows.items():
        runs, found = list(row.runs.values()), one.intervals[measure.name].get((method, shots))
        yield {
            "dataset": f"{source} to {group.dataset}" if source else group.dataset,
            "task": group.task,
            "classes": group.subsample,
            "trainer": method.trainer,
            "cfg": method.cfg,
            "overrides": method.tag,
            "shots": shots,
            "seeds": " ".join(map(str, sorted(row.runs))),
            "missing_seeds": " ".join(map(str, row.missing)),
            "note": row.note,
            "metric": measure.name,
            "mean": row.mean(measure.name),
            "std": row.std(measure.name),
            "low": found.low if found else None,
            "high": found.high if found else None,
            "mark": one.marks[measure.name].get((method, shots), ""),
            "folder": "/".join(row.folder.parts[-3:]),  # below the output root
            **{name: " ".join(sorted({str(below(run, path)) for run in runs})) for name, path in _TOLD.items()},
            **{name: mean_of(runs, *path) for name, path in _AVERAGED.items()},
            "source": source or group.dataset,
            "target": group.dataset,
        }


def comparison_lines(
    group: Group, measure: Measure, found: Sequence[Comparison], trainer: str
) -> Iterator[dict[str, Any]]:
    """A line for each comparison with the reference, in fractions; what is not known is empty."""
    reference = reference_method(group, trainer)
    if reference is None:
        return
    for one in found:
        method, shots = one.place
        known, test = one.found, one.mcnemar
        yield {
            "dataset": group.title,
            "metric": measure.name,
            "reference": " ".join(filter(None, (reference.trainer, reference.cfg, reference.tag))),
            "trainer": method.trainer,
            "cfg": method.cfg,
            "overrides": method.tag,
            "shots": shots,
            "reference_value": known and known.reference,
            "value": known and known.value,
            "difference": known and known.difference,
            "low": known and known.low,
            "high": known and known.high,
            "p": known and known.p,
            "p_corrected": one.p_corrected,
            "p_bonferroni": min(1.0, one.n_comparisons * known.p) if known and known.p is not None else None,
            "n_comparisons": one.n_comparisons,
            "n_images": one.n_images,
            "n_patients": one.n_patients,
            "only_reference_right": test and test.only_a,
            "only_method_right": test and test.only_b,
            "mcnemar_p": test and test.p,
            "mcnemar_p_corrected": one.mcnemar_corrected,
        }


# The files.


def page(found: Report, intro: Sequence[str]) -> str:
    """All tables and figures as one self-contained HTML page, which tells of no folder; `intro` says what was read."""
    sections = []
    for title, parts in found.sections.items():
        lead = [part for part in parts if not isinstance(part, str) and part.lead]
        rest = [part for part in parts if part not in lead] if lead else []
        counts = [sum(isinstance(part, kind) for part in rest) for kind in (Sheet, Drawing)]
        more = ", ".join(
            f"{n} {name}{'' if n == 1 else 's'}" for n, name in zip(counts, ("table", "figure"), strict=True) if n
        )
        sections.append((title, lead or parts, rest, more))
    images = {drawing.key: base64.b64encode(drawing.png).decode() for drawing in found.drawings}
    damaged = [without_folders(line, found.out) for line in found.damaged]
    gaps = [(gap.said, gap.portable()) for gap in found.gaps]
    return render(
        "results/benchmark.html.j2", found=found, intro=intro, images=images, sections=sections, damaged=damaged,
        gaps=gaps, elsewhere=any(ELSEWHERE in command for _, command in gaps),
    )  # fmt: skip


def without_folders(text: str, out: Path) -> str:
    """A message for a page: paths below the output root as they stand there, of all others the last name alone."""
    for known in sorted({str(out), str(out.absolute()), str(out.resolve())}, key=len, reverse=True):
        if known not in (".", "/"):
            text = text.replace(f"{known}{os.sep}", "")
    for known in (os.getcwd(), str(Path.home())):  # whose names may have blanks
        text = text.replace(f"{known}{os.sep}", "/")
    return re.sub(r"(?<![\w.~/\\-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\":;,]+[/\\])*(?=[^\s/\\])", "", text)


def script(found: Report) -> str:
    """The commands that run what is missing, for a shell on this machine; "" if there are none."""
    out = str(found.out.absolute())
    lines = [f"# {gap.said}\n{gap.command(out) or '# (no command is known)'}\n" for gap in found.gaps]
    head = "#!/usr/bin/env bash\n# What is missing in the tables of `xcoop results`.\n"
    return head + "".join(lines) if any(gap.start for gap in found.gaps) else ""


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
    ours = re.compile(r"(?:(?:tables|figures)/)?[A-Za-z0-9_-]+\.(?:html|csv|txt|md|tex|png|pdf|sh)")
    return {name: key for name, key in found.items() if ours.fullmatch(name)}


def _files(found: Report, intro: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    yield PAGE, page(found, intro).encode()
    if commands := script(found):
        yield MISSING, commands.encode()
    yield "cells.csv", lines_csv(found.cells).encode()
    yield "comparisons.csv", lines_csv(found.comparisons).encode()
    for sheet in found.sheets:
        for kind, write in (("txt", terminal), ("md", markdown), ("tex", latex), ("csv", table_csv)):
            yield f"tables/{sheet.key}.{kind}", write(sheet).encode()
    for drawing in found.drawings:
        yield f"figures/{drawing.key}.png", drawing.png
        yield f"figures/{drawing.key}.pdf", drawing.pdf
