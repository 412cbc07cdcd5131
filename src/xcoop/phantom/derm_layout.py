"""Writes dermoscopy phantoms in the layout of Derm7pt.

```
<out>/phantom.json                                   what this is, and the best that any classifier can reach
<out>/release_v0/images/<FOLDER>/<file>.jpg          two images a case; names in mixed case, as in the real set
<out>/release_v0/meta/meta.csv                       the real set's columns and values
<out>/release_v0/meta/{train,valid,test}_indexes.csv one column, `indexes`: rows of meta.csv, the first is 0
<out>/release_v0/masks/<stem>/<column>.png           where each concept lies that is present, and lesion.png
```

The masks, named after the dermoscopic image, are not part of the real layout.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xcoop.phantom.dermoscopy import draw_clinical, draw_dermoscopy
from xcoop.phantom.folders import draw_cases
from xcoop.phantom.tables import DERM_TABLE, Summary, best_reachable, seven_point_score
from xcoop.utils.files import make_folder
from xcoop.utils.suggest import unknown

VERSION = 1
"""Raised whenever equal seeds give other images."""

_SPLITS = ("train", "valid", "test")
_FRACTIONS = (413 / 1011, 203 / 1011, 395 / 1011)
MIXES: dict[str, dict[str, int]] = {
    "balanced": {"MEL": 1, "NEV": 1},
    "real": {"NEV": 575, "MEL": 252, "BCC": 42, "SK": 45, "MISC": 97},  # the real set's counts
}

# The strings are the real set's; how often each occurs within its group is assumed.
_DIAGNOSES: dict[str, dict[str, float]] = {
    "NEV": {
        "clark nevus": 0.70,
        "reed or spitz nevus": 0.13,
        "dermal nevus": 0.06,
        "blue nevus": 0.05,
        "congenital nevus": 0.03,
        "combined nevus": 0.02,
        "recurrent nevus": 0.01,
    },
    "MEL": {
        "melanoma (less than 0.76 mm)": 0.41,
        "melanoma (in situ)": 0.25,
        "melanoma (0.76 to 1.5 mm)": 0.21,
        "melanoma (more than 1.5 mm)": 0.11,
        "melanoma metastasis": 0.02,
    },
    "BCC": {"basal cell carcinoma": 1.0},
    "SK": {"seborrheic keratosis": 1.0},
    "MISC": {
        "vascular lesion": 0.30,
        "lentigo": 0.25,
        "dermatofibroma": 0.20,
        "melanosis": 0.17,
        "miscellaneous": 0.08,
    },
}

# Assumed, and alike in all groups: these columns tell nothing of the diagnosis.
_REMARKS: dict[str, dict[str, float]] = {
    "level_of_diagnostic_difficulty": {"low": 0.35, "medium": 0.45, "high": 0.20},
    "elevation": {"flat": 0.30, "palpable": 0.50, "nodular": 0.20},
    "location": {
        "back": 0.35,
        "lower limbs": 0.23,
        "upper limbs": 0.12,
        "abdomen": 0.11,
        "chest": 0.08,
        "head neck": 0.06,
        "acral": 0.02,
        "buttocks": 0.02,
        "genital areas": 0.01,
    },
    "sex": {"female": 0.52, "male": 0.48},
}
_LAST_COLUMNS = ("management", "clinic", "derm", "case_id", "notes")
COLUMNS = ("case_num", "diagnosis", "seven_point_score", *DERM_TABLE.concepts, *_REMARKS, *_LAST_COLUMNS)
_FOLDERS = ("NEL", "NAL", "NDL", "FAL", "FCL", "GZL", "AHL", "NGL")


@dataclass(frozen=True)
class _Case:
    """One case to draw; everything about it follows from its fields."""

    seed: int
    index: int
    group: str
    size: int
    release: str


def write_derm7pt(
    out: Path,
    cases: int,
    seed: int,
    mix: str = "balanced",
    progress: bool = True,
    *,
    size: int = 160,
    workers: int | None = None,
) -> Summary:
    """Draws a set of skin lesions into a new folder, which appears only once it is complete.

    Equal arguments give equal files, however many processes draw. The shares of train, valid and test are the real
    set's.

    Args:
        out: the folder to make; it must not exist, or be empty.
        cases: how many, in all three splits, at least 12.
        seed: 0 or more.
        mix: `balanced`, half melanoma and half nevus; or `real`, five groups in the real set's proportions.
        progress: shows a bar if standard error is a terminal.
        size: side of the dermoscopic images in pixels.
        workers: number of processes; None: one for each core for large sets.

    Returns:
        The cases of each group in each split, and the best that can be reached on melanoma against nevus.

    Raises:
        FileExistsError: `out` exists and is not an empty folder.
        ValueError: an unknown mix, too few cases, or a negative seed.
    """
    if mix not in MIXES:
        raise ValueError(unknown("mix", mix, MIXES))
    if cases < 12:
        raise ValueError(f"{cases} cases cannot fill three splits; at least 12 are needed")
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, not {seed}")
    rng = np.random.default_rng([seed, cases])
    shares = MIXES[mix]
    ordered = np.repeat(list(shares), _apportion(cases, shares.values()))
    groups = [str(group) for group in rng.permutation(ordered)]
    splits = _split(rng, groups)
    best = best_reachable(DERM_TABLE, {group: shares[group] for group in ("NEV", "MEL")})
    card = {
        "phantom": "not clinical",
        "about": "drawn skin lesions in the layout of Derm7pt; nothing measured on them is a clinical result",
        "generator": "xcoop.phantom.derm_layout",
        "version": VERSION,
        "cases": cases,
        "seed": seed,
        "mix": mix,
        "size": size,
        "best_reachable": {
            "task": "melanoma against nevus",
            "accuracy": round(best.accuracy, 4),
            "auc": round(best.auc, 4),
        },
    }
    out = Path(out)

    def write(folder: Path) -> int:
        release = folder / "release_v0"
        for name in ("meta", "masks", *(f"images/{name}" for name in _FOLDERS)):
            (release / name).mkdir(parents=True)
        jobs = [_Case(seed, index, group, size, str(release)) for index, group in enumerate(groups)]
        drawn = draw_cases(_write_case, jobs, progress, workers, "dermoscopy phantom")
        _write_csv(release / "meta" / "meta.csv", COLUMNS, [row for row, _ in drawn])
        for split, indexes in splits.items():
            _write_csv(release / "meta" / f"{split}_indexes.csv", ("indexes",), [{"indexes": i} for i in indexes])
        (folder / "phantom.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        return sum(files for _, files in drawn) + len(splits) + 2  # and meta.csv, and the card

    make_folder(out, write)
    counts = {split: dict(sorted(Counter(groups[i] for i in rows).items())) for split, rows in splits.items()}
    return Summary(counts, best)


def _apportion(total: int, shares: Iterable[float]) -> list[int]:
    """Whole numbers close to the shares that sum to `total` (largest remainder)."""
    quotas = np.array(list(shares), dtype=np.float64)
    quotas *= total / quotas.sum()
    counts = np.floor(quotas + 1e-9).astype(int)
    for i in np.argsort(counts - quotas, kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    return [int(count) for count in counts]


def _split(rng: np.random.Generator, groups: list[str]) -> dict[str, list[int]]:
    """The rows of each split, ascending; every group is shared out in the same proportions."""
    splits: dict[str, list[int]] = {split: [] for split in _SPLITS}
    of_group = np.array(groups)
    for group in sorted(set(groups)):
        members = rng.permutation(np.flatnonzero(of_group == group))
        cuts = np.cumsum(_apportion(len(members), _FRACTIONS))[:-1]
        for split, part in zip(_SPLITS, np.split(members, cuts), strict=True):
            splits[split] += [int(i) for i in part]
    return {split: sorted(indexes) for split, indexes in splits.items()}


def _write_case(case: _Case) -> tuple[dict[str, Any], int]:
    """Draws one case; its row of meta.csv, and how many files were written."""
    profile_seed, image_seed, remark_seed = np.random.SeedSequence([case.seed, case.index]).spawn(3)
    profile = DERM_TABLE.sample(case.group, np.random.default_rng(profile_seed))
    # Names below `images`; no two stems are alike in the whole set.
    folder = _FOLDERS[case.index // 250 % len(_FOLDERS)]
    number = 2 * case.index + 1
    derm, clinic = f"{folder}/{folder.capitalize()}{number + 1:03d}.jpg", f"{folder}/{folder}{number:03d}.JPG"
    drawing = draw_dermoscopy(profile, np.random.default_rng(image_seed), case.size)
    clinical = draw_clinical(profile, np.random.default_rng(image_seed), max(64, case.size * 5 // 8))
    release = Path(case.release)
    for name, image in ((derm, drawing.image), (clinic, clinical)):
        Image.fromarray(image).save(release / "images" / name, format="JPEG", quality=92)
    masks = {**drawing.masks, "lesion": drawing.lesion}
    place = release / "masks" / Path(derm).stem
    place.mkdir()  # its parents are made once: a folder that vanished meanwhile must not come back
    for name, mask in masks.items():
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(place / f"{name}.png", compress_level=1)

    rng = np.random.default_rng(remark_seed)
    score = seven_point_score(profile)
    row: dict[str, Any] = {column: _pick(rng, shares) for column, shares in _REMARKS.items()}
    row["diagnosis"] = _pick(rng, _DIAGNOSES[case.group])
    followed = {"clinical follow up": 0.6, "no further examination": 0.4}
    row["management"] = "excision" if score >= 3 else _pick(rng, followed)
    row |= {"case_num": case.index + 1, "case_id": f"P{case.index + 1:05d}", "seven_point_score": score}
    row |= profile | {"notes": "phantom, not clinical", "clinic": clinic, "derm": derm}
    return row, 2 + len(masks)


def _pick(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    weights = np.array(list(shares.values()))
    return str(rng.choice(list(shares), p=weights / weights.sum()))


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
