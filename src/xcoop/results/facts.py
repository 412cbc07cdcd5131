"""What every table says of itself: the images, the selection, where its figures come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from xcoop.evaluation.calibration import ECE_BINS
from xcoop.results.record import ABSENT

SPREAD = "Percent; mean ± standard deviation over the seeds (ddof 1; none for one seed)"
PHANTOM = "phantom: drawn images; not a clinical result."
FEW = 4
DIGITS = 8
_SHOWN = ("xcoop", "engine", "python", "torch")


def facts(runs: Sequence[dict[str, Any]], metric: str = "") -> list[str]:
    """Plain sentences on the records behind a table.

    Args:
        runs: the records.
        metric: of the table, if it shows one.
    """
    if not runs:
        return ["No run is finished."]
    lines = [PHANTOM] if any(run.get("is_phantom") for run in runs) else []
    if lines and metric in ("", "accuracy", "macro_auc") and len({run.get("test_hash") for run in runs}) == 1:
        lines += best_reachable(runs)
    if metric == "ece":
        lines.append(f"ECE over {ECE_BINS} bins of equal width.")
    lines += classes_said(runs)
    sizes = " or ".join(map(str, sorted({run["n_test"] for run in runs})))
    split = " or ".join(sorted({run["split"] for run in runs}))
    lines.append(
        f"{sizes} {split} images ({_hashes('test_hash', runs)}; {_hashes('split_hash', runs)}). Model of each run: "
        f"{' or '.join(sorted({str(run['selection']) for run in runs}))}."
    )
    lines.append(f"Made by {_hashes('config_hash', runs)}; {_hashes('git', runs, 'commit')}; {_versions(runs)}.")
    return lines


def classes_said(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Which of two classes is positive (in records of older versions, the last), and which have no test image."""
    twos = [run for run in runs if len(run.get("classnames", ())) == 2]
    positive = sorted({str(run.get("positive_class") or run["classnames"][-1]) for run in twos})
    absent = sorted({name for run in runs for name in run.get("absent_classes", ())})
    lines = [f"Positive class: {' or '.join(positive)}."] if positive else []
    return lines + ([f"WARNING: no test image of {', '.join(absent)}: {ABSENT}."] if absent else [])


def best_reachable(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What any classifier can reach on a phantom, if its card says so."""
    best = next((run["best_reachable"] for run in runs if run.get("best_reachable")), None)
    if not best:
        return []
    figures = ", ".join(f"{name.replace('auc', 'AUC')} {100 * value:.1f}" for name, value in best.items())
    return [f"Best that any classifier can reach on it: {figures}."]


def short(value: object) -> str:
    """The first digits of a hash, with the mark of a checkout that was changed."""
    whole = str(value)
    return whole[:DIGITS] + ("-dirty" if whole.endswith("-dirty") else "")


def _hashes(key: str, runs: Iterable[dict[str, Any]], name: str = "") -> str:
    """The different values of a hash: each one if they are few, else how many, and one hash of them all."""
    values = sorted({str(run.get(key) or "not known") for run in runs})
    if len(values) <= FEW:
        return f"{name or key} {', '.join(value if ' ' in value else short(value) for value in values)}"
    together = hashlib.sha256("\n".join(values).encode()).hexdigest()
    return f"{len(values)} different {name or key}, together {short(together)} (each in cells.csv)"


def _versions(runs: Iterable[dict[str, Any]]) -> str:
    found = [run.get("versions", {}) for run in runs]
    return ", ".join(
        f"{name} {' or '.join(sorted({str(versions.get(name, 'not known')) for versions in found}))}" for name in _SHOWN
    )
