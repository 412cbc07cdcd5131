"""Where a tiny run finds its pictures and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_run
from tiny_run import ConfigMaker
from yacs.config import CfgNode


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn dataset."""
    return tiny_run.draw(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def make_cfg(pictures: Path, tiny_weights_file: Path, tmp_path: Path) -> ConfigMaker:
    """`make_cfg(trainer, KEY, VALUE, ..., output="out")` gives a frozen config."""

    def make(trainer: str, *pairs: Any, output: str = "out") -> CfgNode:
        return tiny_run.config(trainer, pictures, tiny_weights_file, tmp_path / output, *pairs)

    return make
