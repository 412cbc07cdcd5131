"""Writes phantoms in the layouts of the real sets that they stand for, into folders that are whole or absent.

Derm7pt, by `write_derm7pt`; the masks, named after the dermoscopic image, are not part of the real layout:

```
<out>/phantom.json                                   what this is, and the best that any classifier can reach
<out>/release_v0/images/<FOLDER>/<file>.jpg          two images a case; names in mixed case, as in the real set
<out>/release_v0/meta/meta.csv                       the real set's columns and values
<out>/release_v0/meta/{train,valid,test}_indexes.csv one column, `indexes`: rows of meta.csv, the first is 0
<out>/release_v0/masks/<stem>/<column>.png           where each concept lies that is present, and lesion.png
```

The pediatric chest X-ray archive (Kermany et al. 2018), by `write_chest`. Pneumonia files are called
`person<ID>_{bacteria,virus}_<n>.jpeg`, normal ones `IM-<ID>-<n>.jpeg` or `NORMAL2-IM-<ID>-<n>.jpeg`:

```
<out>/phantom.json
<out>/chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg     grey; names as in the archive
<out>/chest_xray_masks/<split>/<stem>/<concept>.png             for each concept that is present, and lungs.png
<out>/chest_xray_masks/concepts.csv                             the true value of each concept of each image
```

`xcoop phantom derm7pt` and `xcoop phantom pneumonia` write them from the command line.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from xcoop.phantom import VERSION
from xcoop.phantom.chest import draw_chest
from xcoop.phantom.dermoscopy import draw_clinical, draw_dermoscopy
from xcoop.phantom.drawing import Mask, draw_cases
from xcoop.phantom.tables import CHEST_TABLE, DERM_TABLE, DRAWN, BestReachable, best_reachable, seven_point_score
from xcoop.utils.console import UserError, say, unknown
from xcoop.utils.files import make_folder


class Summary(NamedTuple):
    """What was written: of each split, the cases of each group; and what can be reached on it."""

    counts: dict[str, dict[str, int]]
    best: BestReachable


MIXES: dict[str, dict[str, int]] = {
    "balanced": {"MEL": 1, "NEV": 1},
    "real": {"NEV": 575, "MEL": 252, "BCC": 42, "SK": 45, "MISC": 97},  # the real set's counts
}
_DIAGNOSES, _REMARKS = DRAWN["derm"]["diagnoses"], DRAWN["derm"]["remarks"]
_DERM_SHARES = {"train": 413 / 1011, "valid": 203 / 1011, "test": 395 / 1011}
_LAST_COLUMNS = ("management", "clinic", "derm", "case_id", "notes")
COLUMNS = ("case_num", "diagnosis", "seven_point_score", *DERM_TABLE.values, *_REMARKS, *_LAST_COLUMNS)
_FOLDERS = ("NEL", "NAL", "NDL", "FAL", "FCL", "GZL", "AHL", "NGL")


def write_derm7pt(
    out: Path, cases: int, seed: int, mix: str = "balanced", *, size: int = 160, workers: int | None = None
) -> Summary:
    """Draws a set of skin lesions into a new folder, which appears only once it is complete.

    Equal arguments give equal files, however many processes draw. The shares of train, valid and test are the real
    set's.

    Args:
        out: the folder to make; it must not exist, or be empty.
        cases: how many, in all three splits, at least 12.
        seed: 0 or more.
        mix: `balanced`, half melanoma and half nevus; or `real`, five groups in the real set's proportions.
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
    groups = rng.permutation(np.repeat(list(shares), _apportion(cases, shares.values()))).tolist()
    splits: dict[str, list[int]] = {split: [] for split in _DERM_SHARES}  # the rows of each, ascending
    for group in sorted(set(groups)):  # each is shared out in the same proportions
        members = rng.permutation(np.flatnonzero(np.array(groups) == group))
        cuts = np.cumsum(_apportion(len(members), _DERM_SHARES.values()))[:-1]
        for split, part in zip(splits, np.split(members, cuts), strict=True):
            splits[split] = sorted([*splits[split], *part.tolist()])
    best = best_reachable(DERM_TABLE, {group: shares[group] for group in ("NEV", "MEL")}, ("MEL",))
    accuracy, auc = (round(value, 4) for value in best)
    card = {
        "phantom": "not clinical",
        "about": "drawn skin lesions in the layout of Derm7pt; nothing measured on them is a clinical result",
        "generator": "xcoop.phantom.layouts",
        "version": VERSION,
        "cases": cases,
        "seed": seed,
        "mix": mix,
        "size": size,
        "best_reachable": {"task": "melanoma against nevus", "accuracy": accuracy, "auc": auc},
    }
    folders = [f"release_v0/{name}" for name in ("meta", "masks", *(f"images/{name}" for name in _FOLDERS))]
    indexes = {f"release_v0/meta/{s}_indexes.csv": [{"indexes": row} for row in rows] for s, rows in splits.items()}
    draw = partial(_write_lesion, seed=seed, size=size)
    _write_set(out, folders, draw, list(enumerate(groups)), workers, "release_v0/meta/meta.csv", indexes, card)
    counts = {split: dict(sorted(Counter(groups[i] for i in rows).items())) for split, rows in splits.items()}
    return Summary(counts, best)


def _write_lesion(case: tuple[int, str], folder: Path, seed: int, size: int) -> tuple[dict[str, Any], int]:
    """Draws one case, given its number and group; its row of meta.csv, and how many files were written."""
    index, group = case
    release = folder / "release_v0"
    profile_seed, image_seed, remark_seed = np.random.SeedSequence([seed, index]).spawn(3)
    profile = DERM_TABLE.sample(group, np.random.default_rng(profile_seed))
    # Names below `images`; no two stems are alike in the whole set.
    place = _FOLDERS[index // 250 % len(_FOLDERS)]
    derm, clinic = f"{place}/{place.capitalize()}{2 * index + 2:03d}.jpg", f"{place}/{place}{2 * index + 1:03d}.JPG"
    drawing = draw_dermoscopy(profile, np.random.default_rng(image_seed), size)
    clinical = draw_clinical(profile, np.random.default_rng(image_seed), max(64, size * 5 // 8))
    for name, image in ((derm, drawing.image), (clinic, clinical)):
        Image.fromarray(image).save(release / "images" / name, format="JPEG", quality=92)
    files = 2 + _write_masks(release / "masks" / Path(derm).stem, {**drawing.masks, "lesion": drawing.lesion}, 1)

    rng = np.random.default_rng(remark_seed)
    score = seven_point_score(profile)
    row: dict[str, Any] = {column: _pick(rng, shares) for column, shares in _REMARKS.items()}
    row["diagnosis"] = _pick(rng, _DIAGNOSES[group])
    followed = {"clinical follow up": 0.6, "no further examination": 0.4}
    row["management"] = "excision" if score >= 3 else _pick(rng, followed)
    row |= {"case_num": index + 1, "case_id": f"P{index + 1:05d}", "seven_point_score": score}
    row |= profile | {"notes": "phantom, not clinical", "clinic": clinic, "derm": derm}
    return {column: row[column] for column in COLUMNS}, files


_SPLITS = ("train", "val", "test")
# Published counts of the archive; the 16 images of `val` are the same at every size.
_VAL = {"normal": 8, "bacterial": 8, "viral": 0}
_OFFICIAL = {
    ("train", "normal"): 1341,
    ("train", "bacterial"): 2530,
    ("train", "viral"): 1345,
    ("test", "normal"): 234,
    ("test", "bacterial"): 242,
    ("test", "viral"): 148,
}
_CAUSES = {"bacterial": "bacteria", "viral": "virus"}


class _Radiograph(NamedTuple):
    """One image to draw; with the set's seed and size, everything about it follows from this."""

    number: int
    patient: int
    split: str
    group: str
    stem: str


def write_chest(out: Path, cases: int, seed: int, *, size: int = 192, workers: int | None = None) -> Summary:
    """Draws a set of chest radiographs into a new folder, as `write_derm7pt` does.

    There are at least 40 images in all three splits; 5,856 is the archive's own number. Patients with several images
    keep their body; the concepts of their images are sampled anew, so that the best reachable values hold: those of
    normal against pneumonia in the test split, in expectation.
    """
    counts = _chest_counts(cases)
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, not {seed}")
    best = best_reachable(CHEST_TABLE, counts["test"], tuple(_CAUSES))
    card = {
        "phantom": "not clinical: drawn images, concepts sampled from assumed tables",
        "kind": "pneumonia",
        "version": VERSION,
        "cases": cases,
        "seed": seed,
        "size": size,
        "counts": counts,
        "best_reachable": {"task": "normal vs pneumonia, test", **best._asdict()},
    }
    classes = [f"chest_xray/{split}/{name}" for split in _SPLITS for name in ("NORMAL", "PNEUMONIA")]
    folders = [*classes, *(f"chest_xray_masks/{split}" for split in _SPLITS)]
    draw, plan = partial(_write_radiograph, seed=seed, size=size), _chest_plan(counts, seed)
    _write_set(out, folders, draw, plan, workers, "chest_xray_masks/concepts.csv", {}, card)
    return Summary(counts, best)


def _chest_counts(cases: int) -> dict[str, dict[str, int]]:
    """How many images of each group go into each split: the archive's shares, and its 16 of `val`."""
    if cases < 40:
        raise ValueError(f"{cases} images cannot fill the archive's layout; at least 40 are needed")
    left = cases - sum(_VAL.values())
    total = sum(_OFFICIAL.values())
    shares = {cell: left * official / total for cell, official in _OFFICIAL.items()}
    filled = {cell: max(1, int(share)) for cell, share in shares.items()}
    # What rounding down left over goes to the cells that lost most (and comes from train if a minimum took too much).
    for cell in sorted(shares, key=lambda cell: filled[cell] - shares[cell])[: max(0, left - sum(filled.values()))]:
        filled[cell] += 1
    filled["train", "bacterial"] += left - sum(filled.values())
    named = {split: {group: filled[split, group] for group in _VAL} for split in ("train", "test")}
    return {"train": named["train"], "val": dict(_VAL), "test": named["test"]}


def _chest_plan(counts: dict[str, dict[str, int]], seed: int) -> list[_Radiograph]:
    """Names, patients and groups of all images; nobody is in two splits."""
    rng = np.random.default_rng([seed, 0])
    plan: list[_Radiograph] = []
    patient = 0
    for split in _SPLITS:
        for group, count in counts[split].items():
            # Most patients have one image, the ill more often several.
            chances = (0.9, 0.1, 0.0, 0.0) if group == "normal" else (0.55, 0.25, 0.12, 0.08)
            views: list[int] = []
            while (left := count - sum(views)) > 0:
                views.append(min(left, 1 + int(rng.choice(4, p=chances))))
            for shown in views:
                patient += 1
                prefix = "NORMAL2-IM" if rng.random() < 0.5 else "IM"
                for view in range(1, shown + 1):
                    ill = f"person{patient}_{_CAUSES.get(group)}_{len(plan) + 1}"
                    stem = f"{prefix}-{patient:04d}-{view:04d}" if group == "normal" else ill
                    plan.append(_Radiograph(len(plan), patient, split, group, stem))
    return plan


def _write_radiograph(one: _Radiograph, folder: Path, seed: int, size: int) -> tuple[dict[str, Any], int]:
    """Draws and writes one image with its masks; its row of concepts.csv, and how many files were written."""
    rng = np.random.default_rng([seed, 1, one.number])
    profile = CHEST_TABLE.sample(one.group, rng)
    drawing = draw_chest(profile, rng, size, patient=np.random.default_rng([seed, 2, one.patient]))
    name = "NORMAL" if one.group == "normal" else "PNEUMONIA"
    grey = Image.fromarray(drawing.image[:, :, 0])
    grey.save(folder / "chest_xray" / one.split / name / f"{one.stem}.jpeg", quality=92)
    shown = {concept: mask for concept, mask in drawing.masks.items() if mask.any()} | {"lungs": drawing.lesion}
    files = 1 + _write_masks(folder / "chest_xray_masks" / one.split / one.stem, shown, 6)
    row = {"split": one.split, "image": f"{one.stem}.jpeg", "patient": one.patient, "group": one.group}
    return row | profile, files


def _write_set(
    out: Path,
    folders: Sequence[str],
    draw: Callable[..., tuple[dict[str, Any], int]],
    jobs: Sequence[Any],
    workers: int | None,
    table: str,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    card: Mapping[str, Any],
) -> None:
    """Makes a set's folders, draws into them, and writes the table of what was drawn, the other tables, and the card.

    `draw` takes a job and the keyword `folder`; it gives a row of the table, and the number of files that it wrote.
    """

    def write(folder: Path) -> int:
        for name in folders:
            (folder / name).mkdir(parents=True)
        drawn = draw_cases(partial(draw, folder=folder), jobs, f"drawing {Path(out).name}", workers)
        for name, rows in ({table: [row for row, _ in drawn]} | dict(tables)).items():
            with (folder / name).open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        (folder / "phantom.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        return sum(files for _, files in drawn) + 1 + len(tables) + 1  # and the tables, and the card

    make_folder(Path(out), write)


def _write_masks(folder: Path, masks: Mapping[str, Mask], level: int) -> int:
    """Writes a PNG a mask, compressed at a level from 0 to 9; how many."""
    folder.mkdir()  # its parents are made once: a folder that vanished meanwhile must not come back
    for name, mask in masks.items():
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(folder / f"{name}.png", compress_level=level)
    return len(masks)


def _apportion(total: int, shares: Iterable[float]) -> list[int]:
    """Whole numbers close to the shares that sum to `total` (largest remainder)."""
    quotas = np.array(list(shares), dtype=np.float64)
    quotas *= total / quotas.sum()
    counts = np.floor(quotas + 1e-9).astype(int)
    for i in np.argsort(counts - quotas, kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    return counts.tolist()


def _pick(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    weights = np.array(list(shares.values()))
    return str(rng.choice(list(shares), p=weights / weights.sum()))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop phantom derm7pt` and `xcoop phantom pneumonia`."""
    parser.add_argument("--out", required=True, type=Path, help="the folder to make")
    parser.add_argument("--cases", type=int, default=1200, help="how many (default 1200)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same images (default 1)")
    parser.add_argument(
        "--mix",
        help="of derm7pt: balanced: half melanoma, half nevus (the default); real: five groups, as in Derm7pt",
    )


def run(arguments: argparse.Namespace) -> int:
    """Draws a dataset into a new folder."""
    out, cases, seed = arguments.out, arguments.cases, arguments.seed
    if arguments.command == "phantom derm7pt":
        best = write_derm7pt(out, cases, seed, arguments.mix or "balanced").best
    elif arguments.mix:
        raise UserError(f"--mix {arguments.mix}: only derm7pt has groups that can be mixed")
    else:
        best = write_chest(out, cases, seed).best
    say(
        f"{cases} cases in {out}. A phantom: nothing measured on it is a clinical result.",
        f"The best that any classifier can reach on it: accuracy {best.accuracy:.3f}, AUC {best.auc:.3f}.",
    )
    return 0
