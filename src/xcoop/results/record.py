"""The record of a run: `predictions.csv`, and then `results.json`, whose presence means that the run is done.

Both are written to a temporary name and moved into place. `results.json` holds the checksum of the predictions and
one of itself, so that a damaged record is noticed wherever it is read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xcoop.config.identity import config_hash
from xcoop.evaluation.metrics import Floats, Ints, checked, classification_metrics, confusion
from xcoop.evaluation.positive import positive_class
from xcoop.results.provenance import git_revision, hardware, peak_memory_mb, versions
from xcoop.results.spreadsheets import spreadsheet_safe
from xcoop.utils.files import atomic_write_text, require_ours, sha256_file
from xcoop.utils.process_cache import fact
from xcoop.utils.reading import read_json

logger = logging.getLogger(__name__)

SCHEMA = 1
RESULTS, PREDICTIONS, CONFIG = "results.json", "predictions.csv", "config.yaml"
OTHER = " (another architecture)"  # stands behind the backbone's name where a file of weights is not what it says
UNTRAINED = "untrained"  # an evaluation of what a training would start from
ABSENT = "balanced accuracy and macro-F1 are means over the other classes, AUC and average precision are not known"
CARD = "phantom.json"  # lies in a folder of drawn images
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


def write_run(trainer: Any, labels: ArrayLike, probabilities: ArrayLike, impaths: Sequence[str]) -> Path:
    """Records a final evaluation in the trainer's output folder.

    Args:
        trainer: a trainer of the engine; read are `cfg`, `dm.dataset`, `output_dir`, `device` and, where they
            exist, `origin`, `bank`, `backbone` and `seconds`.
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
    names = list(dataset.classnames)
    images = [relative(path, _roots(trainer.cfg, dataset)) for path in impaths]
    tested = [relative(path, _roots({}, dataset)) for path in impaths]  # the same wherever the dataset lies
    patients = getattr(dataset, "patients", None) or {}
    table = predictions_csv(y, p, images, names, [patients.get(path) for path in impaths])

    require_ours(folder / RESULTS, folder / PREDICTIONS)
    (folder / RESULTS).unlink(missing_ok=True)  # while the predictions change, the run is not done
    atomic_write_text(folder / PREDICTIONS, table)
    results = _describe(trainer, y, p) | {
        "test_hash": _hash(sorted(f"{image}\t{label}" for image, label in zip(tested, y, strict=True))),
        "predictions_sha256": sha256_file(folder / PREDICTIONS),
        "finished": now(),
    }
    results["checksum"] = checksum(results)
    atomic_write_text(folder / RESULTS, json.dumps(results, indent=2, allow_nan=False) + "\n")
    return folder / RESULTS


def predictions_csv(
    labels: Ints, probabilities: Floats, images: Sequence[str], names: Sequence[str], patients: Sequence[str | None]
) -> str:
    """One line an image: its path, patient or case, label, label name, predicted class, probability of each class.

    Args:
        labels: (N,).
        probabilities: (N, C), written with 17 digits, so that they are read back as they are.
        images: N paths.
        names: C class names.
        patients: N ids; None where it is not known.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "patient", "label", "name", "predicted", *(f"p_{name}" for name in names)])
    for image, patient, label, row in zip(images, patients, labels.tolist(), probabilities.tolist(), strict=True):
        guess = int(np.argmax(row))
        line = [image, patient or "", label, names[label], guess]
        writer.writerow([*map(spreadsheet_safe, line), *map(repr, row)])
    return text.getvalue()


def relative(impath: str, roots: Sequence[Path]) -> str:
    """An image's path below the first root that holds it, with forward slashes; the absolute path if none does."""
    path = Path(impath).absolute()
    for root in roots:
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.as_posix()


def _roots(cfg: Mapping[str, Any], dataset: Any) -> list[Path]:
    """What image paths are relative to: the data root; for a dataset elsewhere (in the cache) its own folder."""
    places = [cfg["DATASET"]["ROOT"]] if cfg else []
    places.append(str(getattr(dataset, "dataset_dir", "") or ""))
    return [Path(place).expanduser().absolute() for place in places if place]


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
    return _hash([json.dumps({k: v for k, v in results.items() if k != "checksum"}, sort_keys=True)])


def _describe(trainer: Any, labels: Ints, probabilities: Floats) -> dict[str, Any]:
    cfg, dataset = trainer.cfg, trainer.dm.dataset
    origin = getattr(trainer, "origin", None) or Origin()
    names = list(dataset.classnames)
    positive = positive_class(names, getattr(dataset, "positive_class", ""))
    absent = [name for label, name in enumerate(names) if not (labels == label).any()]
    if absent:
        logger.warning("no %s image of %s: %s", cfg.TEST.SPLIT, ", ".join(map(repr, absent)), ABSENT)
    backbone = getattr(trainer, "backbone", None)
    return {
        "schema": SCHEMA,
        "dataset": getattr(dataset, "name", cfg.DATASET.NAME),
        "task": getattr(dataset, "task", cfg.DATASET.get("TASK", "")),
        "subsample": cfg.DATASET.get("SUBSAMPLE_CLASSES", "all"),
        "trainer": cfg.TRAINER.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME + ("" if getattr(backbone, "fits_name", True) else OTHER),
        "architecture": getattr(backbone, "architecture", None),
        "backbone_sha256": _fingerprint(trainer),
        "shots": cfg.DATASET.NUM_SHOTS if cfg.DATASET.NUM_SHOTS > 0 else None,
        "seed": cfg.SEED,
        "split": cfg.TEST.SPLIT,
        "selection": cfg.TEST.FINAL_MODEL,
        "classnames": names,
        "positive_class": positive or None,
        "absent_classes": absent,
        "transforms": _transforms(trainer),
        "n_train": len(dataset.train_x),
        "n_val": len(dataset.val or []),
        "n_test": len(labels),
        "metrics": classification_metrics(labels, probabilities, names.index(positive) if positive else 1),
        "confusion": confusion(labels, probabilities.argmax(1), probabilities.shape[1]).tolist(),
        "is_phantom": bool(getattr(dataset, "is_phantom", False)),
        "best_reachable": _best_reachable(cfg, dataset),
        "split_hash": getattr(dataset, "split_hash", None),
        "bank": _bank(trainer),
        "concept_bank": cfg.DATASET.get("CONCEPT_BANK", "") or str(getattr(dataset, "concept_bank", "")),
        "template": str(getattr(dataset, "template", "")),
        "trained_parameters": _trained_parameters(trainer),
        "config_hash": config_hash(cfg),
        **asdict(origin),
        "versions": fact("versions", versions),
        "hardware": hardware(trainer.device),
        "git": fact("git", git_revision),
        "seconds": {phase: round(float(s), 3) for phase, s in (getattr(trainer, "seconds", None) or {}).items()},
        **peak_memory_mb(),
    }


def _transforms(trainer: Any) -> dict[str, Any]:
    """Of INPUT.TRANSFORMS, what the training images went through, and what was left out for which reason."""
    used = getattr(trainer, "transforms", trainer.cfg.INPUT.TRANSFORMS)
    return {"used": list(used), "left_out": dict(getattr(trainer, "left_out", {}))}


def _best_reachable(cfg: Any, dataset: Any) -> dict[str, float] | None:
    """What any classifier can reach at best on a phantom's default task (fractions), from the card that lies in it."""
    folder = Path(getattr(dataset, "dataset_dir", "") or ".")
    cards = [path for path in (folder / CARD, folder.parent / CARD) if path.is_file()]
    default = next(iter(getattr(dataset, "tasks", {})), "")
    if not cards or getattr(dataset, "task", "") != default or cfg.DATASET.get("SUBSAMPLE_CLASSES", "all") != "all":
        return None
    best = read_json(cards[0]).get("best_reachable", {})
    return {name: value for name, value in best.items() if isinstance(value, float)} or None


def _bank(trainer: Any) -> dict[str, Any] | None:
    bank = getattr(trainer, "bank", None)
    return None if bank is None else {"name": bank.name, "version": bank.version, "sha256": bank.sha256}


def _trained_parameters(trainer: Any) -> int | None:
    """How many numbers were trained or fitted; None for a trainer that cannot tell."""
    count = getattr(getattr(trainer, "model", None), "count_trained", None)
    return count() if callable(count) else None


def _fingerprint(trainer: Any) -> str | None:
    fingerprint = getattr(getattr(trainer, "backbone", None), "fingerprint", None)
    return fingerprint() if callable(fingerprint) else None


def _hash(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
