"""The positive class of two: the one that average precision and sensitivity at a specificity are about."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from xcoop.utils.suggest import unknown

logger = logging.getLogger(__name__)

KEY = "DATASET.POSITIVE_CLASS"
NEGATIVE = {"normal", "healthy", "benign", "negative", "neg", "control", "controls", "unaffected", "uninfected"}
NEGATIVE |= {"no", "non", "not", "none", "nil", "without", "absent", "absence"}
"""A class whose name holds one of these words is the negative one, if the other's does not."""


def positive_class(classnames: Sequence[str], stated: str = "") -> str:
    """The positive class: the stated one; else the one of two whose name is not negative; else the last of two.

    The last is a guess, and the log says so. Empty for other than two classes, for which nothing is positive.

    Args:
        classnames: in label order.
        stated: by the dataset or the user; of no account if it is none of the classes.
    """
    if len(classnames) != 2:
        return ""
    if stated in classnames:
        return stated
    negative = [bool(NEGATIVE & set(_words(name))) for name in classnames]
    if negative[0] != negative[1]:
        chosen = classnames[negative.index(False)]
        logger.info("the positive class is %r, by the classes' names; %s chooses", chosen, KEY)
    else:
        chosen = classnames[-1]
        logger.warning(
            "the positive class is not known; %r is taken, which stands last of %s. It is what average precision and "
            "sensitivity at 95 %% specificity are of: name it with %s",
            chosen,
            " and ".join(map(repr, classnames)),
            KEY,
        )
    return chosen


def check_asked(asked: str, classnames: Sequence[str]) -> None:
    """ValueError if `DATASET.POSITIVE_CLASS` is none of the classes, or these are not two."""
    if asked and len(classnames) != 2:
        raise ValueError(f"{KEY} is {asked!r}, but there are {len(classnames)} classes: only of two one is positive")
    if asked and asked not in classnames:
        raise ValueError(f"{KEY}: {unknown('class', asked, classnames)}")


def _words(name: str) -> list[str]:
    """`NonMelanoma`, `non_melanoma`, `Non-melanoma`: non, melanoma."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+", parted.lower())
