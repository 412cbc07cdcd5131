"""Peers against the arithmetic of their released code, stated here from its formulas: losses, logits, several updates.

Nothing of a peer's own module, nor of `xcoop.methods.prompts`, is used for what is expected.
"""

from __future__ import annotations

import xcoop  # isort: skip  # first: it answers to `import dassl`  # noqa: F401

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import plain_deep
import pytest
import tiny_run
import torch
from dassl.config import get_cfg_default
from dassl.optim import build_optimizer
from helpers_clip import tiny_backbone as make_backbone
from small_cases import LABELS, NAMES, SENTENCES, D, clusters, pictures, settings
from tiny_run import ConfigMaker
from torch import Tensor
from torch.nn import functional as F

from xcoop.backbones import LabelledFeatures
from xcoop.methods.model import PromptModel
from xcoop.methods.prompts import IMAGENET
from xcoop.runs import train
from xcoop.trainers.biomedcoop import DEFAULTS as BIOMEDCOOP
from xcoop.trainers.biomedcoop import BiomedCoOpModel, in_force
from xcoop.trainers.lpplusplus import DEFAULTS as LPPLUSPLUS
from xcoop.trainers.lpplusplus import LPPlusPlusModel
from xcoop.trainers.maple import DEFAULTS as MAPLE
from xcoop.trainers.maple import MaPLeModel
from xcoop.trainers.promptsrc import DEFAULTS as PROMPTSRC
from xcoop.trainers.promptsrc import PromptSRCModel
from xcoop.trainers.tipadapter import CACHE, grid
from xcoop.trainers.tipadapterf import DEFAULTS as TIPADAPTERF
from xcoop.trainers.tipadapterf import TipAdapterFModel

SPOKEN = ["melanoma", "blue nevus", "clear lung"]


def one(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def text(seed: int = 5) -> Tensor:
    return F.normalize(0.2 + torch.randn(3, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def assert_equal_updates(
    model: PromptModel,
    ours: Callable[[], Tensor],
    loss: Callable[[dict[str, Tensor]], Tensor],
    lr: float,
    steps: int = 4,
) -> None:
    """Losses, and what is trained, over steps of Dassl's SGD (momentum 0.9, weight decay 5e-4), written out here."""
    cfg = get_cfg_default()
    cfg.OPTIM.NAME, cfg.OPTIM.LR = "sgd", lr
    optimiser = build_optimizer(model, cfg.OPTIM, param_groups=model.parameter_groups(lr))
    own = {name: p.detach().clone() for name, p in model.trained_parameters().items()}
    speed = {name: torch.zeros_like(p) for name, p in own.items()}
    first = {name: p.clone() for name, p in own.items()}
    for _ in range(steps):
        got = ours()
        optimiser.zero_grad()
        got.backward()
        optimiser.step()
        leaves = {name: p.clone().requires_grad_() for name, p in own.items()}
        want = loss(leaves)
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
        for name, slope in zip(leaves, torch.autograd.grad(want, list(leaves.values())), strict=True):
            speed[name] = 0.9 * speed[name] + slope + 5e-4 * own[name]
            own[name] = own[name] - lr * speed[name]
    for name, parameter in model.trained_parameters().items():
        moved = (own[name] - first[name]).abs().max()
        assert moved > 1e-5, name
        torch.testing.assert_close(parameter.detach(), own[name], atol=float(1e-2 * moved), rtol=0, msg=name)


# LP++ (FereshteShakeri/FewShot-CLIP-Strong-Baseline, methods/linear_probe_p2.py).


def released_lpplusplus(
    training: LabelledFeatures, validation: LabelledFeatures | None, texts: Tensor, bias: np.ndarray, steps: int
) -> tuple[np.ndarray, ...]:
    """w, alpha and b, in numpy: class sums, momentum, and alpha's gradient that is never set to zero."""
    x, t = (one(z).double().numpy() for z in (training.features.pooled, texts))
    y = np.eye(3)[training.labels.numpy()]
    N = len(x)
    w, b = y.T @ x, bias.copy()
    alpha = np.full(3, np.mean([250 * np.mean([x[i] @ t[k] for i in range(N) if y[i, k]]) for k in range(3)]))
    rate_w = 4 * N / np.linalg.eigvalsh(x.T @ x)[-1]
    rate_alpha = N / (4 * max(sum((x @ t[k]) ** 2) for k in range(3)))
    speed_w, speed_b, gathered = np.zeros_like(w), np.zeros_like(b), np.zeros(3)
    most, kept = -1.0, (w, alpha, b)

    def scores(z: np.ndarray) -> np.ndarray:
        return z @ w.T + b + alpha * (z @ t.T)

    for step in range(1, steps + 1):
        raw = np.exp(scores(x) - scores(x).max(1, keepdims=True))
        slope = (raw / raw.sum(1, keepdims=True) - y) / N
        gathered = gathered + np.array([sum(slope[:, k] * (x @ t[k])) for k in range(3)])
        speed_w, speed_b = 0.9 * speed_w + slope.T @ x, 0.9 * speed_b + slope.sum(0)
        w, b = w - rate_w * speed_w, b - rate_w * speed_b
        if step % 10 == 0:
            alpha = alpha - rate_alpha * gathered
        if validation is None:
            kept = w, alpha, b
            continue
        z = one(validation.features.pooled).double().numpy()
        right = np.mean(scores(z).argmax(1) == validation.labels.numpy())
        if right >= most:
            most, kept = right, (w, alpha, b)
    return kept


@pytest.mark.parametrize("steps", [1, 25])
@pytest.mark.parametrize("checked", [False, True])
def test_lpplusplus(steps: int, checked: bool) -> None:
    training, validation = clusters(1, 13), clusters(2, 6) if checked else None  # not equally many of each class
    model = LPPlusPlusModel(make_backbone(), NAMES, 7 * text(), settings(LPPLUSPLUS, ITERATIONS=steps))
    torch.manual_seed(0)
    model.prepare(training, validation)
    torch.manual_seed(0)
    bias = torch.empty(3).uniform_(-1, 1) / D**0.5
    want = released_lpplusplus(training, validation, text(), bias.double().numpy(), steps)
    for name, expected in zip(("w", "alpha", "bias"), want, strict=True):
        np.testing.assert_allclose(getattr(model, name).numpy(), expected, rtol=2e-3, atol=2e-3, err_msg=name)


def test_lpplusplus_draws_its_bias_as_a_linear_layer_does() -> None:
    drawn = []
    model = LPPlusPlusModel(make_backbone(), NAMES, text(), settings(LPPLUSPLUS))
    torch.manual_seed(0)
    for _ in range(200):
        model.start(one(clusters(1, 13).features.pooled), F.one_hot(clusters(1, 13).labels, 3).float())
        drawn.append(model.bias.clone())
    spread = torch.cat(drawn)
    assert spread.abs().max() <= D**-0.5
    assert spread.std().item() == pytest.approx(D**-0.5 / 3**0.5, rel=0.1)


# Tip-Adapter and Tip-Adapter-F (gaopengcuhk/Tip-Adapter).

RELEASED_GRIDS = {  # largest beta and alpha; 200 betas and 20 alphas throughout
    "caltech101": (12, 5), "dtd": (13, 13), "eurosat": (12, 10), "fgvc": (30, 30), "food101": (10, 10),
    "imagenet": (7, 3), "oxford_flowers": (50, 50), "oxford_pets": (7, 3), "stanford_cars": (20, 10),
    "sun397": (12, 10), "ucf101": (7, 3),
}  # fmt: skip


def test_the_grid_is_the_widest_of_the_release() -> None:
    beta, alpha = (max(pair[i] for pair in RELEASED_GRIDS.values()) for i in (0, 1))
    assert CACHE["SEARCH_SCALE"] == [beta, alpha]
    ours = [grid(end, count) for end, count in zip(CACHE["SEARCH_SCALE"], CACHE["SEARCH_STEP"], strict=True)]
    for tried, count, end in zip(ours, (200, 20), (beta, alpha), strict=True):
        theirs = [i * (end - 0.1) / count + 0.1 for i in range(count)]
        assert all(min(abs(value - other) for other in tried) < 1e-9 for value in theirs)


def test_tipadapterf_trains_its_keys_by_the_released_adamw() -> None:
    """Its eps of 1e-4 is as large as most gradients: with PyTorch's 1e-8, keys would move several times as far."""
    training, batch = clusters(1, 12), clusters(2, 9)
    model = TipAdapterFModel(make_backbone(), NAMES, 3 * text(), settings(TIPADAPTERF, INIT_ALPHA=1.17))
    model.prepare(training, None)
    cfg = get_cfg_default()
    cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.WEIGHT_DECAY = "adamw", 0.001, 0.01
    optimiser = build_optimizer(model, cfg.OPTIM, param_groups=model.parameter_groups(0.001))

    f, t, scale = one(batch.features.pooled).double(), text().double(), float(model.scale)
    keys = start = one(training.features.pooled).double()
    votes, target = F.one_hot(training.labels, 3).double(), F.one_hot(batch.labels, 3).double()
    mean, square = torch.zeros_like(keys), torch.zeros_like(keys)
    for step in range(1, 6):
        optimiser.zero_grad()
        model.losses(batch.features, batch.labels)["ce"].backward()
        optimiser.step()
        memory = torch.exp(-(1.0 - f @ keys.T))  # beta is 1
        logits = scale * f @ t.T + 1.17 * memory @ votes
        excess = (logits.softmax(1) - target) / len(f)
        slope = 1.17 * (memory * (excess @ votes.T)).T @ f
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        keys = keys * (1 - 0.001 * 0.01)
        keys = keys - 0.001 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-4)
    moved = (keys - start).abs().max()
    torch.testing.assert_close(model.keys.detach().double(), keys, atol=float(1e-3 * moved), rtol=0)


# PromptSRC (muzairkhattak/PromptSRC, trainers/promptsrc.py).


def test_promptsrc_speaks_the_released_templates() -> None:
    digest = hashlib.sha256("\n".join(sorted(IMAGENET)).encode()).hexdigest()  # of its IMAGENET_TEMPLATES, sorted
    assert digest == "8f771e15e049b36e398434aa16bf33a1da2a6b4ac682961301fb4c0f9d5d58c5"
    assert len(IMAGENET) == 60


@torch.no_grad()
def test_promptsrc_averages_raw_text_features(make_cfg: ConfigMaker) -> None:
    model = tiny_run.build(make_cfg("PromptSRC")).model
    names = [name.replace("_", " ") for name in tiny_run.NAMES]
    raw = torch.stack([model.backbone.encode_text([t.replace("{}", name) for t in IMAGENET]) for name in names])
    torch.testing.assert_close(model.frozen_text, one(raw.mean(1)), atol=1e-6, rtol=0)
    assert (one(one(raw).mean(1)) - model.frozen_text).abs().max() > 1e-4  # of unit features it would be another


def test_promptsrc_in_several_updates() -> None:
    backbone = make_backbone()
    torch.manual_seed(0)
    model = PromptSRCModel(backbone, NAMES, settings(PROMPTSRC, PROMPT_DEPTH_TEXT=2, PROMPT_DEPTH_VISION=2))
    images, scale = pictures(backbone), float(model.scale)
    with torch.no_grad():
        frozen_images = one(backbone.encode_image(images).pooled)
        frozen_text = torch.stack([
            one(torch.stack([backbone.encode_text(t.replace("{}", name))[0] for t in IMAGENET]).mean(0))
            for name in SPOKEN
        ])  # fmt: skip

    def loss(own: dict[str, Tensor]) -> Tensor:
        context = [own["ctx"], *own["text_prompts"]]
        t = one(torch.stack([plain_deep.text_feature(backbone.model, f"{name}.", context) for name in SPOKEN]))
        seen = [plain_deep.image_features(backbone.model, image, list(own["patch_prompts"]))[0] for image in images]
        f = one(torch.stack(seen))
        logits, taught = (scale * f @ t.T).log_softmax(1), (scale * frozen_images @ frozen_text.T).log_softmax(1)
        return (
            -logits[range(len(f)), LABELS].mean()
            + 25 * (t - frozen_text).abs().mean()
            + 10 * (f - frozen_images).abs().mean()
            + (taught.exp() * (taught - logits)).sum() / logits.numel()
        )

    def ours() -> Tensor:
        return model.loss(model.losses(model.encode_images(images), LABELS))

    assert_equal_updates(model, ours, loss, lr=0.0025)


# MaPLe (muzairkhattak/multimodal-prompt-learning, trainers/maple.py).


def test_maple_starts_later_maps_as_copies_of_one() -> None:
    model = MaPLeModel(make_backbone(), NAMES, settings(MAPLE, PROMPT_DEPTH=3))
    first, second, third = (layer.weight for layer in model.coupling)
    assert torch.equal(second, third)
    assert second.data_ptr() != third.data_ptr()  # each is trained for itself
    assert not torch.equal(first, second)
    assert torch.equal(model.coupling[1].bias, model.coupling[2].bias)


def test_maple_in_several_updates() -> None:
    backbone = make_backbone()
    torch.manual_seed(0)
    model = MaPLeModel(backbone, NAMES, settings(MAPLE, PROMPT_DEPTH=3))
    images, scale = pictures(backbone), float(model.scale)

    def loss(own: dict[str, Tensor]) -> Tensor:
        context = [own["ctx"], *own["text_prompts"]]
        patches = [p @ own[f"coupling.{j}.weight"].T + own[f"coupling.{j}.bias"] for j, p in enumerate(context)]
        t = one(torch.stack([plain_deep.text_feature(backbone.model, f"of a {name}.", context) for name in SPOKEN]))
        f = one(torch.stack([plain_deep.image_features(backbone.model, image, patches)[0] for image in images]))
        return -(scale * f @ t.T).log_softmax(1)[range(len(f)), LABELS].mean()

    assert_equal_updates(model, lambda: model.loss(model.losses(model.encode_images(images), LABELS)), loss, lr=0.0035)
    second, third = model.coupling[1].weight, model.coupling[2].weight
    assert not torch.equal(second, third)


# BiomedCoOp (HealthX-Lab/BiomedCoOp, trainers/BiomedCoOp/biomedcoop_clip.py).


def test_biomedcoop_in_several_updates() -> None:
    backbone = make_backbone()
    torch.manual_seed(0)
    model = BiomedCoOpModel(
        backbone, NAMES, settings(BIOMEDCOOP, SCCM_LAMBDA=0.75, KDSP_LAMBDA=2.0, TAU=1.25), SENTENCES
    )
    features, scale = backbone.encode_image(pictures(backbone)), float(model.scale)
    f = one(features.pooled)
    known = torch.stack([one(backbone.encode_text(sentences)) for sentences in SENTENCES])  # (C, N, D)
    scores = torch.stack([(scale * f @ known[:, n].T).max(1).values.mean() for n in range(known.shape[1])])
    z = (scores - scores.median()) / (scores - scores.median()).abs().median()
    kept = ((z - z.mean()) / z.std()).abs() <= 1.25
    assert 0 < kept.sum() < len(kept)
    teacher = (scale * f @ one(known[:, kept].mean(1)).T).log_softmax(1)

    def loss(own: dict[str, Tensor]) -> Tensor:
        t = one(torch.stack([plain_deep.text_feature(backbone.model, f"{name}.", [own["ctx"]]) for name in SPOKEN]))
        logits = (scale * f @ t.T).log_softmax(1)
        return (
            -logits[range(len(f)), LABELS].mean()
            + 0.75 * (t - one(known.mean(1))).square().mean()
            + 2.0 * (teacher.exp() * (teacher - logits)).sum() / logits.numel()
        )

    assert_equal_updates(model, lambda: model.loss(model.losses(features, LABELS)), loss, lr=0.0025)


RELEASED_WEIGHTS: dict[str, tuple[Any, Any]] = {  # SCCM_LAMBDA, KDSP_LAMBDA, TAU: few shots, base to new
    "btmri": ((0.5, 0.25, 1.5), (0.5, 0.5, 1.25)),
    "busi_biomedcoop": ((0.75, 0.75, 1.5), None),
    "chmnist": ((0.25, 0.25, 1.5), (10.0, 1.0, 1.5)),
    "covid_19": ((0.5, 2.0, 1.5), (20.0, 1.0, 1.25)),
    "ctkidney": ((1.0, 0.5, 1.5), (10.0, 0.25, 1.25)),
    "dermamnist_biomedcoop": ((5.0, 20.0, 1.5), (2.0, 0.5, 1.5)),
    "kneexray": ((5.0, 20.0, 1.75), (0.25, 3.0, 1.25)),
    "kvasir": ((0.75, 0.75, 1.5), (1.0, 1.0, 1.25)),
    "lungcolon": ((0.5, 0.5, 1.5), (0.25, 0.75, 1.25)),
    "octmnist_biomedcoop": ((1.0, 0.75, 1.5), (0.75, 0.5, 1.5)),
    "retina": ((0.25, 0.25, 1.5), (5.0, 1.0, 2.0)),
}


def in_use(dataset: str, *pairs: str) -> tuple[float, float, float]:
    """What BiomedCoOp trains with on a dataset, by its files alone."""
    words = ["--trainer", "BiomedCoOp", "--dataset-config-file", dataset, "--config-file", "vit_b16", *pairs]
    node = in_force(train.merged(train.parser().parse_intermixed_args(words)))
    return node.SCCM_LAMBDA, node.KDSP_LAMBDA, node.TAU


@pytest.mark.parametrize("name", RELEASED_WEIGHTS)
def test_biomedcoop_has_the_released_weights_of_each_set(name: str) -> None:
    few, new = RELEASED_WEIGHTS[name]
    assert in_use(name) == few
    for part in ("base", "new"):
        assert in_use(name, "DATASET.SUBSAMPLE_CLASSES", part) == (new or few)
    assert in_use(name, "TRAINER.BIOMEDCOOP.TAU", "3.0") == (*few[:2], 3.0)  # a user's word wins


@pytest.mark.parametrize(("name", "like"), [("busi", "busi_biomedcoop"), ("dermamnist", "dermamnist_biomedcoop"),
                                            ("octmnist", "octmnist_biomedcoop")])  # fmt: skip
def test_other_splits_of_the_same_images_have_the_same_weights(name: str, like: str) -> None:
    assert in_use(name) == in_use(like)


def test_sets_without_released_weights_have_chosen_ones_or_the_released_defaults() -> None:
    assert in_use("pathmnist") == in_use("derm7pt") == (1.0, 1.0, 1.5)
    for name in ("phantom", "phantom_chest", "pneumonia", "pneumoniamnist"):
        assert in_use(name, "--config-file", "phantom") in {few for few, _ in RELEASED_WEIGHTS.values()}
