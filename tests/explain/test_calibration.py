"""How often a certainty was right: bins and intervals by hand, and the sentence that a reader gets."""

from __future__ import annotations

import numpy as np
import pytest

from xcoop.explain.calibration import FEWEST, calibrated, in_words
from xcoop.explain.content import Calibration


def found(count: int, wrong: int = 0, note: str = "") -> Calibration:
    """Certainties from 0.5 up, of which the least ones are decided wrongly."""
    certainty = 0.5 + np.arange(count) / (2 * count)
    return calibrated(certainty, np.arange(count) >= wrong, note)


def test_bins_hold_about_as_many_images_each() -> None:
    bins = found(100, wrong=25).bins
    assert [one.images for one in bins] == [20] * 5
    assert [one.right for one in bins] == [0, 15, 20, 20, 20]
    assert [bins[1].certain_from, bins[1].certain_to] == pytest.approx([0.6, 0.695])
    # Wilson's interval of 15 of 20: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
    z2 = 1.959964**2
    middle, half = 0.75 + z2 / 40, 1.959964 * (0.75 * 0.25 / 20 + z2 / 1600) ** 0.5
    expected = [(middle - half) / (1 + z2 / 20), (middle + half) / (1 + z2 / 20)]
    assert [bins[1].low, bins[1].high] == pytest.approx(expected, abs=1e-5)


def test_few_images_make_few_bins_or_none() -> None:
    assert [one.images for one in found(45).bins] == [23, 22]
    assert found(FEWEST - 1).bins == []
    assert found(FEWEST - 1).images == 19


def test_equal_certainties_share_a_bin() -> None:
    certainty = np.array([0.6] * 10 + [1.0] * 90)
    (low, high) = calibrated(certainty, certainty == 1).bins
    assert (low.images, low.right, high.images, high.right) == (10, 0, 90, 90)


@pytest.mark.parametrize(
    ("certainty", "said"),
    [
        (0.62, "Of the 20 validation images of about such a certainty (60 % to 70 %), 15 were decided rightly: 75 % "
               "(95 % interval 53 % to 89 %)."),
        (0.4, "On no validation image was it so little certain. Of the 20 validation images nearest in certainty "),
        (0.9999, "On no validation image was it so certain. Of the 20 validation images nearest in certainty "),
    ],
)  # fmt: skip
def test_the_sentence_names_the_bin_of_an_image(certainty: float, said: str) -> None:
    assert in_words(found(100, wrong=25), certainty).startswith(said)


def test_what_is_not_known_is_said_to_be_not_known() -> None:
    assert in_words(None, 0.9) == "How often such a certainty is right was not measured."
    assert "cannot be told: 7 validation images were asked, and at least 20" in in_words(found(7), 0.9)
    assert in_words(found(40, note="They also chose the epoch."), 0.9).endswith("They also chose the epoch.")
