"""What a dataset knows of its images: which concepts of a bank they show, and where.

A bank speaks in words ("irregular vessels"), a dataset in columns and values (`vascular_structures`: `dotted`). The
words that `xcoop concepts mine` gives to a value are the bridge (`xcoop.concepts.wording`): every value is put into
words in each way of counting (as it is, merged, there or not), and a concept means those values whose words it is, in
singular and American spelling. Concepts that no value puts so are listed as unmatched; there is no truth for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xcoop.concepts import load_bank
from xcoop.concepts.bank import ConceptBank
from xcoop.concepts.wording import ABSENT, MODES, PRESENT, Wording, load_wording
from xcoop.concepts.words import normal, plain_words
from xcoop.explain.masks import CHEST_MASKS, Mask, MaskFiles, fit_mask, mask_files, read_masks
from xcoop.utils.reading import read_csv

__all__ = ["Truth", "fit_mask", "meanings", "truth_of"]

Table = Mapping[str, Mapping[str, str]]
"""By image path the value of each column."""
Meaning = Mapping[str, frozenset[str]]
"""By column the values, in any way of counting, that a concept stands for; any of them."""


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
        return read_masks(file for column in self.meanings[concept] for file in self.files.of_concept(path, column))

    def lesion_mask(self, impath: str) -> Mask | None:
        """Where the lesion lies, or in chest phantoms the lungs, (H, W) of the image on disk; None if unknown."""
        return read_masks(self.files.of_lesion(self._relative(impath)))

    def _relative(self, impath: str) -> str:
        return Path(impath).relative_to(self.folder).as_posix()


def truth_of(dataset: Any, bank: ConceptBank | None = None) -> Truth | None:
    """What a loaded dataset knows of its images; None if it has neither concept labels nor masks.

    Args:
        dataset: a `MedicalDataset`.
        bank: whose concepts are looked for; by default the dataset's own.
    """
    if not hasattr(dataset, "concept_labels"):
        return None
    folder, files = Path(dataset.dataset_dir), mask_files(dataset)
    table = _table(dataset, folder)
    bank = bank or (load_bank(dataset.concept_bank) if dataset.concept_bank else None)
    texts = list(dict.fromkeys(text for name in bank.classes for text in bank.texts(name))) if bank else []
    wording = load_wording(dataset.about_name)
    found = meanings(texts, table, wording)
    items = [item for split in (dataset.train_x, dataset.val, dataset.test) for item in split or ()]
    if not found and not any(files.of_lesion(Path(item.impath).relative_to(folder).as_posix()) for item in items):
        return None
    labels = {text: _labels(found[text], table, wording, folder) for text in found}
    return Truth(labels, found, tuple(text for text in texts if text not in found), folder, files)


def meanings(texts: Iterable[str], table: Table, wording: Wording) -> dict[str, Meaning]:
    """What each text means in a table of concept labels; texts that mean nothing there are left out.

    Args:
        texts: concepts in a bank's words.
        table: by image the value of each column.
        wording: of that dataset.
    """
    phrases: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for column, values in _values(table, wording).items():
        for form in {form for value in values for form in _forms(column, value, wording)}:
            phrases.setdefault(normal(wording.phrase(column, form)), {}).setdefault(column, set()).add(form)
    columns = {_key(column): column for row in table.values() for column in row}
    for text, meant in wording.also.items():
        for column, forms in meant.items():
            if column in columns:
                phrases.setdefault(normal(text), {}).setdefault(columns[column], set()).update(forms)
    found = {text: phrases.get(normal(text), {}) for text in texts}
    return {text: {column: frozenset(own) for column, own in meant.items()} for text, meant in found.items() if meant}


def _table(dataset: Any, folder: Path) -> Table:
    """The dataset's own labels; those of a chest phantom lie beside it, since the real archive has none."""
    own = dataset.concept_labels(folder)
    if own is None and dataset.is_phantom and (folder.parent / CHEST_MASKS / "concepts.csv").is_file():
        return _chest_table(folder.parent / CHEST_MASKS / "concepts.csv")
    return own or {}


def _chest_table(path: Path) -> Table:
    keys = ("split", "image", "patient", "group")
    return {
        f"{row['split']}/{'NORMAL' if row['group'] == 'normal' else 'PNEUMONIA'}/{row['image']}": {
            column: value for column, value in row.items() if column not in keys
        }
        for row in read_csv(path, keys)
    }


def _values(table: Table, wording: Wording) -> dict[str, set[str]]:
    """By column the values that an image has, and those that every set or this wording knows: none may have them."""
    values: dict[str, set[str]] = {}
    for row in table.values():
        for column, value in row.items():
            values.setdefault(column, set()).add(value)
    for column, seen in values.items():
        seen.update((PRESENT, ABSENT), wording.merged.get(_key(column), {}), wording.words.get(_key(column), {}))
    return values


def _forms(column: str, value: str, wording: Wording) -> set[str]:
    """A value in each way of counting; none if it is unknown."""
    return {form for mode in MODES for form in wording.values({column: value}, mode).values()}


def _labels(meaning: Meaning, table: Table, wording: Wording, folder: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    for path, row in table.items():
        known = {column: _forms(column, row[column], wording) for column in meaning if column in row}
        if any(known.values()):
            shown = any(forms & meaning[column] for column, forms in known.items())
            labels[os.path.join(folder, path)] = int(shown)
    return labels


def _key(name: str) -> str:
    """As `Wording` compares columns."""
    return " ".join(plain_words(name))
