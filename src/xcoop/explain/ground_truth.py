"""What a dataset knows of its images: which concepts of a bank they show, and where.

A bank speaks in words ("irregular vessels"), a dataset in columns and values (`vascular_structures`: `dotted`). The
words that `xcoop concepts mine` gives to a value are the bridge (`xcoop.concepts.words`): every value is put into
words in each way of counting (as it is, merged, there or not), and a concept means those values whose words it is, in
singular and American spelling. Concepts that no value puts so are listed as unmatched; there is no truth for them.

Masks lie where each set keeps them:

| set | a concept's mask | the lesion's (or the organ's) mask |
|---|---|---|
| dermoscopy phantom | `masks/<stem>/<column>.png` | `masks/<stem>/lesion.png` |
| chest phantom | `../chest_xray_masks/<split>/<stem>/<column>.png` | `.../lungs.png` |
| PH2 | - | `<case>/<case>_lesion/<case>_lesion.bmp` |
| ISIC 2018, HAM10000 | - | `<any folder>/<stem>_segmentation.png`, of task 1 or of HAM10000's own archive |
| BUSI | - | `<stem>_mask.png`, `<stem>_mask_1.png`, ... beside the image |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

from xcoop.concepts import load_bank
from xcoop.concepts.bank import ConceptBank
from xcoop.concepts.words import ABSENT, MODES, PRESENT, Wording, load_wording, normal, plain_name
from xcoop.utils.images import open_image
from xcoop.utils.reading import read_csv

CHEST_MASKS = "chest_xray_masks"
LESION = "lesion"  # in the place of a concept's column

Mask = NDArray[np.bool_]
Table = Mapping[str, Mapping[str, str]]
"""By image path the value of each column."""
Meaning = Mapping[str, frozenset[str]]
"""By column the values, in any way of counting, that a concept stands for; any of them."""
MaskFiles = Callable[[str, str], list[Path]]
"""An image's path relative to the dataset's folder, and a concept's column or `LESION`: the files that together show
where that lies; [] if it is absent, or nobody outlined it."""


@dataclass(frozen=True)
class Truth:
    """The concept labels and masks of a dataset's images.

    Attributes:
        labels: by concept, in the bank's words, and image path (`impath`): 1 shown, 0 not; unknown ones are left out.
        meanings: by concept its columns and their values.
        unmatched: concepts of the bank that the dataset has no labels for.
        folder: the dataset's; image paths start with it.
        files: finds the masks.
    """

    labels: Mapping[str, Mapping[str, int]]
    meanings: Mapping[str, Meaning]
    unmatched: tuple[str, ...]
    folder: Path
    files: MaskFiles

    def mask(self, impath: str, concept: str) -> Mask | None:
        """Where a concept lies, (H, W) of the image on disk; None if the image does not show it, or nobody outlined it.

        What is shown by being absent ("no pigment network") lies nowhere.
        """
        if self.labels.get(concept, {}).get(impath) != 1:
            return None
        path = self._relative(impath)
        return read_masks(file for column in self.meanings[concept] for file in self.files(path, column))

    def table(self, impaths: Sequence[str], concepts: Sequence[str]) -> NDArray[np.float64]:
        """What N images show of J concepts, (N, J): 1 shown, 0 not, NaN unknown."""
        rows = [[self.labels.get(text, {}).get(path, np.nan) for text in concepts] for path in impaths]
        return np.array(rows, dtype=np.float64).reshape(len(impaths), len(concepts))

    def lesion_mask(self, impath: str) -> Mask | None:
        """Where the lesion lies, or in chest phantoms the lungs, (H, W) of the image on disk; None if unknown."""
        return read_masks(self.files(self._relative(impath), LESION))

    def _relative(self, impath: str) -> str:
        return Path(impath).relative_to(self.folder).as_posix()


def truth_of(dataset: Any, bank: ConceptBank | None = None) -> Truth | None:
    """What a loaded dataset knows of its images, by a bank (else its own); None if it has neither labels nor masks."""
    if not hasattr(dataset, "concept_labels"):  # a dataset of the programme that trained
        return None
    folder, files = Path(dataset.dataset_dir), mask_files(dataset)
    table = dataset.concept_labels(folder)
    beside = folder.parent / CHEST_MASKS / "concepts.csv"  # the archive that a chest phantom stands for has no labels
    if table is None and dataset.is_phantom and beside.is_file():
        keys = ("split", "image", "patient", "group")
        table = {
            f"{row['split']}/{'NORMAL' if row['group'] == 'normal' else 'PNEUMONIA'}/{row['image']}": {
                column: value for column, value in row.items() if column not in keys
            }
            for row in read_csv(beside, keys)
        }
    table = table or {}
    bank = bank or (load_bank(dataset.concept_bank) if dataset.concept_bank else None)
    texts = list(dict.fromkeys(text for name in bank.classes for text in bank.texts(name))) if bank else []
    wording = load_wording(dataset.about_name)
    found = meanings(texts, table, wording)
    items = [item for split in (dataset.train_x, dataset.val, dataset.test) for item in split or ()]
    if not found and not any(files(Path(item.impath).relative_to(folder).as_posix(), LESION) for item in items):
        return None
    labels = {text: _labels(found[text], table, wording, folder) for text in found}
    return Truth(labels, found, tuple(text for text in texts if text not in found), folder, files)


# Labels.


def meanings(texts: Iterable[str], table: Table, wording: Wording) -> dict[str, Meaning]:
    """What each text means in a dataset's table of concept labels; texts that mean nothing there are left out."""
    values: dict[str, set[str]] = {}  # that an image has, and those that every set or this wording knows
    for row in table.values():
        for column, value in row.items():
            values.setdefault(column, {PRESENT, ABSENT}).add(value)
    for column, seen in values.items():
        seen.update(wording.merged.get(plain_name(column), {}), wording.words.get(plain_name(column), {}))
    columns = {plain_name(column): column for column in values}
    phrases: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for column, seen in values.items():
        for form in {form for value in seen for form in _forms(column, value, wording)}:
            phrases.setdefault(normal(wording.phrase(column, form)), {}).setdefault(column, set()).add(form)
    for text, meant in wording.also.items():
        for key, forms in meant.items():
            if key in columns:
                phrases.setdefault(normal(text), {}).setdefault(columns[key], set()).update(forms)
    found = {text: phrases.get(normal(text), {}) for text in texts}
    return {text: {column: frozenset(own) for column, own in meant.items()} for text, meant in found.items() if meant}


def _labels(meaning: Meaning, table: Table, wording: Wording, folder: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    for path, row in table.items():
        known = {column: _forms(column, row[column], wording) for column in meaning if column in row}
        if any(known.values()):
            shown = any(forms & meaning[column] for column, forms in known.items())
            labels[os.path.join(folder, path)] = int(shown)
    return labels


def _forms(column: str, value: str, wording: Wording) -> set[str]:
    """A value in each way of counting; none if it is unknown."""
    return {form for mode in MODES for form in wording.values({column: value}, mode).values()}


# Masks.


def mask_files(dataset: Any) -> MaskFiles:
    """What finds the masks of a dataset; it finds nothing if there are none."""
    folder = Path(dataset.dataset_dir)
    beside, chest, about = folder / "masks", folder.parent / CHEST_MASKS, dataset.about_name
    outlines: dict[str, Path] = {}
    if about == "isic2018":
        files = sorted(file for depth in ("", "*/", "*/*/") for file in folder.glob(f"{depth}*_segmentation.png"))
        outlines = {file.stem.removesuffix("_segmentation"): file for file in reversed(files)}

    def of_image(path: str, column: str) -> list[Path]:
        image, files = folder / path, list[Path]()
        if dataset.is_phantom and beside.is_dir():
            files = [beside / image.stem / f"{column}.png"]
        elif dataset.is_phantom and chest.is_dir():
            name = "lungs" if column == LESION else column
            files = [chest / Path(path).parts[0] / image.stem / f"{name}.png"]
        elif column == LESION and about == "ph2":  # beside the folder of each image lies that of its lesion
            files = [image.parent.parent / f"{image.stem}_lesion" / f"{image.stem}_lesion{image.suffix}"]
        elif column == LESION and about == "busi":  # one file for each tumour; in normal scans they are empty
            numbers = ("", *(f"_{n}" for n in range(1, 10)))
            files = [image.with_name(f"{image.stem}_mask{number}.png") for number in numbers]
        elif column == LESION and image.stem in outlines:
            files = [outlines[image.stem]]
        return [file for file in files if file.is_file()]

    return of_image


def read_masks(files: Iterable[Path]) -> Mask | None:
    """The union of some mask files, (H, W): what is lighter than mid-grey is inside. None if there are none.

    Raises:
        ValueError: the files have different sizes.
        ImageError: a file cannot be read.
    """
    masks = {file: np.asarray(open_image(file))[:, :, 0] > 127 for file in files}
    if len({mask.shape for mask in masks.values()}) > 1:
        raise ValueError(f"masks of one image differ in size: {', '.join(map(str, masks))}")
    return np.logical_or.reduce(list(masks.values())) if masks else None


def fit_mask(mask: Mask, size: int | Sequence[int]) -> Mask:
    """A mask (H, W) of an image on disk in the geometry of the test transform, (height, width).

    The smaller edge is resized to INPUT.SIZE, a side or height and width, then it is cropped at the centre: by the
    functions of `engine.parts`, with the nearest pixel in place of an interpolation.
    """
    height, width = (size, size) if isinstance(size, int) else size
    image = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    resized = F.resize(image, max(height, width), InterpolationMode.NEAREST)
    fitted: Mask = np.asarray(F.center_crop(resized, [height, width])) > 127
    return fitted
