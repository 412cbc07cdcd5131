"""The card of one image: what was predicted, where the model looked, and which concepts it saw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from xcoop.explain.page import pictures
from xcoop.explain.schema import ImageEntry, Map, Mask, SeenConcept
from xcoop.page.markup import bar, facts, number, paragraphs, percent, table, text

BETTER = {"higher": "higher is better", "lower": "lower is better"}
PRESENCE = {1: "present", 0: "absent", None: "not known"}
COVERED = 0.5  # share of a mask's cell from which it counts as inside


def card(entry: ImageEntry, key: str = "image", directions: Mapping[str, str] | None = None) -> str:
    """The card as an HTML `article`.

    Args:
        entry: one of `images` in `explanations.json`.
        key: an id that no other card of the page has; letters, digits and hyphens.
        directions: "higher" or "lower" for the scores of a map, by name.

    Raises:
        ValueError: a picture or a map is none; the message names the image.
    """
    try:
        looked = _looked(entry, key, directions or {})
    except ValueError as error:
        raise ValueError(f"{entry['path']}: {error}") from error
    return (
        f'<article class="card" id="{text(key)}" aria-labelledby="{text(key)}-title">'
        f'<h3 id="{text(key)}-title">{text(entry["path"])}</h3>'
        f'<p class="verdict">{verdict(entry)}</p>{paragraphs(entry["prose"])}'
        f"{looked}{_probabilities(entry)}{_concepts(entry['concepts'])}</article>"
    )


def is_right(entry: ImageEntry) -> bool | None:
    """Whether the prediction is right; None if no label is known."""
    return None if entry["label"] is None else entry["label"] == entry["predicted"]


def verdict(entry: ImageEntry) -> str:
    """Right or wrong, in words and a sign, as HTML."""
    predicted = f"predicted <strong>{text(entry['predicted'])}</strong>"
    right = is_right(entry)
    if right is None:
        said = f'<span class="sign">?</span> No label is known: {predicted}'
    elif right:
        said = f'<span class="sign">\N{CHECK MARK}</span> Right: {predicted}, as labelled'
    else:
        label = text(entry["label"])
        said = f'<span class="sign">\N{BALLOT X}</span> Wrong: {predicted}, labelled <strong>{label}</strong>'
    return f"{said}. Certainty {percent(entry['certainty'])}."


def _looked(entry: ImageEntry, key: str, directions: Mapping[str, str]) -> str:
    width, height = pictures.size(entry["picture"])
    frame = _Frame(width, height, f"{text(key)}-picture")
    masks = {mask["concept"]: mask for mask in entry["masks"]}
    image = frame.plain(entry["picture"], f"the image {entry['path']}")
    figures = [f"<figure>{image}<figcaption>The image</figcaption></figure>"]
    figures += [_map(each, frame, masks, directions) for each in entry["maps"]]
    figures += [_mask(each, frame) for each in entry["masks"]]
    return f'<h4>Where it looked</h4><div class="figures">{"".join(figures)}</div>'


class _Frame:
    """Draws over the card's picture, which is kept once and used again by its id.

    Args:
        width: of the picture, px.
        height: of the picture, px.
        key: the picture's id.
    """

    def __init__(self, width: int, height: int, key: str) -> None:
        self.width, self.height, self.key = width, height, key

    def plain(self, picture: str, alt: str) -> str:
        return self._svg(f'<image id="{self.key}" {self._whole} href="{picture}"/>', alt)

    def over(self, heat: str, border: str, alt: str) -> str:
        """The picture in grey; a heat map (data URI, or "") and a border (SVG, or "") upon it."""
        layer = f'<image class="heat" {self._whole} preserveAspectRatio="none" href="{heat}"/>' if heat else ""
        return self._svg(f'<use class="{"under" if heat else ""}" href="#{self.key}"/>{layer}{border}', alt)

    def border(self, mask: Mask) -> str:
        cells = pictures.grid(mask["grid"], f"the mask of {mask['concept']}")
        rows, columns = cells.shape
        path = pictures.outline(cells >= COVERED)
        fit = f"scale({self.width / columns:.6g} {self.height / rows:.6g})"
        return f'<g class="border" transform="{fit}"><path d="{path}"/><path d="{path}"/></g>' if path else ""

    @property
    def _whole(self) -> str:
        return f'width="{self.width}" height="{self.height}"'

    def _svg(self, inner: str, alt: str) -> str:
        return f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{text(alt)}">{inner}</svg>'


def _map(one: Map, frame: _Frame, masks: Mapping[str, Mask], directions: Mapping[str, str]) -> str:
    values = pictures.grid(one["values"], f"the map of {one['target']}")
    mask = masks.get(one.get("mask", one["target"]))
    low, high = float(values.min()), float(values.max())
    where = f"strongest in {pictures.strongest(values)}" if high > low else "the same everywhere"
    scores = [(name, number(value), directions.get(name)) for name, value in one["scores"].items()]
    said = "".join(f", {name} {value}" for name, value, _ in scores)
    alt = f"heat map for {one['target']}: {where}{said}"
    if mask:
        alt += f"; the line is the known border of {mask['concept']}"
    return (
        f"<figure>{frame.over(pictures.heat_map(values), frame.border(mask) if mask else '', alt)}"
        f"<figcaption><b>{text(one['target'])}</b> ({one['kind']}), {where}"
        f'<span class="scale"><span>{number(low)}</span><span class="colours" aria-hidden="true"></span>'
        f"<span>{number(high)}</span></span>{facts(_with_directions(scores))}</figcaption></figure>"
    )


def _with_directions(scores: Iterable[tuple[str, str, str | None]]) -> Iterator[tuple[str, str]]:
    for name, value, direction in scores:
        yield (f"{name} ({BETTER[direction]})" if direction in BETTER else name), value


def _mask(mask: Mask, frame: _Frame) -> str:
    cells = pictures.grid(mask["grid"], f"the mask of {mask['concept']}")
    inside = cells >= COVERED
    covers = f"{percent(float(inside.mean()))} of the image"
    where = f", around {pictures.middle(inside)}" if inside.any() else ""
    alt = f"known border of {mask['concept']}: {covers}{where}"
    return (
        f"<figure>{frame.over('', frame.border(mask), alt)}<figcaption><b>{text(mask['concept'])}</b> "
        f"(known border), {covers}</figcaption></figure>"
    )


def _probabilities(entry: ImageEntry) -> str:
    def marks(name: str) -> str:
        said = [word for word, which in (("predicted", entry["predicted"]), ("label", entry["label"])) if which == name]
        return ", ".join(said)

    ranked = sorted(entry["probabilities"].items(), key=lambda pair: -pair[1])
    rows = [[text(name), f"{bar(p)} {percent(p)}", marks(name)] for name, p in ranked]
    return f"<h4>What it predicted</h4>{table('Probability of each class', ['Class', 'Probability', ''], rows)}"


def _concepts(concepts: list[SeenConcept]) -> str:
    if not concepts:
        return ""
    classes = list(dict.fromkeys(name for concept in concepts for name in concept["for"]))
    head = ["Concept", "Score", *(f"For {name}" for name in classes), "Expert"]
    rows = [
        [
            text(one["concept"]),
            number(one["score"]),
            *(_signed(one["for"].get(name)) for name in classes),
            PRESENCE[one["label"]],
        ]
        for one in concepts
    ]
    return f"<h4>What it saw</h4>{table('Concepts: score, and what each adds to a class', head, rows)}"


def _signed(value: float | None) -> str:
    return f"+{number(value)}" if value is not None and value > 0 else number(value)
