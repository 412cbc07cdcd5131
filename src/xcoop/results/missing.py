"""What is missing in the tables of a benchmark, and the commands that run it.

How a run was started stands in the records of its neighbours: the seeds of its cell, the other cells of its method, the
other methods of its dataset. What is missing together is one `xcoop sweep`; what is done already is skipped there.
"""

from __future__ import annotations

import os
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xcoop.results.benchmark import ALL, BASE, NEW, Benchmark, Group, Method, Row, Transfer, ordered
from xcoop.results.record import CONFIG

ALL_IMAGES = -1  # shots of a run on all training images
# What `xcoop run` and `xcoop sweep` start a run with; one that was started otherwise cannot be told from its record.
FLAGS = ("--root", "--seed", "--trainer", "--dataset-config-file", "--config-file", "--output-dir")
SUBSAMPLE = "DATASET.SUBSAMPLE_CLASSES"
ELSEWHERE = '"$IMAGES"'
_OUT = "\0"  # stands for the output root: no word of a command


@dataclass(frozen=True)
class Start:
    """What the runs of one method on one dataset are started with.

    Attributes:
        dataset: short name or path of its configuration.
        cfg: short name or path of the method's configuration.
        data: the data root.
        pairs: KEY VALUE pairs, flat, without the number of shots.
    """

    dataset: str
    cfg: str
    data: str
    pairs: tuple[str, ...]


@dataclass(frozen=True)
class Gap:
    """Runs that are missing.

    Attributes:
        title: the dataset, and which of its classes.
        trainers: the methods.
        tag: the overrides that mark them.
        shots: training images a class, `ALL_IMAGES` for all; () for methods that use none.
        seeds: of each of them.
        start: how they are started; None if no record tells it.
        setting: of `xcoop sweep`; "" for the usual one.
        targets: the datasets that the trained models are to be tested on, of setting `cross`.
        why: what to know of it.
    """

    title: str
    trainers: tuple[str, ...]
    tag: str
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    start: Start | None
    setting: str = ""
    targets: tuple[str, ...] = ()
    why: str = ""

    @property
    def said(self) -> str:
        """What is missing, in words."""
        shots = " ".join("all images" if number < 0 else str(number) for number in self.shots)
        parts = [
            " ".join(self.trainers) + (f" ({self.tag})" if self.tag else ""),
            f"{shots} shots" if shots and self.shots != (ALL_IMAGES,) else shots,
            f"seed{'s' if len(self.seeds) > 1 else ''} {' '.join(map(str, self.seeds))}" if self.shots else "",
            f"tested on {' '.join(self.targets)}" if self.targets else "",
        ]
        return f"{self.title}: {', '.join(filter(None, parts))}{f' ({self.why})' if self.why else ''}"

    def words(self, out: str) -> list[str]:
        """The command; [] if it is not known."""
        if self.start is None:
            return []
        lists = (self.trainers, self.shots or (1,), self.seeds)
        if self.shots == (ALL_IMAGES,):
            lists = (self.trainers, (1,), self.seeds)  # the setting says how many
        options = {"--cfg": self.start.cfg, "--data": self.start.data, "--out": out, "--setting": self.setting}
        options["--targets"] = ",".join(self.targets)
        return [
            *("xcoop", "sweep", self.start.dataset, *(" ".join(map(str, one)) for one in lists), *self.start.pairs),
            *(word for option, value in options.items() if value for word in (option, value)),
        ]

    def command(self, out: str) -> str:
        """The command for a shell on this machine."""
        return shlex.join(self.words(out))

    def portable(self) -> str:
        """The command for a page, which tells of nobody's folders: `$DATA` and `$OUT` are the roots.

        `ELSEWHERE` is the folder of what lies below neither.
        """
        start = self.start
        data = start.data if start else ""

        def spelled(word: str) -> str:
            if word in (data, _OUT):
                return '"$DATA"' if word == data else '"$OUT"'
            if not os.path.isabs(os.path.expanduser(word)):
                return shlex.quote(word)
            if data and word.startswith(f"{data}{os.sep}"):
                return f'"$DATA"/{shlex.quote(word[len(data) + 1 :])}'
            return f"{ELSEWHERE}/{shlex.quote(Path(word).name)}"

        lists = [word.split(",") if word == ",".join(self.targets) else [word] for word in self.words(_OUT)]
        return " ".join(",".join(map(spelled, words)) for words in lists)


def started(run: dict[str, Any]) -> Start | None:
    """How a recorded training was started; None if it was not by `xcoop run` or `xcoop sweep`."""
    try:
        _, *words = shlex.split(str(run.get("command", "")))
    except ValueError:
        return None
    flags = dict(zip(words[: 2 * len(FLAGS) : 2], words[1 : 2 * len(FLAGS) : 2], strict=False))
    pairs = words[2 * len(FLAGS) :]
    if tuple(flags) != FLAGS or len(pairs) % 2:
        return None
    kept = _without(pairs, "DATASET.NUM_SHOTS")
    return Start(flags["--dataset-config-file"], flags["--config-file"], flags["--root"], kept)


def gaps(benchmark: Benchmark) -> list[Gap]:
    """Everything that is missing in the tables, by dataset."""
    found: list[Gap] = []
    halves = {(group.dataset, group.task, group.subsample): group for group in benchmark.groups}
    for dataset, task, subsample in halves:
        group, new = halves[dataset, task, subsample], halves.get((dataset, task, NEW)) if subsample == BASE else None
        if subsample != NEW or (dataset, task, BASE) not in halves:  # else it is evaluations of what base was trained
            found += _trainings(group, new, benchmark.seeds)
    for transfer in benchmark.transfers:
        found += _evaluations(transfer)
    return found


def of_rows(title: str, rows: Sequence[Row]) -> list[Gap]:
    """What is missing in the rows of one dataset."""
    named = {}
    for row in rows:
        setting = row.setting
        named[Method(setting.trainer, setting.cfg, setting.tag, row.note), setting.shots] = row
    return list(_trainings(Group(title, "", ALL, named, title), None, ()))


def _trainings(group: Group, new: Group | None, seeds: Sequence[int]) -> Iterator[Gap]:
    """The trainings of a group; with `new`, the evaluations on new classes that follow them, too."""
    asked = tuple(seeds) or tuple(sorted({seed for row in group.rows.values() for seed in (*row.runs, *row.missing)}))
    lacking: dict[tuple[Method, int | None], tuple[int, ...]] = {}
    for method in ordered([group]):
        untrained = method in group.untrained
        for shots in [None] if untrained else group.shots if seeds else [n for m, n in group.rows if m == method]:
            row, other = group.rows.get((method, shots)), new.rows.get((method, shots)) if new else None
            gone = {*(row.missing if row else asked), *(other.missing if other else ())}
            if new and row and not other and transfers(row):
                gone |= row.runs.keys()
            if gone and not method.note:
                lacking[method, shots] = tuple(sorted(gone))
    yield from _merged(group, lacking, "base-to-new" if new else "")


def transfers(row: Row) -> bool:
    """Whether what a row's method learns can be used for new classes; so it is taken to be where nothing tells."""
    from yacs.config import CfgNode

    from xcoop.config.merge import read_config
    from xcoop.config.plugins import trainer_class

    path = next((path for folder in row.folders() if (path := folder / CONFIG).is_file()), None)
    if path is None:
        return True
    try:
        return not trainer_class(row.setting.trainer).learns_classes(CfgNode(read_config(path)))
    except ValueError:  # another programme's, or no config
        return True


def _evaluations(transfer: Transfer) -> Iterator[Gap]:
    """The evaluations on other datasets of models that are trained."""
    wanted: dict[tuple[str, ...], dict[tuple[Method, int | None], tuple[int, ...]]] = defaultdict(dict)
    for place, row in transfer.source.rows.items():
        by_seeds: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for target in transfer.targets:
            gone = tuple(sorted(row.runs.keys() - target.rows[place].runs.keys()))
            if gone and not target.rows[place].note:
                by_seeds[gone].append(_config_of(target))
        for gone, names in by_seeds.items():
            wanted[tuple(names)][place] = gone
    for targets, lacking in wanted.items():
        yield from _merged(transfer.source, lacking, "cross", targets)


def _config_of(target: Group) -> str:
    """The configuration of a dataset that models were tested on; its name if no record tells it."""
    starts = (started_evaluation(run) for run in target.runs)
    return next(filter(None, starts), target.dataset)


def started_evaluation(run: dict[str, Any]) -> str:
    """The dataset's configuration of a recorded evaluation; "" if its command does not tell it."""
    words = shlex.split(str(run.get("command", "")))
    return words[words.index("--dataset-config-file") + 1] if "--dataset-config-file" in words[:-1] else ""


def _merged(
    group: Group,
    lacking: dict[tuple[Method, int | None], tuple[int, ...]],
    setting: str,
    targets: tuple[str, ...] = (),
) -> Iterator[Gap]:
    """The cells that lack runs, as few commands: those of one start and the same seeds, shots, and then trainers."""
    shots_of: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for (method, number), seeds in lacking.items():
        start, why = _start(group, method)
        if start and setting == "base-to-new":  # which sets it itself
            start = replace(start, pairs=_without(start.pairs, SUBSAMPLE))
        own = "full" if number == ALL_IMAGES else setting
        key = method.trainer, method.tag, seeds if number is not None else (1,), start, own, why
        shots_of[key] += [] if number is None else [number]
    trainers: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for (trainer, *rest), shots in shots_of.items():
        cells = (tuple(sorted(shots)), *rest)
        trainers[cells].append(trainer)
    for (shots, tag, seeds, start, own, why), names in trainers.items():
        yield Gap(group.title, tuple(sorted(names)), tag, shots, seeds, start, own, targets, why)


def _start(group: Group, method: Method) -> tuple[Start | None, str]:
    """How a method is started on a dataset, and if that is not known, why."""
    own = [run for (other, _), row in group.rows.items() if other == method for run in row.runs.values()]
    if found := next(filter(None, map(started, own)), None):
        return found, ""
    if own:
        return None, "it was not started by `xcoop run` or `xcoop sweep`; its results.json tells how"
    if method.tag:
        return None, f"none of its runs is finished, so nothing tells its KEY VALUE pairs: {method.tag}"
    other = next(filter(None, map(started, group.runs)), None)
    if other is None:
        return None, "nothing of this dataset is finished, so nothing tells how it was started"
    pairs = tuple(word for key, value in _pairs(other.pairs) if key.startswith("DATASET.") for word in (key, value))
    return Start(other.dataset, method.cfg, other.data, pairs), ""


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(words[::2], words[1::2], strict=True)


def _without(words: Sequence[str], key: str) -> tuple[str, ...]:
    return tuple(word for pair in _pairs(words) if pair[0] != key for word in pair)
