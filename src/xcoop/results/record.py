"""The record of a run: `predictions.csv`, and then `results.json`, whose presence means that the run is done.

Both are written to a temporary name and moved into place. `results.json` holds the checksum of the predictions and
one of itself, so that a damaged record is noticed wherever it is read; and where its numbers come from: versions,
hardware, revision, memory. Statistics are computed from the predictions, never from the rounded figures of a table.

Symbols: N images, C classes, S runs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xcoop.evaluation.metrics import Floats, Ints, checked, classification_metrics, confusion, positive_class
from xcoop.utils.files import atomic_write_text, require_ours, sha256_file
from xcoop.utils.process_cache import fact
from xcoop.utils.reading import read_json
from xcoop.version import __version__

logger = logging.getLogger(__name__)

SCHEMA = 1
RESULTS, PREDICTIONS, CONFIG = "results.json", "predictions.csv", "config.yaml"
OTHER = " (another architecture)"  # stands behind the backbone's name where a file of weights is not what it says
UNTRAINED = "untrained"  # an evaluation of what a training would start from
ABSENT = "balanced accuracy and macro-F1 are means over the other classes, AUC and average precision are not known"
CARD = "phantom.json"  # lies in a folder of drawn images
COLUMNS = ("image", "patient", "label", "name", "predicted")  # of `predictions.csv`; p_<class> for each class follow
_NEEDED = ("schema", "dataset", "trainer", "seed", "metrics", "config_hash", "predictions_sha256", "checksum")


def now() -> str:
    """The time in ISO form, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Origin:
    """How a run was started; `xcoop.runs.train` sets it as the trainer's attribute `origin`.

    Attributes:
        cfg: short name of the method's configuration, e.g. "vit_b16".
        command: the command line.
        evaluated_from: the run whose weights are evaluated, if nothing was trained; `UNTRAINED` if none were given.
        load_epoch: the epoch of those weights.
        started: ISO time.
    """

    cfg: str | None = None
    command: str = field(default_factory=lambda: " ".join(sys.argv))
    evaluated_from: str | None = None
    load_epoch: int | None = None
    started: str = field(default_factory=now)


# Writing.


def write_run(trainer: Any, labels: ArrayLike, probabilities: ArrayLike, impaths: Sequence[str]) -> Path:
    """Records a final evaluation in the trainer's output folder.

    Args:
        trainer: a `PromptTrainer`; its dataset may be one of another programme, which knows no more than Dassl's.
        labels: true classes, (N,).
        probabilities: (N, C), each row sums to one.
        impaths: the N image files.

    Returns:
        The path of `results.json`.

    Raises:
        ValueError: the probabilities are none (NaN included), or the lengths differ; nothing is written then.
        FileExistsError: either file is there and is somebody else's; nothing is written then.
    """
    y, p = checked(labels, probabilities)
    if len(impaths) != len(y):
        raise ValueError(f"{len(impaths)} image paths for {len(y)} labels")
    folder, dataset = Path(trainer.output_dir), trainer.dm.dataset
    home = _folders(getattr(dataset, "dataset_dir", ""))
    patients = getattr(dataset, "patients", None) or {}
    images = [relative(path, _folders(trainer.cfg.DATASET.ROOT) + home) for path in impaths]
    tested = [f"{relative(path, home)}\t{label}" for path, label in zip(impaths, y, strict=True)]
    table = _predictions_csv(y, p, images, dataset.classnames, [patients.get(path) for path in impaths])

    require_ours(folder / RESULTS, folder / PREDICTIONS)
    (folder / RESULTS).unlink(missing_ok=True)  # while the predictions change, the run is not done
    atomic_write_text(folder / PREDICTIONS, table)
    results = _describe(trainer, y, p) | {
        "test_hash": _hash("\n".join(sorted(tested))),  # the same wherever the dataset lies
        "predictions_sha256": sha256_file(folder / PREDICTIONS),
        "finished": now(),
    }
    results["checksum"] = checksum(results)
    atomic_write_text(folder / RESULTS, json.dumps(results, indent=2, allow_nan=False) + "\n")
    return folder / RESULTS


def _folders(*names: str) -> list[Path]:
    return [Path(name).expanduser().absolute() for name in names if name]


def relative(impath: str, roots: Sequence[Path]) -> str:
    """An image's path below the first root that holds it, with forward slashes; the absolute path if none does."""
    path = Path(impath).absolute().as_posix()
    folders = (f"{root.as_posix().rstrip('/')}/" for root in roots)  # as text: `relative_to` takes twice as long
    return next((path[len(folder) :] for folder in folders if path.startswith(folder)), path)


def _predictions_csv(
    labels: Ints, probabilities: Floats, images: Sequence[str], names: Sequence[str], patients: Sequence[str | None]
) -> str:
    """One line an image; 17 digits of each probability, so that they are read back as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"p_{name}" for name in names)])
    for image, patient, label, row in zip(images, patients, labels.tolist(), probabilities.tolist(), strict=True):
        line = [image, patient or "", label, names[label], int(np.argmax(row))]
        writer.writerow([*map(spreadsheet_safe, line), *map(repr, row)])
    return text.getvalue()


def _describe(trainer: Any, labels: Ints, probabilities: Floats) -> dict[str, Any]:
    from xcoop.config.merge import config_hash  # here, since who reads records needs no configuration

    cfg, dataset, backbone, bank = trainer.cfg, trainer.dm.dataset, trainer.backbone, trainer.bank
    names = list(dataset.classnames)
    positive = positive_class(names, getattr(dataset, "positive_class", ""))
    absent = [name for label, name in enumerate(names) if not (labels == label).any()]
    if absent:
        logger.warning("no %s image of %s: %s", cfg.TEST.SPLIT, ", ".join(map(repr, absent)), ABSENT)
    return {
        "schema": SCHEMA,
        "dataset": getattr(dataset, "name", cfg.DATASET.NAME),
        "label": cfg.DATASET.get("LABEL", "") or None,  # what it is called, if that is not its configuration's name
        "task": getattr(dataset, "task", cfg.DATASET.get("TASK", "")),
        "subsample": cfg.DATASET.get("SUBSAMPLE_CLASSES", "all"),
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME + ("" if getattr(backbone, "fits_name", True) else OTHER),
        "architecture": getattr(backbone, "architecture", None),
        "weights": _without_folders(getattr(backbone, "source", "")) or None,  # what was loaded, in words
        "backbone_sha256": backbone.fingerprint(),
        "shots": cfg.DATASET.NUM_SHOTS if cfg.DATASET.NUM_SHOTS > 0 else None,
        "seed": cfg.SEED,
        "split": cfg.TEST.SPLIT,
        "test_from": cfg.DATASET.get("TEST_FROM", "") or None,  # the split that own images without a test had it from
        "selection": cfg.TEST.FINAL_MODEL,
        "classnames": names,
        "positive_class": positive or None,
        "absent_classes": absent,
        "transforms": {"used": list(trainer.transforms), "left_out": dict(trainer.left_out)},
        "n_train": len(dataset.train_x),
        "n_val": len(dataset.val or []),
        "n_test": len(labels),
        "metrics": classification_metrics(labels, probabilities, names.index(positive) if positive else 1),
        "confusion": confusion(labels, probabilities.argmax(1), probabilities.shape[1]).tolist(),
        "is_phantom": bool(getattr(dataset, "is_phantom", False)),
        "best_reachable": _best_reachable(cfg, dataset),
        "split_hash": getattr(dataset, "split_hash", None),
        "bank": None if bank is None else bank.facts(),
        "concept_bank": cfg.DATASET.get("CONCEPT_BANK", "") or str(getattr(dataset, "concept_bank", "")),
        "template": str(getattr(dataset, "template", "")),
        "trained_parameters": trainer.model.count_trained(),
        "config_hash": config_hash(cfg),
        **asdict(trainer.origin),
        "versions": fact("versions", versions),
        "precision": None if trainer.origin.evaluated_from else _precision(trainer.dtype),  # of the training steps
        "hardware": hardware(trainer.device),
        "git": fact("git", git_revision),
        "runs_at_once": trainer.runs_at_once,  # whose steps its seconds include
        "seconds": {phase: round(float(seconds), 3) for phase, seconds in trainer.seconds.items()},
        **peak_memory_mb(),
    }


def _precision(dtype: Any) -> str:
    from xcoop.engine.parts import FORMATS

    return next(name for name, known in FORMATS.items() if known is dtype)


def _without_folders(source: str) -> str:
    """A name on a hub as it is, of a local path its end: a record that is published tells of nobody's folders."""
    return Path(source).name if Path(source).expanduser().is_absolute() else source


def _best_reachable(cfg: Any, dataset: Any) -> dict[str, float] | None:
    """What any classifier can reach at best on a phantom's default task (fractions), from the card that lies in it."""
    folder = Path(getattr(dataset, "dataset_dir", "") or ".")
    cards = [path for path in (folder / CARD, folder.parent / CARD) if path.is_file()]
    default = next(iter(getattr(dataset, "tasks", {})), "")
    if not cards or getattr(dataset, "task", "") != default or cfg.DATASET.get("SUBSAMPLE_CLASSES", "all") != "all":
        return None
    best = read_json(cards[0]).get("best_reachable", {})
    return {name: value for name, value in best.items() if isinstance(value, float)} or None


# Reading.


def read_run(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run; None if the run is not finished.

    Raises:
        ValueError: the record is damaged; the message names the file.
    """
    path = folder / RESULTS
    if not path.is_file():
        return None
    results = read_json(path)
    missing = [key for key in _NEEDED if not isinstance(results, dict) or key not in results]
    if missing:
        raise ValueError(f"{path} is not the record of a run: it lacks {', '.join(missing)}")
    if results["schema"] != SCHEMA:
        raise ValueError(f"{path} has schema {results['schema']!r}; this version of xcoop reads {SCHEMA}")
    if results["checksum"] != checksum(results):
        raise ValueError(f"{path} was changed after it was written (its checksum differs); move it away and run again")
    predictions = folder / PREDICTIONS
    if not predictions.is_file():
        raise ValueError(f"{predictions} is missing beside {RESULTS}; move {RESULTS} away and run again")
    if sha256_file(predictions) != results["predictions_sha256"]:
        raise ValueError(f"{predictions} was changed after it was written; move {RESULTS} away and run again")
    return results


def checksum(results: Mapping[str, Any]) -> str:
    """SHA-256 of a record without its own checksum."""
    return _hash(json.dumps({key: value for key, value in results.items() if key != "checksum"}, sort_keys=True))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# CSV files are opened in spreadsheets, which compute what looks like a formula: such a text is marked, and read back
# without the mark. How a formula begins, in whichever width; marks in front of it are those of an earlier call.
_FORMULA = re.compile("['\\s]*[=+\\-@\t\r＝＋－＠]")
_FIGURE = re.compile(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?(?: ?[±\[][\d., ±\]-]*)?(?: [*~])?")


def spreadsheet_safe(cell: object) -> object:
    """A cell with `'` in front if it is a text that would be taken for a formula; figures stay as they are."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _FIGURE.fullmatch(cell):
        return f"'{cell}"
    return cell


def from_spreadsheet(cell: str) -> str:
    """What was given to `spreadsheet_safe`; cells of older files, which were not marked, are themselves."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


# Predictions read back, and several runs laid side by side.


@dataclass(frozen=True)
class Predictions:
    """One run's test images, in the order of its file.

    Attributes:
        images: N paths as the run recorded them, all different.
        patients: N ids; None where it is not known.
        labels: true classes, (N,).
        probabilities: (N, C), each row sums to one.
        classnames: C names.
        source: the folder, for messages.
    """

    images: tuple[str, ...]
    patients: tuple[str | None, ...]
    labels: Ints
    probabilities: Floats
    classnames: tuple[str, ...]
    source: str = ""


def read_predictions(folder: Path) -> Predictions:
    """The predictions of a finished run, from its folder.

    Raises:
        ValueError: the run is not finished, or its record is damaged or contradicts itself; the message names the file.
    """
    run = read_run(folder)
    if run is None:
        raise ValueError(f"{folder} holds no finished run ({RESULTS} is missing)")
    path = folder / PREDICTIONS
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = [list(map(from_spreadsheet, row)) for row in csv.reader(file)] or [[]]
    try:
        return _parsed(header, rows, run, str(folder))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parsed(header: list[str], rows: list[list[str]], run: dict[str, Any], source: str) -> Predictions:
    first = len(COLUMNS)
    names = tuple(run.get("classnames") or [column.removeprefix("p_") for column in header[first:]])
    expected = [*COLUMNS, *(f"p_{name}" for name in names)]
    if header != expected:
        raise ValueError(f"the columns are {', '.join(header)}; expected {', '.join(expected)}")
    ragged = [number for number, row in enumerate(rows, 2) if len(row) != len(header)]
    if ragged:
        raise ValueError(f"line {ragged[0]} has not {len(header)} fields")
    if len(rows) != run.get("n_test", len(rows)):
        raise ValueError(f"{len(rows)} images, but {RESULTS} says {run['n_test']}")
    labels, probabilities = checked(
        np.array([int(row[2]) for row in rows], dtype=np.int64),
        np.array([[float(cell) for cell in row[first:]] for row in rows]).reshape(len(rows), len(names)),
    )
    images = tuple(row[0] for row in rows)
    twice = [image for image, times in Counter(images).items() if times > 1]
    if twice:
        raise ValueError(f"{len(twice)} images stand there more than once, the first is {twice[0]!r}")
    for row, label, guess in zip(rows, labels.tolist(), probabilities.argmax(1).tolist(), strict=True):
        if row[3] != names[label]:
            raise ValueError(f"image {row[0]!r} has label {label} ({names[label]!r}) but is named {row[3]!r}")
        if int(row[4]) != guess:
            raise ValueError(f"image {row[0]!r} is said to be predicted as {row[4]}; its probabilities say {guess}")
    return Predictions(images, tuple(row[1] or None for row in rows), labels, probabilities, names, source)


@dataclass(frozen=True)
class Aligned:
    """Several runs on the same test images, sorted by image.

    Attributes:
        images: N paths.
        patients: N ids; None where no run knows it.
        labels: true classes, (N,).
        probabilities: of each run, (S, N, C).
    """

    images: tuple[str, ...]
    patients: tuple[str | None, ...]
    labels: Ints
    probabilities: Floats


def aligned(runs: Sequence[Predictions]) -> Aligned:
    """One run or more on the same test images, laid side by side; the order of their files does not matter.

    Raises:
        ValueError: images, labels, patients or class names differ; the message names the runs.
    """
    first, orders = runs[0], [sorted(range(len(run.images)), key=run.images.__getitem__) for run in runs]
    images = tuple(first.images[i] for i in orders[0])
    labels = first.labels[orders[0]]
    patients: list[str | None] = [None] * len(images)
    for run, order in zip(runs, orders, strict=True):
        both = f"{first.source} and {run.source}"
        if run.classnames != first.classnames:
            raise ValueError(f"{both} have different classes: {first.classnames}, {run.classnames}")
        only_first, only_run = set(first.images) - set(run.images), set(run.images) - set(first.images)
        if only_first or only_run:
            raise ValueError(
                f"{both} were not tested on the same images: {len(only_first)} are only in the first, "
                f"{len(only_run)} only in the second, e.g. {min(only_first | only_run)!r}; run both on the same split"
            )
        other = np.flatnonzero(run.labels[order] != labels)
        if len(other):
            raise ValueError(f"{both} disagree on the label of {images[other[0]]!r}")
        for place, i in enumerate(order):
            known, own = patients[place], run.patients[i]
            if known and own and known != own:
                raise ValueError(f"{both} disagree on the patient of {images[place]!r}: {known}, {own}")
            patients[place] = known or own
    probabilities = np.stack([run.probabilities[order] for run, order in zip(runs, orders, strict=True)])
    return Aligned(images, tuple(patients), labels, probabilities)


# Where a number comes from.

PACKAGE = Path(__file__).resolve().parents[1]  # xcoop itself
PACKAGES = ("torch", "torchvision", "numpy", "clip-anytorch", "scikit-learn", "scipy")


def versions() -> dict[str, str]:
    """Versions of Python, of this package, of the engine in use, and of the packages that compute."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "none"
    return {"python": platform.python_version(), "xcoop": __version__, "engine": engine(), **installed}


def engine() -> str:
    """Which engine answers to `import dassl`: "dassl <version>", or "xcoop" for our own."""
    import dassl

    paths = [str(path) for path in getattr(dassl, "__path__", [])]
    own = not paths or any(PACKAGE in Path(path).resolve().parents for path in paths)
    return "xcoop" if own else f"dassl {getattr(dassl, '__version__', '?')}"


def hardware(device: Any) -> dict[str, object]:
    """What the run was computed on: device (a `torch.device`), processor, cores and threads."""
    import torch

    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.M) if info.is_file() else None
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": model[1].strip() if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def peak_memory_mb() -> dict[str, float]:
    """The most memory that this process has used, in MiB: of the host (not known on Windows), and of a GPU."""
    import torch

    peak = {}
    status = Path("/proc/self/status")  # Linux's own figure can be reset between runs of one process
    if status.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        peak["peak_memory_mb"] = round(int(found[1]) / 1024, 1)
    elif sys.platform != "win32":
        import resource

        unit = 1024**2 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        peak["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1024**2, 1)
    return peak


def git_revision() -> str | None:
    """The commit of the checkout that runs, "-dirty" if files differ from it; None outside a checkout."""
    root = PACKAGE.parents[1]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()  # noqa: S603

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
