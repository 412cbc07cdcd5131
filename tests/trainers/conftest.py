"""Where a tiny run finds its images and its weights; each trainer's usual run, made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker, Made, Usual
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


@pytest.fixture(scope="session")
def usual(pictures: Path, tiny_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Usual:
    """`usual(trainer)`: its run with the settings that `make_cfg(trainer)` has. Whoever gets it leaves it as it is."""
    made: dict[str, Made] = {}

    def get(name: str) -> Made:
        if name not in made:
            cfg = tiny_run.config(name, pictures, tiny_weights_file, tmp_path_factory.mktemp(name))
            trainer = tiny_run.build(cfg)
            before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
            text = trainer.model.text_features().detach().clone()
            made[name] = Made(trainer, before, trainer.model.trained_state(), text)
            with torch.enable_grad():  # whatever the test that asks first does
                trainer.train()
        return made[name]

    return get
