"""The pages for readers, from what `explanations.json` holds. Plain data and images; no torch.

The templates beside this file say what stands where: `report.html.j2` is the page of a run, `image.html.j2` that of one
image, `notebook.html.j2` what a notebook shows; all have the card of an image, `card.html.j2`. What they cannot say is
in `views.py` (what is laid over a picture, how concepts add up) and `readings.py` (what the measures say).
"""

from __future__ import annotations

import math
import uuid
from typing import NamedTuple

from xcoop.explain.content import SURE, Explanations, ImageEntry, Run
from xcoop.explain.figures import gradient
from xcoop.explain.readings import chart, headlines, reading, warning
from xcoop.explain.views import LAYERS, view_of
from xcoop.page import render

FEW = 4  # images up to which a page shows all of each at once
# A run's metrics for readers. Those of single classes end in the class's number.
PLAIN = {
    "accuracy": "images decided rightly",
    "error_rate": "images decided wrongly",
    "balanced_accuracy": "images decided rightly, every class counting alike",
    "macro_f1": "balance of misses and false alarms, mean over the classes",
    "macro_auc": "how well classes are told apart; 0.5 is chance",
    "average_precision": "how well what is looked for stands above the rest",
    "sensitivity_at_95_specificity": "found of what is looked for, at 5 % false alarms",
    "mcc": "agreement with the labels; 0 is chance, 1 is all",
    "ece": "how far certainty is from the share that is right",
    "adaptive_ece": "the same, in bins of as many images each",
    "brier": "squared error of the probabilities; 0 is best",
    "sensitivity": "found of the images of {name}",
    "specificity": "of the other images, rightly not taken for {name}",
}


class Notice(NamedTuple):
    """What stands at the head of every page."""

    is_phantom: bool  # whether the images are drawn
    warning: str = ""  # where measures fail; see `readings.warning`
    measured: bool = True  # whether any measure was made


class Metric(NamedTuple):
    """One of a run's metrics."""

    plain: str  # what it says; "" where that is not known
    name: str
    value: float | None


def report(content: Explanations) -> str:
    """The whole page: each image first, then what the prompts learned, and how far all of it can be trusted.

    Images come the least certain first, right and wrong both; those without a certainty come last.
    """
    run = content.run
    images = sorted(content.images, key=lambda entry: math.inf if entry.certainty is None else entry.certainty)
    return render(
        "explain/report.html.j2",
        content=content,
        images=[(entry, view_of(entry)) for entry in images],
        notice=Notice(run.is_phantom, warning(run.backbone, run.is_phantom, content.trust), bool(content.trust)),
        metrics=[metric(name, value, run) for name, value in run.metrics.items()],
        headlines=headlines(content.trust),
        reading=reading,
        chart=chart,
        SURE=SURE,
        FEW=FEW,
        **_CARD,
    )


def image_page(entry: ImageEntry, notice: Notice) -> str:
    """A page with the card of one image alone."""
    return render("explain/image.html.j2", entry=entry, view=view_of(entry), notice=notice, **_CARD)


def notebook(entry: ImageEntry, notice: Notice) -> str:
    """The same as a part of another page: its ids are its own, and its colours are those of its surroundings."""
    key = f"xcoop-{uuid.uuid4().hex[:12]}"
    return render("explain/notebook.html.j2", entry=entry, view=view_of(entry), notice=notice, key=key, **_CARD)


_CARD = {"gradient": gradient(), "LAYERS": LAYERS}  # what a card's template asks for


def metric(name: str, value: float | None, run: Run) -> Metric:
    """A metric in plain words; one of a single class has the class's name in the place of its number."""
    stem, _, index = name.rpartition("_")
    known = index.isdecimal() and int(index) < len(run.classnames)
    if not known:
        return Metric(PLAIN.get(name, ""), name.replace("_", " "), value)
    of = run.classnames[int(index)]
    return Metric(PLAIN.get(stem, "").replace("{name}", of), f"{stem.replace('_', ' ')} of {of}", value)
