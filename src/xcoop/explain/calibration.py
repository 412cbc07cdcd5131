"""How often a certainty is right: what came of equal ones on validation images, which the run was not trained on.

Images are put into bins by their certainty (the probability of the predicted class), about as many into each, so that
every share rests on enough of them. An interval is Wilson's, of 95 %.

Symbols: N images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xcoop.explain.content import Bin, Calibration
from xcoop.page import percent

BINS = 5  # at most
FEWEST = 20  # images of a bin; with fewer in all nothing can be told


def calibrated(certainty: NDArray[np.float64], right: NDArray[np.bool_], note: str = "") -> Calibration:
    """The bins of N validation images.

    Args:
        certainty: (N,), in [0, 1].
        right: whether each was decided rightly, (N,).
        note: what a reader must know of these images.
    """
    from scipy.stats import binomtest

    count = min(BINS, len(certainty) // FEWEST)
    if not count:
        return Calibration(images=len(certainty), bins=[], note=note)
    ordered = np.sort(certainty)
    starts = np.unique([part[0] for part in np.array_split(ordered, count)])  # equal certainties share a bin
    places = np.searchsorted(starts, certainty, side="right") - 1
    bins = []
    for place in range(len(starts)):
        own, hits = certainty[places == place], int(right[places == place].sum())
        low, high = binomtest(hits, len(own)).proportion_ci(method="wilson")
        ends = float(own.min()), float(own.max())
        bins.append(Bin(certain_from=ends[0], certain_to=ends[1], images=len(own), right=hits, low=low, high=high))
    return Calibration(images=len(certainty), bins=bins, note=note)


def in_words(found: Calibration | None, certainty: float) -> str:
    """How often such a certainty was right; or why that is not known."""
    if found is None:
        return "How often such a certainty is right was not measured."
    if not found.bins:
        return (
            f"How often such a certainty is right cannot be told: {found.images} validation images were asked, and at "
            f"least {FEWEST} are needed."
        )
    own = next((one for one in reversed(found.bins) if one.certain_from <= certainty), found.bins[0])
    outside = ""
    if certainty < own.certain_from:
        outside = "On no validation image was it so little certain. "
    elif own is found.bins[-1] and certainty > own.certain_to:
        outside = "On no validation image was it so certain. "
    ends = percent(own.certain_from), percent(own.certain_to)
    between = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    return (
        f"{outside}Of the {own.images} validation images {'nearest in' if outside else 'of about such a'} certainty "
        f"({between}), {own.right} were decided rightly: {percent(own.right / own.images)} (95 % interval "
        f"{percent(own.low)} to {percent(own.high)}). {found.note}"
    ).strip()
