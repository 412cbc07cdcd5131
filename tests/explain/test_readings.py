"""What the measures say: one sentence of warning from what was measured alone, and the small charts."""

from __future__ import annotations

from typing import Any

import pytest
from page_samples import content

from xcoop.explain.content import Explanations, Trust
from xcoop.explain.html import Notice, metric, notebook, report
from xcoop.explain.readings import (
    AT_START,
    DELETION,
    EFFECT,
    ENERGY,
    INSERTION,
    KNOWLEDGE,
    LEARNED,
    OF_CONCEPTS,
    OF_UNTRAINED,
    UNRELATED,
    chart,
    headlines,
    warning,
)


def row(metric: str, low: float, high: float, direction: str = "higher", **controls: tuple[float, float]) -> Trust:
    """A row of the table; its value, and those of its controls, are the middles of their intervals."""
    known = [{"name": name.replace("_", " "), "value": sum(ends) / 2, "low": ends[0], "high": ends[1]}
             for name, ends in controls.items()]  # fmt: skip
    value = (low + high) / 2
    return Trust.model_validate({"metric": metric, "direction": direction, "unit": "", "value": value, "low": low,
                                 "high": high, "n": 200, "controls": known, "note": ""})  # fmt: skip


GOOD = [
    row(f"{DELETION}, mean baseline", 0.1, 0.2, "lower", random=(0.4, 0.5), centre=(0.3, 0.4)),
    row(f"{INSERTION}, mean baseline", 0.7, 0.8, random=(0.4, 0.5), centre=(0.5, 0.6)),
    row(f"{ENERGY}{OF_CONCEPTS}", 0.5, 0.6, random=(0.1, 0.2)),
    row(OF_UNTRAINED, 0.0, 0.2, "lower"),
    row(LEARNED, 0.9, 0.95, **{AT_START: (0.7, 0.8)}),
    row(KNOWLEDGE, 0.7, 0.8, **{UNRELATED: (0.5, 0.6)}),
    row(EFFECT, 2.0, 3.0, **{UNRELATED: (0.1, 0.2)}),
]


def changed(place: int, new: Trust) -> list[Trust]:
    return [*GOOD[:place], new, *GOOD[place + 1 :]]


def test_nothing_is_said_where_nothing_fails_or_was_measured() -> None:
    assert warning("ViT-B/16", False, GOOD) == ""
    assert warning("ViT-B/16", False, []) == ""
    assert warning("phantom", True, []) == ""


def test_what_makes_a_clear_difference_by_one_measure_is_not_said_to_make_none() -> None:
    level = row(LEARNED, 0.75, 0.95, **{AT_START: (0.7, 0.8)})
    clear = row(f"{LEARNED}, accuracy", 0.9, 1.0, **{AT_START: (0.5, 0.5)})
    none = "what the prompts learned makes no clear difference"
    assert none in warning("ViT-B/16", False, [level])
    assert none not in warning("ViT-B/16", False, [level, clear])
    assert any(none in line for line in headlines([level]))
    assert headlines([level, clear]) == []


@pytest.mark.parametrize(
    ("place", "new", "said"),
    [
        (0, row(f"{DELETION}, mean baseline", 0.1, 0.45, "lower", random=(0.4, 0.5)),
         "the maps are not clearly better than random ones by 1 of 2 measures"),
        (1, row(f"{INSERTION}, mean baseline", 0.7, 0.8, random=(0.4, 0.5), centre=(0.7, 0.8)),
         "the maps are not clearly better than a spot in the centre by 1 of 2 measures"),
        (2, row(f"{ENERGY}{OF_CONCEPTS}", 0.15, 0.3, random=(0.1, 0.2)),
         "the maps of concepts find known places not clearly better than random ones"),
        (3, row(OF_UNTRAINED, 0.4, 0.5, "lower"),
         "the maps are much the same from an image tower that was never trained"),
        (4, row(LEARNED, 0.75, 0.95, **{AT_START: (0.7, 0.8)}), "what the prompts learned makes no clear difference"),
        (4, row(LEARNED, 0.45, 0.55, **{AT_START: (0.2, 0.3)}), "its decisions are not clearly better than chance"),
        (5, row(KNOWLEDGE, 0.7, 0.8, **{UNRELATED: (0.75, 0.8)}),
         "the bank's knowledge is not clearly better than unrelated phrases"),
        (6, row(EFFECT, 2.0, 3.0, random_directions=(2.5, 3.5)),
         "concepts move a decision not clearly more than random directions"),
    ],
)  # fmt: skip
def test_each_failure_is_named(place: int, new: Trust, said: str) -> None:
    assert warning("ViT-B/16", False, changed(place, new)) == f"Read with care: on 200 test images {said}."


def test_several_failures_make_one_sentence() -> None:
    maps = [row(f"{name}, mean baseline", 0.4, 0.5, random=(0.4, 0.5)) for name in (DELETION, INSERTION)]
    both = [*maps, row(KNOWLEDGE, 0.7, 0.8, **{UNRELATED: (0.75, 0.8)})]
    assert warning("phantom", False, both) == (
        "Read with care: this backbone never saw real images; on 200 test images the maps are not clearly better than "
        "random ones, and the bank's knowledge is not clearly better than unrelated phrases."
    )
    given = Explanations.model_validate(content(phantom=False)).model_copy(update={"trust": both})
    page = report(given)
    assert page.index("this backbone never saw real images") < page.index("<article")
    assert "was not measured." in report(given.model_copy(update={"trust": []}))


def test_a_chart_stands_on_the_scale_of_its_row() -> None:
    found = chart(row("m", 0.5, 0.7, random=(0.2, 0.4)))
    assert [tuple(round(part) for part in mark or ()) for mark in found.marks] == [(79, 60, 98), (21, 2, 40)]
    assert found.alt == "m: here 0.6 [0.5, 0.7]; random 0.3 [0.2, 0.4]"
    unknown = row("m", 0.5, 0.7).model_copy(update={"value": None, "low": None, "high": None})
    assert chart(unknown).marks == [None]


def test_metrics_have_plain_names() -> None:
    run = Explanations.model_validate(content()).run
    assert metric("sensitivity_1", 0.75, run) == ("found of the images of melanoma", "sensitivity of melanoma", 0.75)
    assert metric("macro_auc", None, run).plain == "how well classes are told apart; 0.5 is chance"
    assert metric("my_own_metric", 1.0, run) == ("", "my own metric", 1.0)


def test_a_notebook_holds_several_cards_apart() -> None:
    entry: Any = Explanations.model_validate(content(images=1)).images[0]
    one, other = notebook(entry, Notice(False)), notebook(entry, Notice(True))
    names = [html.partition('class="')[2].partition(" ")[0] for html in (one, other)]
    assert names[0] != names[1]
    assert f'name="{names[0]}-layer"' in one
    assert names[0] not in other
    assert "drawn, not photographed" in other
    assert "<script" not in one
    assert "<html" not in one
