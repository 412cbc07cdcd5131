"""The name by which folders, tables and pages know a dataset: own images are known by their folder, not as `folder`."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

from xcoop.utils.rules import Rule

KEY = "DATASET.LABEL"
OWN = "Folder"  # the dataset of own images: `configs/datasets/folder.yaml` names none
LONGEST = 60
LISTINGS = (".csv", ".tsv", ".json")  # files that list images, which are known by the folder that holds them
_FITS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")

RULE = Rule(
    f'"" or at most {LONGEST} letters (a to z), digits, "_" and "-", beginning with a letter or digit and not ending '
    'with "-", such as my_images',
    lambda value: isinstance(value, str) and (value == "" or fits(value)),
)


def fits(name: str) -> bool:
    """Whether a name can stand in a folder's name, a file's name and an id alike."""
    return len(name) <= LONGEST and _FITS.fullmatch(name) is not None


def usual_label(cfg: Any, config: str, stated: bool) -> str:
    """What own images are called if nobody says so; "" if nothing of that fits, and for other datasets.

    Args:
        cfg: the merged config, with `DATASET.PATH` absolute.
        config: the dataset's configuration, by its short name or path.
        stated: whether `DATASET.PATH` was stated beside it: then the folder's name counts, and that of the file else.
    """
    if cfg.DATASET.NAME != OWN:
        return ""
    if not stated:
        return Path(config).stem if fits(Path(config).stem) else ""
    place = Path(cfg.DATASET.PATH)
    name = place.parent.name if place.suffix.lower() in LISTINGS else place.name
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    label = re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-").lstrip("_")[:LONGEST].rstrip("-")
    return label if fits(label) else ""
