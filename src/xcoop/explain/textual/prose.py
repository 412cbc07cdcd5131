"""Sentences from numbers: each says one thing, and the number that it rests on. Nothing is invented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SHOWN = 3  # concepts for, and against, that are named


def image_sentences(predicted: str, probability: float, changes: Mapping[str, float], shown: int = SHOWN) -> list[str]:
    """What speaks for and against the predicted class in an image.

    Args:
        predicted: the class.
        probability: in [0, 1].
        changes: by concept, the class's logit with it less that without it.
        shown: how many are named on each side.
    """
    sentences = [f"The model sees {predicted} with a probability of {probability:.0%}."]
    ordered = sorted(changes.items(), key=lambda pair: -pair[1])
    for text, value in [pair for pair in ordered if pair[1] > 0][:shown]:
        sentences.append(f"{text} speaks for {predicted}: without it the logit falls by {value:.2f}.")
    for text, value in [pair for pair in reversed(ordered) if pair[1] < 0][:shown]:
        sentences.append(f"{text} speaks against {predicted}: without it the logit rises by {-value:.2f}.")
    if len(sentences) == 1:
        sentences.append(f"No concept of the bank moves the logit of {predicted}.")
    return sentences


def class_sentences(
    name: str,
    explained: float | None,
    own_share: float | None,
    strongest: Sequence[tuple[str, float]],
    noise: tuple[int, int] | None = None,
    noun: str = "prompt",
) -> list[str]:
    """What the prompt of a class says, or whatever else the method compares images with.

    Args:
        name: of the class.
        explained: share of what sets the prompt apart that a sum of concepts accounts for, in [0, 1].
        own_share: share of the weights on the class's own concepts.
        strongest: concepts with their weights, the largest first.
        noise: of how many context vectors the nearest word is no nearer than chance, and how many there are.
        noun: names what is spoken of.
    """
    sentences = []
    if explained is not None:
        sentences.append(
            f"A sum of the bank's concepts accounts for {explained:.0%} of what sets the {noun} of {name} apart."
        )
    if own_share is not None:
        sentences.append(f"{own_share:.0%} of its weights lie on the concepts that the bank lists for {name}.")
    if strongest:
        listed = ", ".join(f"{text} ({weight:.2f})" for text, weight in strongest)
        sentences.append(f"Its largest weights: {listed}.")
    if noise is not None:
        sentences.append(f"Of its {noise[1]} context vectors, {noise[0]} are no nearer to a word than random ones.")
    return sentences
