"""TaskRes: logits and a step by hand, the length of the text, what a checkpoint holds."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_run
import torch
from helpers_clip import tiny_backbone
from small_cases import NAMES, D, drawn_features, settings
from tiny_run import ConfigMaker, Usual
from torch import Tensor

from xcoop.methods.model import Task
from xcoop.trainers.taskres import DEFAULTS, TaskResModel, long_text

SENTENCES = ["a photo of a melanoma.", "a photo of a blue nevus.", "a photo of a clear lung."]


def model_of(text: Tensor, **keys: object) -> TaskResModel:
    return TaskResModel(tiny_backbone(), NAMES, text, settings(DEFAULTS, **keys))


def test_the_classifier_by_hand() -> None:
    """In a joint space whose first two axes alone are used; the temperature is 1."""
    text, features = torch.zeros(3, D), drawn_features(tiny_backbone(), 1)
    text[:, :2] = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    model = model_of(text, RESIDUAL_SCALE=0.5)
    model.backbone.logit_scale.data.zero_()
    features.pooled.zero_()[0, 0] = 7.0
    root = 0.5**0.5
    torch.testing.assert_close(model.logits(features), torch.tensor([[1.0, 0.0, root]]))  # zero-shot at the start
    with torch.no_grad():
        model.residual[0, 1] = 8.0  # (3, 0) + 0.5 (0, 8) = (3, 4)
        model.residual[2, 0] = -4.0  # (1, 1) + 0.5 (-4, 0) = (-1, 1)
    torch.testing.assert_close(model.logits(features), torch.tensor([[0.6, 0.0, -root]]))


def test_a_step_against_the_gradient_on_paper() -> None:
    """d ce / d x_c = alpha s / |t_c| (1 - u_c u_c') mean_i (p_ic - y_ic) f_i: the longer the text, the less it does."""
    draw = torch.Generator().manual_seed(1)
    text, labels = 3 * torch.randn(3, D, generator=draw), torch.tensor([0, 2, 1, 0])
    model = model_of(text, RESIDUAL_SCALE=0.7)
    features = drawn_features(model.backbone)
    model.losses(features, labels)["ce"].backward()

    scale = float(model.scale)
    image = features.pooled.double().numpy()
    image = image / np.linalg.norm(image, axis=1, keepdims=True)
    length = np.linalg.norm(text.double().numpy(), axis=1)
    unit = text.double().numpy() / length[:, None]
    logits = scale * image @ unit.T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    pull = (p - np.eye(3)[labels]).T @ image / 4  # (C, D)
    across = pull - (pull * unit).sum(1, keepdims=True) * unit
    want = 0.7 * scale * across / length[:, None]
    np.testing.assert_allclose(model.residual.grad, want, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("keys", [{}, {"ENSEMBLE": "templates"}])
def test_text_is_as_long_as_the_text_tower_makes_it(keys: dict[str, object]) -> None:
    backbone = tiny_backbone()
    text = long_text(backbone, Task(NAMES), settings(DEFAULTS, **keys))
    plain = backbone.encode_text(SENTENCES)
    torch.testing.assert_close(text.norm(dim=1), plain.norm(dim=1))
    assert not torch.allclose(text.norm(dim=1), torch.ones(3), atol=0.1)
    assert torch.allclose(text, plain, atol=1e-5) is not bool(keys)


def test_a_run_is_plain_adam_on_the_formula(make_cfg: ConfigMaker) -> None:
    """Three epochs beside a loop of our own over the same images, all in one batch."""
    keys = ("OPTIM.NAME", "adam", "OPTIM.MAX_EPOCH", 3, "OPTIM.WARMUP_EPOCH", -1, "OPTIM.LR_SCHEDULER", "single_step",
            "OPTIM.STEPSIZE", (99,), "DATALOADER.TRAIN_X.BATCH_SIZE", 2 * tiny_run.SPLITS["train"])  # fmt: skip
    trainer = tiny_run.build(make_cfg("TaskRes", *keys))
    clip = trainer.backbone
    batch = next(iter(trainer.train_loader_x))
    text = clip.encode_text(["a photo of a dark spot.", "a photo of a bright spot."])
    image = torch.nn.functional.normalize(clip.encode_image(batch["img"]).pooled, dim=1)
    own = torch.zeros_like(text, requires_grad=True)
    optimiser = torch.optim.Adam([own], lr=0.01, weight_decay=5e-4)
    for _ in range(3):
        cosine = image @ torch.nn.functional.normalize(text + 0.5 * own, dim=1).T
        loss = torch.nn.functional.cross_entropy(clip.logit_scale.exp() * cosine, batch["label"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    trainer.train()
    torch.testing.assert_close(trainer.model.residual, own, atol=1e-4, rtol=1e-3)


def test_a_checkpoint_holds_the_residuals_alone_and_for_these_classes_only(
    make_cfg: ConfigMaker, usual: Usual, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = usual("TaskRes").trainer
    state = tiny_run.stored(trainer, 2)["state_dict"]
    assert {name: tensor.shape for name, tensor in state.items()} == {"residual": (2, D)}
    monkeypatch.setattr(tiny_run, "NAMES", ["dark_spot", "scar"])
    other = tiny_run.build(make_cfg("TaskRes", output="other"))
    with pytest.raises(ValueError, match="scar"):
        other.load_model(trainer.output_dir, epoch=2)
