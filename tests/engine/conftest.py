"""The pictures that the engine's tests train on."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_engine import draw_squares


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of coloured squares."""
    folder = tmp_path_factory.mktemp("squares")
    draw_squares(folder)
    return folder
