"""Which concepts speak for a class: log-odds of each concept value, class against rest, with confidence intervals.

A majority rule would not do: what is absent from most images of every class ("no veil") would win everywhere, and what
tells the classes apart would be lost wherever it is seen in less than half of them.

Of the n images of a class, a show the value and b do not; of the rest, c do and d do not. Then

    log-odds  L  = ln((a + 1/2) (d + 1/2) / ((b + 1/2) (c + 1/2)))
    error     SE = sqrt(1/(a + 1/2) + 1/(b + 1/2) + 1/(c + 1/2) + 1/(d + 1/2))
    interval     = L -+ z SE

The halves keep L finite where a count is 0, and take away most of its bias (Haldane, Ann Hum Genet 1956;20:309-311;
Anscombe, Biometrika 1956;43:461-464); the error is Woolf's (Ann Hum Genet 1955;19:251-253), with the same halves (Gart
and Zweifel, Biometrika 1967;54:181-187). The interval takes L for normal.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from xcoop.concepts.bank import ConceptBank, save_bank
from xcoop.concepts.words import UNKNOWN, Wording, plain_words
from xcoop.utils.reading import read_csv
from xcoop.utils.suggest import unknown

logger = logging.getLogger(__name__)

HALF = 0.5
NORMAL = NormalDist()
FEWEST, MOST = 4, 10  # concepts a class


@dataclass(frozen=True)
class Observation:
    """One training image: its class, and the value of each concept that is known of it."""

    classname: str
    values: Mapping[str, str]


def of_dataset(dataset: Any, wording: Wording, mode: str) -> list[Observation]:
    """What the training images of a loaded dataset show; validation and test images are not looked at.

    Args:
        dataset: a `MedicalDataset`.
        wording: what its values mean.
        mode: how values are counted; see `Wording.values`.

    Raises:
        ValueError: the dataset has no concept labels, or none for its training images.
    """
    name, folder = type(dataset).__name__, Path(dataset.dataset_dir)
    labels = dataset.concept_labels(folder)
    if labels is None:
        raise ValueError(f"{name} has no concept labels; `--csv` mines a table of them")
    found = [
        (datum.classname, labels.get(Path(datum.impath).relative_to(folder).as_posix())) for datum in dataset.train_x
    ]
    known = [Observation(classname, wording.values(values, mode)) for classname, values in found if values is not None]
    if lost := len(found) - len(known):
        logger.warning("%s: %d of %d training images have no concept labels, and are left out", name, lost, len(found))
    if not known:
        raise ValueError(f"{name} has no concept labels for any of its training images")
    return known


def of_csv(
    path: Path,
    label: str,
    concepts: Sequence[str],
    wording: Wording,
    mode: str,
    split: str = "",
    train_values: Iterable[str] = ("train",),
) -> list[Observation]:
    """What the training rows of a table show.

    Args:
        path: a CSV file, one image a row.
        label: the column of the class; rows where it is empty are left out.
        concepts: the columns of the concepts.
        wording: what their values mean.
        mode: how values are counted; see `Wording.values`.
        split: the column that tells training rows; without one, every row is taken for training.
        train_values: what stands there in training rows.

    Raises:
        ValueError: a column is missing, or no row is left.
    """
    rows = read_csv(path, ())
    for column in (label, *concepts, *filter(None, [split])):
        if rows and column not in rows[0]:
            raise ValueError(f"{path}: {unknown('column', column, rows[0])}")
    wanted = {value.strip().lower() for value in train_values}
    kept = [row for row in rows if not split or row[split].strip().lower() in wanted]
    kept = [row for row in kept if row[label].strip().lower() not in UNKNOWN]
    if not kept:
        there = sorted({row[split] for row in rows}) if split else []
        raise ValueError(f"{path} has no training rows" + (f"; its column {split!r} has {there}" if there else ""))
    return [
        Observation(row[label].strip(), wording.values({name: row[name] for name in concepts}, mode)) for row in kept
    ]


@dataclass(frozen=True)
class Association:
    """How much a concept value speaks for a class."""

    classname: str
    concept: str  # as its column is called
    value: str
    own: int  # images of the class that show the value
    own_total: int  # images of the class in which the concept is known
    rest: int  # images of all other classes that show it
    rest_total: int  # images of all other classes in which the concept is known
    log_odds: float  # L; above 0, the value speaks for the class
    error: float  # its standard error
    low: float  # of the interval
    high: float


def log_odds(a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """L and its standard error; see the head of this module.

    Args:
        a: images of the class that show the value, any shape.
        b: images of the class that do not, same shape.
        c: images of the rest that do, same shape.
        d: images of the rest that do not, same shape.
    """
    a, b, c, d = (np.asarray(count, dtype=np.float64) + HALF for count in (a, b, c, d))
    return np.log(a * d / (b * c)), np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)


def _false_coverage(tail: float, p_values: Sequence[float]) -> float:
    """A share R / m of the tail: R of the m are picked by Benjamini and Hochberg's rule at this level."""
    m = max(1, len(p_values))
    ranked = enumerate(sorted(p_values), start=1)
    return tail * max([rank for rank, p in ranked if p <= tail * rank / m], default=1) / m


# The share that may lie outside of each interval, of the share that may do so and the p-values of all.
CORRECTIONS: dict[str, Callable[[float, Sequence[float]], float]] = {
    "none": lambda tail, p_values: tail,
    "bonferroni": lambda tail, p_values: tail / max(1, len(p_values)),  # all intervals hold at once
    "fcr": _false_coverage,  # of the picked ones that share holds (Benjamini and Yekutieli, JASA 2005;100:71-81)
}


def mine(
    observations: Sequence[Observation],
    classes: Sequence[str],
    skipped: Sequence[str] = (),
    confidence: float = 0.95,
    correction: str = "none",
) -> list[Association]:
    """The association of each value of each concept with each class.

    Args:
        observations: training images alone: whoever counts test images knows their answers.
        classes: in label order.
        skipped: values that are no findings, e.g. `absent`.
        confidence: of the intervals, in (0, 1).
        correction: for how many are looked at, a name of `CORRECTIONS`.

    Raises:
        ValueError: a confidence outside (0, 1), an unknown correction or class, or a class without images.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, not {confidence}")
    if correction not in CORRECTIONS:
        raise ValueError(unknown("correction", correction, CORRECTIONS))
    if lacking := set(classes) ^ {observation.classname for observation in observations}:
        raise ValueError(f"classes and images differ in: {', '.join(map(repr, sorted(lacking)))}")
    if len(set(classes)) < 2:
        raise ValueError(f"log-odds compare a class with the rest; there is only {', '.join(classes)}")
    shown: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)  # by concept and value the images of each class
    known: dict[str, Counter[str]] = defaultdict(Counter)
    for observation in observations:
        for concept, value in observation.values.items():
            shown[concept, value][observation.classname] += 1
            known[concept][observation.classname] += 1
    found, p_values = [], []
    for classname in classes:
        for concept, value in sorted(shown):
            if value in skipped:
                continue
            own, own_total = shown[concept, value][classname], known[concept][classname]
            rest, rest_total = shown[concept, value].total() - own, known[concept].total() - own_total
            odds, error = map(float, log_odds(own, own_total - own, rest, rest_total - rest))
            found.append((classname, concept, value, own, own_total, rest, rest_total, odds, error))
            # Of two classes, one's log-odds are the other's with the sign changed: each pair is one question.
            if len(classes) > 2 or classname == classes[0]:
                p_values.append(2 * NORMAL.cdf(-abs(odds) / error))
    z = NORMAL.inv_cdf(1 - CORRECTIONS[correction](1 - confidence, p_values) / 2)
    return [Association(*one, low=one[-2] - z * one[-1], high=one[-2] + z * one[-1]) for one in found]


def choose(associations: Sequence[Association], most: int) -> dict[str, list[Association]]:
    """Per class its concepts whose whole interval lies above 0: at most so many, by the lower end of the interval."""
    chosen: dict[str, list[Association]] = {one.classname: [] for one in associations}
    for one in sorted(associations, key=lambda one: -one.low):
        if one.low > 0 and len(chosen[one.classname]) < most:
            chosen[one.classname].append(one)
    return chosen


@dataclass(frozen=True)
class Origin:
    """What a mined bank says of itself."""

    name: str  # of the bank
    dataset: str  # for whose classes it is
    template: str  # a sentence with `{class}` and `{concepts}`
    citation: str  # whose labels were counted
    remark: str  # what was counted, and how: the comment at the head of the file


def write_bank(
    path: Path, chosen: Mapping[str, Sequence[Association]], wording: Wording, origin: Origin
) -> ConceptBank:
    """Writes the bank, whole and loadable, or not at all: one line a concept, with its counts as a comment.

    Args:
        path: of the YAML file; what is there is replaced.
        chosen: per class its concepts, the surest first.
        wording: their words.
        origin: what else the bank says.

    Raises:
        ValueError: a class has no concepts, or the bank breaks the schema.
    """
    if empty := [classname for classname, own in chosen.items() if not own]:
        raise ValueError(
            f"no concept speaks for {', '.join(map(repr, empty))}: none has its whole interval above 0. More images, "
            "merged values or a lower confidence may help; a bank without concepts for a class is not written"
        )
    key = source_key(origin.citation)
    head = {
        "name": origin.name,
        "version": "1",
        "dataset": origin.dataset,
        "template": origin.template,
        "reviewed_by": [],
        "sources": {key: origin.citation},
    }
    lines = [f"# {line}" for line in origin.remark.splitlines()]
    lines += [yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=116) + "classes:"]
    for classname, own in chosen.items():
        lines.append(f"  {_flat(classname)}:")
        phrased: dict[str, Association] = {}
        for one in own:  # of two with the same words the surer one
            phrased.setdefault(wording.phrase(one.concept, one.value), one)
        for phrase, one in phrased.items():
            counts = f"{one.own}/{one.own_total}, rest {one.rest}/{one.rest_total}"
            interval = f"{one.log_odds:.2f} [{one.low:.2f}, {one.high:.2f}]"
            lines.append(f"    - {_flat({'concept': phrase, 'source': key})}  # {counts}; {interval}")
    return save_bank(path, "\n".join(lines) + "\n")


def source_key(citation: str) -> str:
    """A key for a citation: the first author's name and the year, or the first word alone."""
    author = (plain_words(citation) or ["labels"])[0]
    year = re.search(r"\b(?:19|20)\d\d\b", citation)
    return author + (year[0] if year else "")


def _flat(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()
