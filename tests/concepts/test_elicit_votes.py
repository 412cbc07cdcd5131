"""Votes: when two wordings are one finding, which wording wins, and what is dropped."""

from __future__ import annotations

import pytest

from xcoop.concepts.elicit_votes import Elected, Rules, elect, meaning

RULES = Rules("a dermoscopic photo of a {class}, {concepts}.", 0.5, 8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pigment-Network", "pigment networks"),
        ("atypical pigment network", "irregular network of pigment"),
        ("blue-whitish veil", "whitish blue veil"),
        ("irregular blood vessels", "atypical vessel"),
        ("well-circumscribed margin", "the sharply demarcated edge"),
        ("presence of multiple grey dots", "numerous gray dots"),
        ("areas of white scar", "white scar"),
    ],
)
def test_one_finding_in_two_wordings(one: str, other: str) -> None:
    assert meaning(one) == meaning(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("atypical pigment network", "typical pigment network"),
        ("regular streaks", "regular dots"),
        ("pigment network", "network pigment"),  # another head
        ("large nodule", "small nodule"),
        ("cyst with septa", "septum"),
    ],
)
def test_two_findings(one: str, other: str) -> None:
    assert meaning(one) != meaning(other)


def test_votes_by_hand() -> None:
    answers = {
        "nevus": [["comma vessels", "comma vessel"], ["Comma vessels"], ["dots"], ["comma-like vessels", "dots"]],
        "melanoma": [["blue veil"], ["blue veil", "streaks"]],
    }
    chosen, dropped = elect(answers, RULES)
    # An answer has one vote; "comma-like vessels" is something else, and has one vote of four.
    assert chosen["nevus"] == [Elected("comma vessels", 2, 4), Elected("dots", 2, 4)]
    assert chosen["melanoma"] == [Elected("blue veil", 2, 2), Elected("streaks", 1, 2)]
    assert dropped == []
    assert elect(answers, Rules(RULES.template, 0.6, 8))[0]["nevus"] == []
    assert elect(answers, Rules(RULES.template, 0.5, 1))[0]["melanoma"] == [Elected("blue veil", 2, 2)]


def test_the_wording_of_most_answers_wins_and_of_equals_the_shortest() -> None:
    lists = [["irregular blood vessels"], ["atypical vessels"], ["irregular blood vessels"]]
    assert elect({"melanoma": lists}, RULES)[0]["melanoma"] == [Elected("irregular blood vessels", 3, 3)]
    assert elect({"melanoma": lists[:2]}, RULES)[0]["melanoma"] == [Elected("atypical vessels", 2, 2)]


def test_abbreviations_keep_their_capitals() -> None:
    assert elect({"mass": [["B lines"]]}, RULES)[0]["mass"][0].text == "B lines"


def test_what_cannot_stand_in_a_bank_is_dropped_with_its_reason() -> None:
    answers = {
        "nevus": [["itchy spot", "melanocytic nevus cells", "dots", "round shape"]],
        "melanoma": [["treatment scar", "dots", "jagged outline", "nevus remnant"]],
    }
    chosen, dropped = elect(answers, RULES)
    assert {name: [one.text for one in own] for name, own in chosen.items()} == {
        "nevus": ["round shape"],
        "melanoma": ["jagged outline"],
    }
    assert {(one.classname, one.text): one.why for one in dropped} == {
        ("nevus", "itchy spot"): "not visible: itchy",
        ("nevus", "melanocytic nevus cells"): dropped[1].why,
        ("melanoma", "treatment scar"): "not visible: treatment",
        ("melanoma", "nevus remnant"): "names the diagnosis nevus",
        ("nevus", "dots"): "every class has it",
        ("melanoma", "dots"): "every class has it",
    }
