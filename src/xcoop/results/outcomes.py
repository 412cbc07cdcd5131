"""The predictions behind the cells of a table, seed by seed, with the same names for the same images."""

from __future__ import annotations

import os
from dataclasses import replace

from xcoop.results.benchmark import Group
from xcoop.results.predictions import Predictions, aligned, read_predictions
from xcoop.results.tables_shots import Place

Outcomes = dict[Place, list[Predictions]]


def outcomes(group: Group, damaged: list[str]) -> Outcomes:
    """The predictions of each cell that has any; they agree on images, labels and patients where the records say so.

    Args:
        group: of one dataset.
        damaged: takes what is wrong with predictions that cannot be used; their cell is left out.
    """
    found: Outcomes = {}
    for place, row in group.rows.items():
        try:
            runs = [below_common(read_predictions(folder)) for folder in row.folders()]
            if runs:
                others = next(iter(found.values()), []) if group.same_images else []
                aligned([*others[:1], *runs])
                found[place] = runs
        except ValueError as error:
            damaged.append(str(error))
    return found


def below_common(run: Predictions) -> Predictions:
    """The same with paths below the folder that holds all images.

    Where a dataset lies in the cache, or below the data root, its paths are recorded from another place.
    """
    common = os.path.commonpath([os.path.dirname(image) for image in run.images])
    return replace(run, images=tuple(os.path.relpath(image, common or ".") for image in run.images))
