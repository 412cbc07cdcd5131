"""The `released` variant takes the very steps of the released code, with one copy in the place of M and N."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from as_released import PlainReleasedXCoOp
from helpers_clip import tiny_backbone
from yacs.config import CfgNode

from xcoop.concepts import load_bank
from xcoop.trainers.xcoop_released import ReleasedModel

BANK = """
name: toy
version: "1"
dataset: Toy
template: "a photo of a {class}, {concepts}."
reviewed_by: []
sources: {here: "this test"}
classes:
  normal: [{concept: clear lung fields, source: here}, {concept: sharp angles, source: here}]
  pneumonia: [{concept: alveolar consolidation, source: here}]
"""
LR = 0.032


@pytest.fixture
def bank(tmp_path: Path):
    (tmp_path / "toy.yaml").write_text(BANK)
    return load_bank(tmp_path / "toy.yaml")


def settings(**changes: object) -> CfgNode:
    keys = {
        "N_PROMPTS": 4, "VISUAL_FEATURES": 2, "N_CTX": 4, "CTX_INIT": "a photo of a", "NORM_LR_MULT": 0.1,
        "PROMPT_WEIGHT": 5.0, "TOKEN_WEIGHT": 5.0, "CLIP_GRAD_NORM": 1.0,
    }  # fmt: skip
    return CfgNode(keys | changes)


def pair(bank, keys: CfgNode) -> tuple[PlainReleasedXCoOp, ReleasedModel]:
    """The same method twice, each on a backbone of its own with equal weights."""
    names = ["normal", "pneumonia"]
    ours = ReleasedModel(tiny_backbone(seed=3), names, bank, keys)
    backbone = tiny_backbone(seed=3)
    prompts = backbone.tokenize([f"a photo of a {name}." for name in names])
    sentences = [
        "a photo of a normal, clear lung fields, sharp angles.",
        "a photo of a pneumonia, alveolar consolidation.",
    ]
    weights = [keys.PROMPT_WEIGHT, keys.TOKEN_WEIGHT]
    plain = PlainReleasedXCoOp(
        backbone.model, prompts, backbone.tokenize(sentences), 4, keys.N_PROMPTS, keys.VISUAL_FEATURES, weights
    )
    for parameter in plain.trained():
        parameter.requires_grad_(True)
    return plain, ours


def sgd(groups) -> torch.optim.SGD:
    return torch.optim.SGD(groups, lr=LR, momentum=0.9, weight_decay=5e-4)


def run_plain(model: PlainReleasedXCoOp, batches, clip: float) -> list[list[float]]:
    ctx, *norms = model.trained()
    optimiser = sgd([{"params": norms, "lr": LR * 0.1}, {"params": [ctx]}])
    history = []
    torch.manual_seed(0)
    for images, labels in batches:
        losses = model.losses(images, labels)
        optimiser.zero_grad()
        sum(losses).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.trained(), clip)
        optimiser.step()
        history.append([loss.item() for loss in losses])
    return history


def run_ours(model: ReleasedModel, batches, clip: float) -> list[list[float]]:
    optimiser = sgd(model.parameter_groups(LR))
    history = []
    torch.manual_seed(0)
    for images, labels in batches:
        losses = model.losses(model.encode_images(images), labels)
        total = losses["ce"] + losses["prompt"] + losses["token"]
        optimiser.zero_grad()
        model.backward(total, losses, lambda loss: loss.backward())
        if clip:
            factor = (clip / (model.gradient_norm() + 1e-6)).clamp(max=1.0)
            for parameter in model.trained_parameters().values():
                parameter.grad.mul_(factor)
        optimiser.step()
        history.append([losses[name].item() for name in ("ce", "prompt", "token")])
    return history


@pytest.mark.parametrize("clip", [1.0, 0.0])
@pytest.mark.parametrize(("N", "M"), [(4, 2), (2, 3), (1, 2)])
def test_five_steps_are_the_same(bank, N: int, M: int, clip: float):
    keys = settings(N_PROMPTS=N, VISUAL_FEATURES=M, CLIP_GRAD_NORM=clip)
    plain, ours = pair(bank, keys)
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(8, 3, 32, 32, generator=generator), torch.randint(2, (8,), generator=generator)) for _ in range(5)
    ]
    start = ours.prompt_learner.ctx.detach().clone()
    want, got = run_plain(plain, batches, clip), run_ours(ours, batches, clip)
    assert torch.allclose(torch.tensor(got), torch.tensor(want), atol=2e-5 * max(1.0, max(map(max, want))))
    copies = plain.ctx.detach().view(N, 2, 4, -1)
    assert (copies - copies[0]).abs().max() < 1e-6  # they never part, which is why one is enough
    moved = (copies[0] - start).abs().max()
    assert moved > 1e-3  # something was learned
    rounding = 2e-6 if clip else 2e-5  # steps that are not clipped are long, and carry rounding along
    assert torch.allclose(ours.prompt_learner.ctx, copies[0], atol=rounding)
    for own, other in zip(ours.backbone.image_norms(), plain.trained()[1:], strict=True):
        assert torch.allclose(own, other, atol=rounding)
    images = torch.randn(5, 3, 32, 32, generator=generator)
    with torch.no_grad():
        assert torch.allclose(ours(images), plain.logits(images), atol=2e-5 if clip else 2e-4)


def test_predictions_depend_on_the_batch(bank):
    _, ours = pair(bank, settings())
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        alone = torch.cat([ours(image[None]) for image in images])
        assert (ours(images) - alone).abs().max() > 1e-4


def test_two_sentences_a_class_are_refused(bank, tmp_path: Path):
    long = ", ".join(f"{{concept: finding number {i} of a long list of findings, source: here}}" for i in range(12))
    (tmp_path / "long.yaml").write_text(BANK.replace("{concept: alveolar consolidation, source: here}", long))
    with pytest.raises(ValueError, match=r"long\.yaml.*'pneumonia' need 2"):
        ReleasedModel(tiny_backbone(), ["normal", "pneumonia"], load_bank(tmp_path / "long.yaml"), settings())
