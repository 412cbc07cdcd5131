"""What drawing one phantom image gives: the picture, and where in it each concept lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Drawing:
    """One phantom image with its truth.

    Attributes:
        image: (size, size, 3) uint8, RGB; greys have three equal channels.
        masks: concept name -> (size, size) bool. A concept that is absent has an empty mask.
        lesion: (size, size) bool, the skin lesion or the lung fields; None where there is none.
    """

    image: np.ndarray
    masks: dict[str, np.ndarray]
    lesion: np.ndarray | None = None
