"""Writes chest phantoms in the layout of the pediatric chest X-ray archive (Kermany et al. 2018).

```
<out>/phantom.json
<out>/chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg     grey; names as in the archive
<out>/chest_xray_masks/<split>/<stem>/<concept>.png             for each concept that is present, and lungs.png
<out>/chest_xray_masks/concepts.csv                             the true value of each concept of each image
```

Pneumonia files are called `person<ID>_{bacteria,virus}_<n>.jpeg`, normal ones `IM-<ID>-<n>.jpeg` or
`NORMAL2-IM-<ID>-<n>.jpeg`.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from xcoop.phantom.chest import draw_chest
from xcoop.phantom.folders import draw_cases
from xcoop.phantom.tables import CHEST_TABLE, Summary, best_normal_or_pneumonia
from xcoop.utils.files import make_folder

VERSION = 1
"""Raised whenever equal seeds give other images."""

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


@dataclass(frozen=True)
class _Case:
    """One image to draw; everything about it follows from its fields."""

    seed: int
    index: int
    patient: int
    split: str
    group: str
    stem: str
    size: int


def write_chest(
    out: Path, cases: int, seed: int, progress: bool = True, size: int = 192, workers: int | None = None
) -> Summary:
    """Draws a set of chest radiographs into a new folder, which appears only once it is complete.

    Equal `cases`, `seed` and `size` give equal files, however many processes draw. Patients with several images
    keep their body; the concepts of their images are sampled anew, so that the best reachable values hold.

    Args:
        out: the folder to make; it must not exist, or be empty.
        cases: number of images in all three splits, at least 40; 5,856 is the archive's own number.
        seed: 0 or more.
        progress: shows a bar if standard error is a terminal.
        size: side of the images in pixels.
        workers: number of processes; None: one for each core for large sets.

    Returns:
        The images of each group in each split, and the best that can be reached on normal against pneumonia in the
        test split, in expectation.

    Raises:
        FileExistsError: `out` exists and is not an empty folder.
        ValueError: too few cases, or a negative seed.
    """
    counts = _counts(cases)
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, not {seed}")
    plan = _plan(counts, seed, size)
    best = best_normal_or_pneumonia(counts["test"])
    card = {
        "phantom": "not clinical: drawn images, concepts sampled from assumed tables",
        "kind": "pneumonia",
        "version": VERSION,
        "cases": cases,
        "seed": seed,
        "size": size,
        "counts": counts,
        "best_reachable": {"task": "normal vs pneumonia, test", "accuracy": best.accuracy, "auc": best.auc},
    }
    out = Path(out)

    def write(folder: Path) -> int:
        masks = folder / "chest_xray_masks"
        for split in _SPLITS:
            (masks / split).mkdir(parents=True)
            for name in ("NORMAL", "PNEUMONIA"):
                (folder / "chest_xray" / split / name).mkdir(parents=True)
        jobs = [(case, str(folder)) for case in plan]
        drawn = draw_cases(_write_case, jobs, progress, workers, "chest phantom")
        with (masks / "concepts.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["split", "image", "patient", "group", *CHEST_TABLE.concepts])
            for case, (profile, _) in zip(plan, drawn, strict=True):
                writer.writerow([case.split, f"{case.stem}.jpeg", case.patient, case.group, *profile.values()])
        (folder / "phantom.json").write_text(json.dumps(card, indent=2) + "\n")
        return sum(files for _, files in drawn) + 2  # and concepts.csv, and the card

    make_folder(out, write)
    return Summary(counts, best)


def _counts(cases: int) -> dict[str, dict[str, int]]:
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


def _plan(counts: dict[str, dict[str, int]], seed: int, size: int) -> list[_Case]:
    """Names, patients and groups of all images; nobody is in two splits."""
    rng = np.random.default_rng([seed, 0])
    plan: list[_Case] = []
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
                    index = len(plan)
                    ill = f"person{patient}_{_CAUSES.get(group)}_{index + 1}"
                    stem = f"{prefix}-{patient:04d}-{view:04d}" if group == "normal" else ill
                    plan.append(_Case(seed, index, patient, split, group, stem, size))
    return plan


def _write_case(job: tuple[_Case, str]) -> tuple[dict[str, str], int]:
    """Draws and writes one image with its masks; its concepts, and how many files were written."""
    case, folder = job
    rng = np.random.default_rng([case.seed, 1, case.index])
    profile = CHEST_TABLE.sample(case.group, rng)
    drawing = draw_chest(profile, rng, case.size, patient=np.random.default_rng([case.seed, 2, case.patient]))
    name = "NORMAL" if case.group == "normal" else "PNEUMONIA"
    grey = Image.fromarray(drawing.image[:, :, 0])
    grey.save(Path(folder, "chest_xray", case.split, name, f"{case.stem}.jpeg"), quality=92)
    masks = Path(folder, "chest_xray_masks", case.split, case.stem)
    masks.mkdir()
    shown = {concept: mask for concept, mask in drawing.masks.items() if mask.any()} | {"lungs": drawing.lesion}
    for concept, mask in shown.items():
        Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{concept}.png")
    return profile, 1 + len(shown)
