"""Sentences say what the numbers say, and show them."""

from __future__ import annotations

from xcoop.explain.textual.prose import class_sentences, image_sentences

CHANGES = {"streaks": 0.5, "pigment network": 1.25, "symmetry": -0.75, "dots": 0.1, "veil": 0.2, "globules": 0.0}


def test_for_and_against_the_strongest_first():
    assert image_sentences("melanoma", 0.874, CHANGES, 2) == [
        "The model sees melanoma with a probability of 87%.",
        "pigment network speaks for melanoma: without it the logit falls by 1.25.",
        "streaks speaks for melanoma: without it the logit falls by 0.50.",
        "symmetry speaks against melanoma: without it the logit rises by 0.75.",
    ]


def test_three_a_side_unless_told():
    sentences = image_sentences("nevus", 0.5, {str(index): float(index) for index in range(-9, 10)})
    assert [sentence.split()[0] for sentence in sentences[1:]] == ["9", "8", "7", "-9", "-8", "-7"]


def test_concepts_that_move_nothing_are_not_named():
    sentences = image_sentences("melanoma", 1.0, CHANGES, 9)
    assert not any("globules" in sentence for sentence in sentences)
    assert image_sentences("melanoma", 1.0, {"globules": 0.0})[1:] == [
        "No concept of the bank moves the logit of melanoma."
    ]
    assert image_sentences("melanoma", 1.0, {}) == image_sentences("melanoma", 1.0, {"globules": 0.0})


def test_a_class_by_its_numbers():
    assert class_sentences("nevus", 0.62, 0.4, [("regular dots", 0.3), ("streaks", 0.25)], (3, 4)) == [
        "A sum of the bank's concepts accounts for 62% of what sets the prompt of nevus apart.",
        "40% of its weights lie on the concepts that the bank lists for nevus.",
        "Its largest weights: regular dots (0.30), streaks (0.25).",
        "Of its 4 context vectors, 3 are no nearer to a word than random ones.",
    ]


def test_what_is_no_prompt_is_not_called_one():
    said = class_sentences("nevus", 0.62, 0.4, [("streaks", 0.25)], noun="class vector")
    assert said[0] == "A sum of the bank's concepts accounts for 62% of what sets the class vector of nevus apart."
    assert not any("prompt" in sentence for sentence in said)


def test_what_was_not_measured_is_not_said():
    assert class_sentences("nevus", None, None, []) == []
    assert class_sentences("nevus", None, 0.0, []) == [
        "0% of its weights lie on the concepts that the bank lists for nevus."
    ]


def test_every_sentence_about_a_class_or_a_concept_shows_a_number():
    said = image_sentences("melanoma", 0.9, CHANGES) + class_sentences("nevus", 0.1, 0.2, [("dots", 0.3)], (0, 4))
    assert len(said) == 9
    assert all(any(letter.isdigit() for letter in sentence) for sentence in said)
