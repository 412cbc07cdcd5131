"""The whole page: the run and how far it can be trusted, what the prompts learned, and each image's card."""

from __future__ import annotations

import math
from collections.abc import Iterator

from xcoop.explain.page.card import card, is_right
from xcoop.explain.page.classes import PROMPT, class_block, heading
from xcoop.explain.page.style import CSS
from xcoop.explain.page.trust import trust_table
from xcoop.explain.schema import ClassVector, Explanations, ImageEntry, Method, Run, check
from xcoop.page.document import DRAWN, contents, document
from xcoop.page.markup import facts, number, paragraphs, percent, table, text

CAUTION = (
    "A heat map shows what moved this model's score. It is no evidence of clinical validity: neither that the model is "
    "right, nor that it is right for a medical reason. Not for diagnosis."
)


def report(content: Explanations) -> str:
    """The content of an `explanations.json` as one HTML page.

    Images come the least certain first, right and wrong both; those without a certainty come last.

    Raises:
        ValueError: the content does not follow `xcoop.explain.schema`; the message names the entry.
    """
    check(content)
    run = content["run"]
    inner = f"{_summary(content)}{_classes(content)}{_images(content)}"
    body = f'{_header(run, _compared(content))}<main id="main" tabindex="-1">{inner}</main>'
    return document(f"Explanations: {run['trainer']} on {run['dataset']}", body, style=CSS)


def banner(is_phantom: bool) -> str:
    """What every page says first."""
    phantom = f'<p class="banner"><strong>{DRAWN}</strong></p>' if is_phantom else ""
    return f'{phantom}<p class="banner">{CAUTION}</p>'


def by_certainty(images: list[ImageEntry]) -> list[ImageEntry]:
    """The images, the least certain first; equals keep their order."""

    def key(entry: ImageEntry) -> float:
        certainty = entry["certainty"]
        return math.inf if certainty is None or math.isnan(certainty) else certainty

    return sorted(images, key=key)


def _compared(content: Explanations) -> ClassVector:
    return content.get("class_vector", PROMPT)


def _header(run: Run, compared: ClassVector) -> str:
    links = [("summary", "Summary"), ("classes", heading(compared)), ("images", "Images")]
    title = f"{text(run['trainer'])} on {text(run['dataset'])}, explained"
    return f"<header><h1>{title}</h1>{banner(run['is_phantom'])}{contents(links)}</header>"


def _summary(content: Explanations) -> str:
    return (
        f'<section id="summary" aria-labelledby="summary-title"><h2 id="summary-title">Summary</h2>'
        f"{facts(_run(content['run']))}<h3>Result on the test images</h3>{_metrics(content['run'])}"
        f"<h3>How far the maps can be trusted</h3>{trust_table(content['trust'])}"
        "<p>\N{LEFT DOUBLE QUOTATION MARK}Better than its controls\N{RIGHT DOUBLE QUOTATION MARK} means that the two "
        "intervals do not touch. A map that is not clear of a random or a centred one says nothing about the image.</p>"
        f"<h3>How the maps are made</h3>{''.join(map(_method, content['methods']))}"
        "<p>For the eye the values are upsampled bilinearly and laid, half transparent, "
        "over the image in grey; each map has its own scale, printed below it. The raw values are in "
        "explanations.json.</p></section>"
    )


def _method(method: Method) -> str:
    cells = " \N{MULTIPLICATION SIGN} ".join(map(str, method["grid"]))
    kind = {"class": "Classes", "concept": "Concepts"}[method["kind"]]
    return f"<p>{kind}: <b>{text(method['name'])}</b>, {text(cells)} values. {text(method['description'])}</p>"


def _run(run: Run) -> Iterator[tuple[str, str]]:
    yield "Run", text(run["folder"])
    yield "Dataset", text(run["dataset"]) + (" (phantom)" if run["is_phantom"] else "")
    yield "Classes", text(", ".join(run["classnames"]))
    yield "Trainer", text(run["trainer"])
    yield "Backbone", text(run["backbone"])
    yield "Shots", "all images" if run["shots"] is None else str(run["shots"])
    yield "Seed", str(run["seed"])
    yield "Configuration", text(run["config_hash"])
    yield "Revision", text(run["git"] or "not known")
    yield "Explained on", text(run["created"])


def _metrics(run: Run) -> str:
    """The run's metrics; those of single classes carry the class's number there, and its name here."""

    def name(metric: str) -> str:
        stem, _, index = metric.rpartition("_")
        known = index.isdecimal() and int(index) < len(run["classnames"])
        return (f"{stem} of {run['classnames'][int(index)]}" if known else metric).replace("_", " ", 2)

    return facts((name(metric), number(value)) for metric, value in run["metrics"].items())


def _classes(content: Explanations) -> str:
    compared = _compared(content)
    blocks = "".join(
        class_block(one, f"class-{place}", compared) for place, one in enumerate(content["classes"], start=1)
    )
    return (
        '<section id="classes" aria-labelledby="classes-title">'
        f'<h2 id="classes-title">{text(heading(compared))}</h2>{paragraphs(filter(None, [compared["about"]]))}'
        f"{blocks or '<p>No class was looked at.</p>'}</section>"
    )


def _images(content: Explanations) -> str:
    directions = {metric["metric"]: metric["direction"] for metric in content["trust"]}
    images = by_certainty(content["images"])
    cards = "".join(card(entry, f"image-{place}", directions) for place, entry in enumerate(images, start=1))
    return (
        '<section id="images" aria-labelledby="images-title"><h2 id="images-title">Images</h2>'
        f"{_index(images) if images else '<p>No image was explained.</p>'}{cards}</section>"
    )


def _index(images: list[ImageEntry]) -> str:
    words = {True: "\N{CHECK MARK} right", False: "\N{BALLOT X} wrong", None: "no label"}
    rows = [
        [
            f'<a href="#image-{place}">{text(entry["path"])}</a>',
            percent(entry["certainty"]),
            text(entry["predicted"]),
            text("not known" if entry["label"] is None else entry["label"]),
            words[is_right(entry)],
        ]
        for place, entry in enumerate(images, start=1)
    ]
    head = ["Image", "Certainty", "Predicted", "Label", "Right or wrong"]
    return table(f"{len(images)} images, the least certain first", head, rows)
