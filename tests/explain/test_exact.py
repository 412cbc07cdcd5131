"""Exact sums over concepts, on models whose parts are written down, and what is seen, on planted truths."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_banks import toy_bank
from helpers_clip import tiny_backbone
from torch import Tensor

from xcoop.backbones import ImageFeatures
from xcoop.concepts import ConceptBank
from xcoop.explain.concepts import margin
from xcoop.explain.exact import NOT_SEEN, SEEN, UNDECIDED, Decision, ExactConcepts, Seeing, Seen, in_words
from xcoop.explain.trust import calibration_error
from xcoop.methods.model import PromptModel, PromptSum, Told, Usual, usual_values

CLASSES = {"nevus": ("dots", "streaks"), "melanoma": ("veil", "streaks")}
TEXTS = ("dots", "streaks", "veil")


class Written(PromptModel):
    """Parts of an image are its features times numbers that stand here; the last prompt tells no concept."""

    def __init__(self) -> None:
        super().__init__(tiny_backbone(), ["nevus", "melanoma"])
        self.factors = torch.tensor([2.0, -1.0, 3.0, 0.5, 1.0])

    @property
    def told(self) -> list[Told]:
        return [Told(0, "dots"), Told(0, "streaks"), Told(1, "veil"), Told(1, "streaks"), Told(1, "")]

    def prompt_sum(self, features: ImageFeatures) -> PromptSum:
        return PromptSum(features.pooled * self.factors, torch.tensor([0.25, -1.0]))

    @property
    def usual(self) -> Usual:
        return Usual(torch.tensor([1.0, 1.0, 2.0, 0.0, 4.0]), torch.tensor([2.0, 1.0, 0.5, 1.0, 1.0]))

    def logits(self, features: ImageFeatures) -> Tensor:
        parts, offsets = self.prompt_sum(features)
        return torch.stack([parts[:, :2].sum(1), parts[:, 2:].sum(1)], dim=1) + offsets


@pytest.fixture
def bank(tmp_path: Path) -> ConceptBank:
    return toy_bank(tmp_path, CLASSES)


FEATURES = ImageFeatures(torch.tensor([[1.0, 2.0, 0.5, -2.0, 3.0], [0.0, 1.0, 1.5, 4.0, 0.0]]), torch.zeros(2, 0, 5))


def test_contributions_are_what_differs_from_the_training_images(bank: ConceptBank) -> None:
    held = ExactConcepts(Written(), TEXTS, bank)
    assert held.held == [[0, 1], [1, 2]]
    parts, base = held.parts(FEATURES)
    # parts 2 -2 1.5 -1 3 of the first image, less 1 1 2 0 4
    assert parts[0].tolist() == [1.0, -3.0, -0.5, -1.0, -1.0]
    assert base.tolist() == [0.25 + 2.0, -1.0 + 6.0]
    moved = held.contributions(FEATURES)
    assert moved[0].tolist() == [[1.0, -3.0, 0.0], [0.0, -1.0, -0.5]]
    found = held.deviations(FEATURES)
    assert found is not None
    assert found[0].tolist() == [0.5, (-3.0 - 1.0) / 2, -1.0]


def test_a_term_that_falls_the_more_is_shown_counts_the_other_way(bank: ConceptBank) -> None:
    """Deviations say what an image shows, whatever the sign of the weight."""

    class Negative(Written):
        @property
        def usual(self) -> Usual:
            mean, deviation = super().usual
            return Usual(mean, deviation * torch.tensor([1, -1, 1, 1, 1]))

    held = ExactConcepts(Negative(), TEXTS, bank)
    found = held.deviations(FEATURES)
    assert found is not None
    assert found[0].tolist() == [0.5, (3.0 - 1.0) / 2, -1.0]
    assert held.falling == {(0, "streaks")}
    assert ExactConcepts(Written(), TEXTS, bank).falling == set()


def test_with_the_base_they_sum_to_the_logit(bank: ConceptBank) -> None:
    model = Written()
    held = ExactConcepts(model, TEXTS, bank)
    parts, base = held.parts(FEATURES)
    sums = torch.stack([parts[:, :2].sum(1), parts[:, 2:].sum(1)], 1) + base
    assert (sums - model.logits(FEATURES)).abs().max() < 1e-5
    torch.testing.assert_close(held.logits(FEATURES, 0, {0, 1}), model.logits(FEATURES))


def test_a_concept_that_is_not_kept_is_as_in_a_typical_image(bank: ConceptBank) -> None:
    model = Written()
    held = ExactConcepts(model, TEXTS, bank)
    less = held.logits(FEATURES, 1, {2})  # without streaks
    torch.testing.assert_close(less[:, 0], model.logits(FEATURES)[:, 0])
    torch.testing.assert_close((model.logits(FEATURES) - less)[:, 1], held.contributions(FEATURES)[:, 1, 1])
    found = held.effects(FEATURES, [1, 1], [frozenset([1])] * 2)
    want = margin(model.logits(FEATURES), 1) - margin(less, 1)
    np.testing.assert_allclose(found["comprehensiveness"], want.numpy(), atol=1e-6)


def test_prompts_of_other_concepts_than_the_asked_count_in_the_sum_alone(bank: ConceptBank) -> None:
    held = ExactConcepts(Written(), ("veil",), bank)
    assert held.held == [[], [0]]
    assert held.contributions(FEATURES).shape == (2, 2, 1)
    torch.testing.assert_close(held.logits(FEATURES, 1, {0}), Written().logits(FEATURES))


def test_usual_values_count_classes_alike() -> None:
    found = usual_values(torch.tensor([[0.0], [0.0], [0.0], [4.0]]), torch.tensor([0, 0, 0, 1]))
    assert found.mean.item() == 2
    assert found.deviation.item() == 2


# What is seen.


def planted(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of concepts that are shown with the probabilities of a logistic curve."""
    rng = np.random.default_rng(seed)
    scores = 0.2 + 0.1 * rng.standard_normal((count, 2))
    chance = 1 / (1 + np.exp(-20 * (scores - [0.2, 0.25])))
    return scores, (rng.random((count, 2)) < chance).astype(float)


def test_a_planted_curve_is_found_and_is_calibrated() -> None:
    seeing = Seeing.fit(*planted(3000, seed=0))
    np.testing.assert_allclose(seeing.slopes, [20, 20], rtol=0.15)
    np.testing.assert_allclose(-seeing.offsets / seeing.slopes, [0.2, 0.25], atol=0.01)
    scores, labels = planted(3000, seed=1)
    assert calibration_error(seeing.probabilities(scores).ravel(), labels.ravel()) < 0.03


def test_no_curve_where_labels_do_not_tell() -> None:
    scores, labels = planted(32, seed=0)
    labels[:, 0] = 0
    labels[:5, 1] = np.nan
    seeing = Seeing.fit(scores, labels)
    assert np.isnan(seeing.slopes[0])
    assert seeing.shares[0] == 0
    assert np.isnan(seeing.probabilities(scores)[:, 0]).all()
    alone = Seeing.fit(scores[5:, 1:], labels[5:, 1:])  # the unknown do not count
    np.testing.assert_allclose(seeing.slopes[1], alone.slopes[0])


def test_few_images_that_a_score_divides_leave_the_curve_finite() -> None:
    scores = np.array([[0.1], [0.11], [0.12], [0.3], [0.31], [0.32]])
    found = Seeing.fit(scores, np.array([[0.0], [0], [0], [1], [1], [1]])).probabilities(scores)
    assert found.min() > 1e-4
    assert found[:3].max() < 0.25
    assert found[3:].min() > 0.75


@pytest.mark.parametrize(
    ("probability", "deviation", "word"),
    [
        (0.9, -3.0, SEEN), (0.75, math.nan, SEEN), (0.6, 3.0, UNDECIDED), (0.25, 3.0, NOT_SEEN),
        (math.nan, 0.6, SEEN), (math.nan, 0.1, UNDECIDED), (math.nan, -0.6, NOT_SEEN),
    ],
)  # fmt: skip
def test_labels_speak_before_deviations(probability: float, deviation: float, word: str) -> None:
    found = in_words(probability, deviation)
    assert found is not None
    assert found.word == word
    assert found.probability == (None if math.isnan(probability) else probability)


@pytest.mark.parametrize(
    ("probability", "said"),
    [(0.0004, "below 1%"), (0.01, "1%"), (0.5, "50%"), (0.99, "99%"), (0.9999, "above 99%")],
)
def test_few_labelled_images_make_nothing_certain(probability: float, said: str) -> None:
    assert str(Seen(SEEN, probability)) == f"seen ({said})"


def test_nothing_is_said_of_what_nothing_tells() -> None:
    assert in_words(math.nan, math.nan) is None


def test_calibration_error_by_hand() -> None:
    # Bins 0.9: mean 0.95 against 0.5, two images; 0.1: 0.1 against 0, two images.
    assert calibration_error(np.array([0.95, 0.95, 0.1, 0.1]), np.array([1.0, 0, 0, 0])) == pytest.approx(0.275)


# Sentences.

DECISION = Decision(
    predicted="melanoma",
    probabilities={"nevus": 0.126, "melanoma": 0.874},
    parts={
        "nevus": {"typical network": 0.4, "dots": -0.6, "comma vessels": 0.1},
        "melanoma": {"veil": 1.25, "streaks": -0.75, "regression": 0.3, "shiny": 0.01, "": 5.0},
    },
    base={"nevus": -0.5, "melanoma": -4.25},
    seen={
        "veil": Seen(SEEN, 0.92), "streaks": Seen(NOT_SEEN, 0.04), "regression": Seen(UNDECIDED, 0.5),
        "typical network": Seen(SEEN), "dots": Seen(NOT_SEEN, 0.1), "comma vessels": Seen(UNDECIDED),
    },
)  # fmt: skip


def test_what_is_seen_and_how_it_adds_up() -> None:
    assert DECISION.sentences() == [
        "The model sees melanoma with a probability of 87%.",
        "veil: seen (92%); it adds 1.25 to the logit of melanoma.",
        "streaks: not seen (4%); the logit of melanoma is 0.75 lower than if it were as in a typical image.",
        "regression: undecided (50%); it adds 0.30 to the logit of melanoma.",
        "Of nevus: typical network: seen; it adds 0.40 to the logit of nevus.",
        "In all, the logit of melanoma is 1.56, 2.16 above that of nevus; of a typical training image it would be "
        "-4.25.",
    ]


def test_what_the_text_names_has_maps() -> None:
    assert [text for _, text in DECISION.named()] == ["veil", "streaks", "regression", "typical network"]


def test_what_a_negative_weight_does_is_said_as_what_it_is() -> None:
    """Of a bottleneck: there a concept that is seen may take from a logit, and one that is not seen add to it."""
    said = {
        (SEEN, -1.0): "x: seen; it takes 1.00 from the logit of a, where its weight is negative.",
        (NOT_SEEN, 1.0): "x: not seen; the logit of a is 1.00 higher than if it were as in a typical image.",
        (SEEN, 1.0): "x: seen; even so, its part adds 1.00 to the logit of a.",
        (UNDECIDED, -1.0): "x: undecided; it takes 1.00 from the logit of a.",
    }
    for (word, value), line in said.items():
        one = Decision("a", {"a": 1.0}, {"a": {"x": value}}, {"a": 0.0}, {"x": Seen(word)}, {("a", "x")})
        assert one.sentences()[1] == line


def test_an_absent_concept_speaks_neither_for_nor_against() -> None:
    for word in (SEEN, NOT_SEEN, UNDECIDED):
        for value in (-1.0, 0.0, 1.0):
            one = Decision("a", {"a": 1.0}, {"a": {"x": value}}, {"a": 0.0}, {"x": Seen(word)})
            text = " ".join(one.sentences())
            assert "against" not in text
            assert f"x: {word};" in text
            assert ("even so" in text) == ((word, value) in {(SEEN, -1.0), (NOT_SEEN, 1.0)})
    (_, line) = Decision("a", {"a": 1.0}, {"a": {"x": 1.0}}, {"a": 0.0}, {}).sentences()
    assert line == "x: compared with a typical training image, it adds 1.00 to the logit of a."
