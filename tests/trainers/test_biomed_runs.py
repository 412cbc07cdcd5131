"""Methods of each kind on a small BiomedCLIP: outside of the towers, inside both, added to their attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny_run
import torch
from helpers_biomed import MEAN, STD, build
from tiny_run import ConfigMaker
from torch import Tensor

from xcoop.backbones.bert import BertClip

TRAINERS = ("CoOp", "CoCoOp", "XCoOp", "MaPLe", "CLIPLoRA")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("biomed") / "small", length=40).folder


def cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}


@pytest.mark.parametrize("name", TRAINERS)
def test_it_trains_and_a_checkpoint_gives_the_same_logits(name: str, folder: Path, make_cfg: ConfigMaker) -> None:
    pairs = ("MODEL.BACKBONE.NAME", "open_clip", "MODEL.BACKBONE.PATH", str(folder))
    cfg = make_cfg(name, *pairs, "INPUT.PIXEL_MEAN", list(MEAN), "INPUT.PIXEL_STD", list(STD))
    trainer = tiny_run.build(cfg)
    assert isinstance(trainer.model.backbone, BertClip)
    model = trainer.model
    started, before = cloned(model.trained_state()), cloned(model.state_dict())
    trainer.train()
    assert all(
        key in model.kept or not torch.equal(tensor, started[key]) for key, tensor in model.trained_state().items()
    )
    learned = {id(tensor) for tensor in model.state_tensors().values()}
    held = {key: tensor for key, tensor in model.state_dict(keep_vars=True).items() if id(tensor) not in learned}
    assert all(torch.equal(tensor, before[key]) for key, tensor in held.items())
    other = tiny_run.build(cfg)
    other.load_model(trainer.output_dir, epoch=2 if trainer.optim else 0)
    assert torch.equal(tiny_run.logits(other), tiny_run.logits(trainer))
