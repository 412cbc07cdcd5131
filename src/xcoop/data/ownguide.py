"""What `xcoop data info folder` says: how own images may lie, what is read of them, and what was found in a place.

All names and numbers are those of the code that reads: this page cannot fall behind it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from xcoop.concepts.bank import FEWEST, skeleton
from xcoop.concepts.bank import MOST as MOST_CONCEPTS
from xcoop.config.augmentation import KINDS
from xcoop.config.plugins import SHARED
from xcoop.data.checking import Report, counts_table
from xcoop.data.dataset import TEST_SHARE, Raw
from xcoop.data.ownplace import OTHERS, TABLES
from xcoop.data.ownsplit import split_file
from xcoop.data.owntable import COLUMNS, EXAMPLES, SPLIT_WORDS
from xcoop.data.splits import SPLITS
from xcoop.engine.config import KEYS as ENGINE
from xcoop.engine.config import flatten
from xcoop.evaluation.metrics import NEGATIVE
from xcoop.utils.images import SUFFIXES

WIDTH = 118  # characters of a line
BANK = "concepts.yaml"  # in the folder: the concept bank of its classes
EXAMPLE = "bash scripts/main.sh folder 16 XCoOp vit_b16 DATASET.PATH my_images"
TREE = f"""\
my_images/                            or    my_images/
  benign/     a1.png  a2.jpg  ...             train/  benign/ ...  malignant/ ...
  malignant/  patient_07/b1.png  ...          val/    benign/ ...  malignant/ ...
  {BANK}                               test/   benign/ ...  malignant/ ..."""
TABLE = """\
path,label,split,patient
images/a1.png,benign,train,p01
images/b1.png,malignant,test,p07"""
KEYS = {  # what concerns own images, with what is to be known of each
    "DATASET.PATH": "the folder, the table or the file of splits; a relative path starts at the current folder",
    "DATASET.LABEL": "what folders, tables and pages call the dataset; else the folder's name",
    "DATASET.CLASSES": "the classes in the order of their labels, as \"['benign', 'malignant']\"; chooses among "
    "columns that may be the label, and among levels of directories",
    "DATASET.POSITIVE_CLASS": "of two classes, the one that is looked for",
    "DATASET.TEST_FROM": "without test images: val (these are the test) or train (a part of it, by patient)",
    "DATASET.SPLIT_SEED": "another number makes another split",
    "DATASET.VAL_PERCENT": "the share of the images that become val where none are stated",
    "DATASET.HYGIENE": "drop leaves out of train and val what stands in two splits; report keeps it",
    "DATASET.CONCEPT_BANK": f"another bank than my_images/{BANK}: a file, or the name of a shipped one",
    "DATASET.CHANGES_LABELS": f"augmentations to leave out, of {', '.join(KINDS)}; auto: where classes name sides",
}


def guide() -> list[str]:
    """All that is to be known of own images before a run, as lines."""
    known = flatten(SHARED) | {key: default for key, (default, _) in ENGINE.items()}
    words = {split: [word for word, means in SPLIT_WORDS.items() if means == split] for split in SPLITS}
    split_words = "; ".join(f"{split}: {', '.join(own)}" for split, own in words.items())
    share, val = f"{TEST_SHARE:.0%}", f"{known['DATASET.VAL_PERCENT']:.0%}"
    sections = {
        "A directory a class, or the same below directories of splits (or these below each class)": [
            TREE,
            f"Directories of splits may be called, in any case: {split_words}. Images may lie in directories below "
            "that of their class. Directories called like masks, and two levels that may both be classes, are asked "
            "about.",
        ],
        "Or a table (CSV), which may lie in the folder or be named by DATASET.PATH": [
            TABLE,
            f"{' or '.join(TABLES)}, UTF-8, with a header; parted by commas, semicolons or tabs. Paths are relative to "
            "the table; a name alone will do where one image has it. Columns are found by their names, in any case and "
            "with any marks; path and label are needed:",
            *(f"  {role:8}{', '.join(EXAMPLES[role])}, ..." for role in COLUMNS),
            "Instead of a label there may be a column of 0 and 1 for each class. Images of several labels are refused. "
            "Columns that are not read are named.",
            "Beside directories of classes a table is read if its paths find images there and it has a column of "
            "labels (which it must have then), splits or patients; others are named and left. Tables called like "
            "splits (train.csv, test.csv) are read together. CoOp's split_*.json are read, too.",
        ],
        "What counts as an image": [
            f"{', '.join(sorted(SUFFIXES))}, in any case; 8 or 16 bits, grey or colour, links followed. Not read: "
            f"{', '.join(OTHERS)}. What lies beside the images and is not read is named.",
        ],
        "Splits": [
            f"Without any, {share} of each class become test and {val} val, by patient; this is written to "
            f"my_images/{split_file(0)} (of a table list.csv: {split_file(0, 'list')}; where nothing can be written, "
            "below the cache) and used again until you delete it. Without val alone, val is taken from train, the same "
            "for all runs. Without test alone, nothing starts before DATASET.TEST_FROM says where it is from.",
        ],
        "Patients": [
            "All images of a patient are in one split. They are told by a column, by directories such as patient_07, "
            "or by pairs such as 10_left, 10_right; else each image stands for itself.",
        ],
        "The concept bank": [
            f"my_images/{BANK}, for methods that read one (XCoOp): for each class {FEWEST} to {MOST_CONCEPTS} things "
            "that are seen. A run without it shows this to fill in, with your classes:",
            skeleton("my_images", ["benign", "malignant"]),
        ],
        "Of two classes": [
            "one is positive: DATASET.POSITIVE_CLASS, else the one whose name does not hold one of the words "
            f"{', '.join(sorted(NEGATIVE))}; else the last, with a warning.",
        ],
        "Keys": [f"  {key} {known[key]!r}: {what}" for key, what in KEYS.items()],
        "Commands": [
            "  xcoop data info folder DATASET.PATH my_images     what was found there",
            "  xcoop data check folder DATASET.PATH my_images    and whether it is fit to learn from",
            f"  {EXAMPLE}",
        ],
    }
    lines = ["folder: your own images, in a folder or a table"]
    for title, parts in sections.items():
        lines += ["", title]
        for part in parts:
            lines += _laid(part)
    return lines


def _laid(part: str) -> Iterator[str]:
    """A part as lines: drawn ones as they are, sentences wrapped."""
    if "\n" in part:
        yield from (f"    {line}".rstrip() for line in part.splitlines())
    else:
        indent = "      " if part.startswith("  ") else "  "
        yield from textwrap.wrap(part.strip(), WIDTH, initial_indent=indent[:-2] or "  ", subsequent_indent=indent)


def found(raw: Raw, positive: str, val_share: float, kept: Path | None) -> list[str]:
    """What is in a place, as lines.

    Args:
        raw: as it was read.
        positive: the positive class; "" if there is none.
        val_share: of the images that become val where none are stated.
        kept: the file of a split that was made before; None if there is none.
    """
    splits = raw.splits
    lines = [f"{raw.folder}: {len(raw.class_names)} classes, {len(splits.all())} images", ""]
    lines += [*counts_table(Report(raw, {}, {}, {}, ())), ""]
    if not splits.divided:
        lines.append(f"Splits: none are stated; {TEST_SHARE:.0%} become test and {val_share:.0%} val, by patient.")
        lines.append(f"  Made before, and used: {kept}" if kept else "  None was made yet.")
    elif not splits.val:
        lines.append(f"Splits: val is not stated; {val_share:.0%} of train become val, by patient.")
    known = sum(bool(item.patient) for item in splits.all())
    patients = len({item.patient for item in splits.all() if item.patient})
    lines.append(f"Patients: {patients}, of {known} images." if known else "Patients: not told.")
    lines.append(f"Concept bank: {raw.concept_bank or f'none ({raw.folder / BANK})'}")
    lines += [f"Positive class: {positive}"] if positive else []
    lines += ["Read:"] + [f"  {'!' if remark.matters else '-'} {remark.text}" for remark in raw.remarks]
    return lines
