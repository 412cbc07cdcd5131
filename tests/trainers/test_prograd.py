"""ProGrad: the projection by hand, its properties, and a whole step against gradients taken apart."""

from __future__ import annotations

from itertools import product

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker
from torch import Tensor

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.trainers.prograd import DEFAULTS, ProGradModel, without_conflict

NAMES = ["melanoma", "blue_nevus", "clear lung"]


@pytest.mark.parametrize(
    ("task", "general", "share", "expected"),
    [
        ([3.0, -4.0], [0.0, 2.0], 1.0, [3.0, 0.0]),  # the part against (0, 1) is gone
        ([3.0, -4.0], [0.0, 2.0], 0.5, [3.0, -2.0]),
        ([3.0, 4.0], [0.0, 2.0], 1.0, [3.0, 4.0]),  # in agreement
        ([3.0, 4.0], [4.0, -3.0], 1.0, [3.0, 4.0]),  # orthogonal
        ([1.0, 0.0], [-1.0, 1.0], 1.0, [0.5, 0.5]),
        ([3.0, 4.0], [0.0, 0.0], 1.0, [3.0, 4.0]),  # no direction to be kept
    ],
)
def test_projection_by_hand(task: list[float], general: list[float], share: float, expected: list[float]) -> None:
    (got,) = without_conflict([torch.tensor(task)], [torch.tensor(general)], share)
    torch.testing.assert_close(got, torch.tensor(expected))


def test_a_projected_gradient_never_conflicts_and_an_agreeing_one_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    conflicts = 0
    for _ in range(200):
        task, general = torch.randn(2, 9, generator=generator)
        (got,) = without_conflict([task], [general])
        assert got @ general >= -1e-5
        assert got @ task >= -1e-5  # still downhill for the task
        if task @ general < 0:
            conflicts += 1
            assert abs(got @ general) < 1e-5
        else:
            assert torch.equal(got, task)
    assert 50 < conflicts < 150


def test_several_tensors_are_one_gradient_and_sizes_do_not_matter() -> None:
    task, general = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    if task @ general > 0:
        task = -task
    (whole,) = without_conflict([task], [general])
    apart = without_conflict([task[:2], task[2:]], [1000 * general[:2], 1000 * general[2:]])
    torch.testing.assert_close(torch.cat(apart), whole)
    (scaled,) = without_conflict([2.0**16 * task], [2.0**16 * general])
    torch.testing.assert_close(scaled / 2.0**16, whole)


def gradients(model: ProGradModel, features: ImageFeatures, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the cross entropy and of the divergence, from their definitions, one image after the other."""
    context = model.prompt_learner.ctx
    text, written = model.text_features(), model.hand_written
    entropy, divergence = [], []
    for x, y in zip(features.pooled, labels.tolist(), strict=True):
        ours, theirs = (
            model.scale * (t @ x) / t.norm(dim=1) / x.norm() / model.softness for t in (text, written)
        )  # fmt: skip
        p, q = ours.exp() / ours.exp().sum(), theirs.exp() / theirs.exp().sum()
        divergence.append((q * (q / p).log()).sum() * model.softness**2)
        sharp = (ours * model.softness).exp()
        entropy.append(-(sharp[y] / sharp.sum()).log())
    ce, kl = sum(entropy) / len(labels), sum(divergence) / len(labels)
    return tuple(torch.autograd.grad(loss, context, retain_graph=True)[0] for loss in (ce, kl))  # type: ignore[return-value]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("against", [True, False])
def test_a_step_follows_the_gradients_taken_apart(against: bool, temperature: float, tiny_backbone: Backbone) -> None:
    """Which labels give a conflict is not known beforehand: all are tried, until one does (or none does)."""
    torch.manual_seed(1)
    settings = DEFAULTS.clone()
    settings.CTX_INIT, settings.N_CTX, settings.T = "", 4, temperature
    model = ProGradModel(tiny_backbone, NAMES, settings, "a photo of a {}.")
    pooled = torch.randn(4, tiny_backbone.embed_dim)
    features = ImageFeatures(pooled, pooled[:, None, :][:, :0])
    choices = (torch.tensor(labels) for labels in product(range(3), repeat=4))
    tried = ((labels, *gradients(model, features, labels)) for labels in choices)
    labels, ce, kl = next(found for found in tried if ((found[1] * found[2]).sum() < 0) == against)

    def backward(loss: Tensor, retain_graph: bool = False) -> None:
        loss.backward(retain_graph=retain_graph)

    parts = model.losses(features, labels)
    model.backward(model.loss(parts), parts, backward)
    got = model.prompt_learner.ctx.grad
    expected = ce - (ce * kl).sum() / (kl * kl).sum() * kl if against else ce
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-3)


def test_the_log_shows_the_divergence_which_is_not_part_of_the_loss(make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg("ProGrad"))
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 0, 0, 99
    batch = next(iter(trainer.train_loader_x))
    features, labels = trainer.parse_batch_train(batch)
    with torch.no_grad():
        trainer.model.prompt_learner.ctx.normal_(std=0.3)
        parts = trainer.model.losses(features, labels)
    shown = trainer.forward_backward(batch)
    assert shown.keys() == {"loss", "acc", "kl"}
    assert shown["loss"] == pytest.approx(parts["ce"].item())
    assert shown["kl"] == pytest.approx(parts["kl"].item())
    assert shown["kl"] > 1e-3


def test_without_its_share_it_is_coop_bit_for_bit(make_cfg: ConfigMaker) -> None:
    keys = ("TRAINER.PROGRAD.LAMBDA", 0.0, "TRAINER.PROGRAD.CTX_INIT", "")
    ours = tiny_run.trained(make_cfg("ProGrad", *keys))
    coop = tiny_run.trained(make_cfg("CoOp", output="coop"))
    assert torch.equal(ours.model.trained_state()["ctx"], coop.model.trained_state()["ctx"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("LAMBDA", 1.5, r"a number in \[0, 1\]"),
        ("T", 0.0, "above 0"),
        ("TEMPLATE", "a scan.", "with {} for"),
    ],
)
def test_settings_that_cannot_work_are_refused(key: str, value: object, message: str, make_cfg: ConfigMaker) -> None:
    with pytest.raises(ValueError, match=rf"TRAINER.PROGRAD.{key} .*{message}"):
        tiny_run.build(make_cfg("ProGrad", f"TRAINER.PROGRAD.{key}", value))
