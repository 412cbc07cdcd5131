"""All runs below an output root, sorted into what can stand in one table: the same dataset, task and classes.

<out>/<dataset>/<trainer>/<cfg>_<shots>shots[_<tag>]/seed<k>/results.json, and for classes that the training did not
see <that folder>/evaluation/<dataset>_new/results.json.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xcoop.results.rows import Row, collect, read_or_name

REFERENCE = "XCoOp"
ALL, BASE, NEW = "all", "base", "new"
_SUBSAMPLE = re.compile(r"(?:^|_)subsample_classes-(all|base|new)(?=_|$)")
_TASK = re.compile(r"(?:^|_)task-([^_]+)(?=_|$)")


@dataclass(frozen=True, order=True)
class Method:
    """A line of the tables: what stays the same over shots, seeds and datasets.

    Attributes:
        trainer: its name.
        cfg: short name of its configuration.
        tag: overrides that change the result, but for task and classes, which make tables of their own.
        note: why a second line of the same settings exists; "" otherwise.
    """

    trainer: str
    cfg: str
    tag: str = ""
    note: str = ""


@dataclass(frozen=True)
class Group:
    """The rows of one table, by method and shots (None: uses none).

    Attributes:
        dataset: its folder's name.
        task: of the dataset.
        subsample: which classes: all, base (seen in training) or new.
        rows: one for each method and number of shots that was begun.
        alone: whether the dataset has no other task, so that its name says all.
    """

    dataset: str
    task: str
    subsample: str
    rows: dict[tuple[Method, int | None], Row]
    alone: bool = True

    @property
    def title(self) -> str:
        """For headings."""
        task = "" if self.alone or not self.task else f", task {self.task}"
        return self.dataset + task + ("" if self.subsample == ALL else f", {self.subsample} classes")

    @property
    def key(self) -> str:
        """For file names and ids."""
        return slug(self.title)

    @property
    def shots(self) -> list[int]:
        """The numbers of shots, in order."""
        return sorted({shots for _, shots in self.rows if shots is not None})

    @property
    def runs(self) -> list[dict[str, Any]]:
        """All records."""
        return [run for row in self.rows.values() for run in row.runs.values()]

    @property
    def same_images(self) -> bool:
        """Whether every run was tested on the same images; nothing is compared otherwise."""
        return len({run.get("test_hash") for run in self.runs}) <= 1

    @property
    def is_phantom(self) -> bool:
        """Whether any of the images are drawn."""
        return any(run.get("is_phantom") for run in self.runs)

    def methods(self, reference: str = REFERENCE) -> list[Method]:
        """Those that train nothing first, the reference's trainer last."""
        return ordered({method for method, _ in self.rows}, self.untrained, reference)

    @property
    def untrained(self) -> set[Method]:
        """The methods that use no shots."""
        return {method for method, shots in self.rows if shots is None}


@dataclass(frozen=True)
class Benchmark:
    """All groups, and what is wrong with the records that could not be read."""

    groups: tuple[Group, ...]
    damaged: tuple[str, ...] = ()

    @property
    def is_phantom(self) -> bool:
        """Whether any of the images are drawn."""
        return any(group.is_phantom for group in self.groups)

    def methods(self, reference: str = REFERENCE) -> list[Method]:
        """All of them, in the order of the tables."""
        found = {method for group in self.groups for method, _ in group.rows}
        return ordered(found, {method for group in self.groups for method in group.untrained}, reference)

    def labels(self) -> dict[Method, str]:
        """The methods' names, as short as they can be without two of one name."""
        methods = self.methods()
        one_cfg = len({method.cfg for method in methods}) < 2
        return {
            method: _label(method.trainer, ["" if one_cfg else method.cfg, method.tag, method.note.partition(":")[0]])
            for method in methods
        }


def complete(row: Row | None) -> bool:
    """Whether a row holds all its seeds, of one configuration: only then it is averaged with others."""
    return row is not None and bool(row.runs) and not row.missing and not row.note


def gather(out: Path, seeds: Iterable[int] = (), datasets: Sequence[str] = ()) -> Benchmark:
    """Reads the records below an output root.

    Args:
        out: the output root.
        seeds: that each row ought to have.
        datasets: names of folders; empty for all.

    Raises:
        ValueError: a dataset has no folder, or nothing was run.
    """
    damaged: list[str] = []
    folders = [out / name for name in datasets] or sorted(path for path in out.glob("*") if path.is_dir())
    if gone := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ValueError(f"nothing was run there: no folder {', '.join(gone)}")
    groups = [group for folder in folders for group in _groups(folder, list(seeds), damaged)]
    if not groups:
        raise ValueError(f"{out} holds no runs (<dataset>/<trainer>/<cfg>_<shots>shots/seed<k>/results.json)")
    return Benchmark(tuple(groups), tuple(damaged))


def ordered(methods: Iterable[Method], untrained: set[Method], reference: str) -> list[Method]:
    """Those that train nothing first, the reference's trainer last, by name between."""
    return sorted(methods, key=lambda one: (one not in untrained, one.trainer == reference, one))


def slug(name: str) -> str:
    """A name as a part of file names and ids."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-") or "x"


def _groups(folder: Path, seeds: Sequence[int], damaged: list[str]) -> Iterator[Group]:
    found: dict[tuple[str, str], dict[tuple[Method, int | None], Row]] = defaultdict(dict)
    rows = collect(folder, seeds=seeds, damaged=damaged)
    rows += [new for row in rows if (new := _on_new_classes(row, damaged))]
    usual = next((_first(row).get("task", "") for row in rows if row.runs and not _TASK.search(row.setting.tag)), "")
    for row in rows:
        task, subsample, method = _identity(row, usual)
        found[task, subsample][method, row.setting.shots] = row
    tasks = {task for task, _ in found}
    for (task, subsample), own in sorted(found.items()):
        yield Group(folder.name, task, subsample, own, alone=len(tasks) < 2)


def _identity(row: Row, usual_task: str) -> tuple[str, str, Method]:
    """Task, classes and method of a row; of one without a finished run from its folder's name."""
    tag = row.setting.tag
    named_task, named_classes = _TASK.search(tag), _SUBSAMPLE.search(tag)
    task = _first(row).get("task") or (named_task[1] if named_task else usual_task)
    subsample = _first(row).get("subsample") or (named_classes[1] if named_classes else ALL)
    rest = _SUBSAMPLE.sub("", _TASK.sub("", tag)).strip("_")
    return str(task), str(subsample), Method(row.setting.trainer, row.setting.cfg, rest, row.note)


def _on_new_classes(row: Row, damaged: list[str]) -> Row | None:
    """The evaluations on new classes of a row that was trained on the base classes; None if there are none."""
    runs, places = {}, {}
    for seed, run in row.runs.items():
        if run.get("subsample") != BASE:
            continue
        for folder in sorted((row.folder / f"seed{seed}" / "evaluation").glob(f"*_{NEW}")):
            if (found := read_or_name(folder, damaged)) and found["dataset"] == run["dataset"]:
                runs[seed], places[seed] = found, folder
    missing = tuple(sorted({*row.runs, *row.missing} - runs.keys()))
    return replace(row, runs=runs, missing=missing, places=places) if runs else None


def _first(row: Row) -> dict[str, Any]:
    return next(iter(row.runs.values()), {})


def _label(trainer: str, details: Sequence[str]) -> str:
    inner = ", ".join(filter(None, details))
    return f"{trainer} ({inner})" if inner else trainer
