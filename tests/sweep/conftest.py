"""The tiny dataset and weights of the trainers' tests, for real runs in a sweep."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
TINY = TESTS / "trainers"
sys.path.append(str(TINY))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn dataset."""
    import tiny_run

    return tiny_run.draw(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def tiny_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programmes that are started find the helpers of the tests."""
    paths = [str(TESTS), str(TINY), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
