"""KgCoOp against its loss in plain numbers; without its weight it is CoOp."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker

from xcoop.backbones import Backbone, ImageFeatures
from xcoop.trainers.kgcoop import DEFAULTS, KgCoOpModel

NAMES = ["melanoma", "blue_nevus", "clear lung"]
LABELS = torch.tensor([0, 2, 1, 0])
TEMPLATE = "a scan that shows {}."


def images(backbone: Backbone, n: int = 4) -> ImageFeatures:
    pooled = torch.randn(n, backbone.embed_dim, generator=torch.Generator().manual_seed(3))
    return ImageFeatures(pooled, pooled[:, None, :][:, :0])


def test_the_loss_is_cross_entropy_and_half_the_squared_distance(tiny_backbone: Backbone) -> None:
    settings = DEFAULTS.clone()
    settings.W = 3.0
    model = KgCoOpModel(tiny_backbone, NAMES, settings, TEMPLATE)
    with torch.no_grad():
        model.prompt_learner.ctx.normal_(std=0.5)
        parts = model.losses(images(tiny_backbone), LABELS)
        learned = model.text_features().double().numpy()
        sentences = ["a scan that shows melanoma.", "a scan that shows blue nevus.", "a scan that shows clear lung."]
        written = tiny_backbone.encode_text(sentences).double().numpy()

    squared = []
    for w, h in zip(learned, written, strict=True):
        squared.append(sum((w / np.linalg.norm(w) - h / np.linalg.norm(h)) ** 2))
    assert parts["distance"].item() == pytest.approx(3.0 * np.mean(squared) / 2, rel=1e-5)
    assert parts["distance"] > 0.1

    entropies = []
    for x, y in zip(images(tiny_backbone).pooled.double().numpy(), LABELS.tolist(), strict=True):
        cosines = [x @ w / np.linalg.norm(x) / np.linalg.norm(w) for w in learned]
        logits = model.scale.item() * np.array(cosines)
        entropies.append(np.log(np.exp(logits).sum()) - logits[y])
    assert parts["ce"].item() == pytest.approx(np.mean(entropies), rel=1e-5)
    assert parts.keys() == {"ce", "distance", "acc"}


def test_prompts_that_say_the_sentence_are_at_no_distance(tiny_backbone: Backbone) -> None:
    model = KgCoOpModel(tiny_backbone, NAMES, DEFAULTS.clone(), "a photo of a {}.")
    assert model.losses(images(tiny_backbone), LABELS)["distance"].item() == pytest.approx(0, abs=1e-5)


def test_without_its_weight_it_is_coop_bit_for_bit(make_cfg: ConfigMaker) -> None:
    keys = ("TRAINER.KGCOOP.W", 0.0, "TRAINER.KGCOOP.N_CTX", 16, "TRAINER.KGCOOP.CTX_INIT", "")
    ours = tiny_run.trained(make_cfg("KgCoOp", *keys))
    coop = tiny_run.trained(make_cfg("CoOp", output="coop"))
    assert torch.equal(ours.model.trained_state()["ctx"], coop.model.trained_state()["ctx"])


def test_the_more_weight_the_nearer_the_prompts_stay(make_cfg: ConfigMaker) -> None:
    gaps = []
    for weight in (0.0, 0.5, 4.0):
        keys = ("TRAINER.KGCOOP.W", weight, "OPTIM.MAX_EPOCH", 12, "OPTIM.WARMUP_EPOCH", -1)
        model = tiny_run.trained(make_cfg("KgCoOp", *keys, output=f"w{weight}")).model
        with torch.no_grad():
            cosines = torch.cosine_similarity(model.text_features(), model.hand_written)
        gaps.append(1 - cosines.mean().item())
    assert gaps[0] > 1.5 * gaps[1] > 2.25 * gaps[2], gaps


def test_the_sentence_is_the_datasets_unless_one_is_given(make_cfg: ConfigMaker) -> None:
    names = [name.replace("_", " ") for name in tiny_run.NAMES]
    for keys, template in (((), "a photo of a {}."), (("TRAINER.KGCOOP.TEMPLATE", TEMPLATE), TEMPLATE)):
        model = tiny_run.build(make_cfg("KgCoOp", *keys)).model
        expected = model.backbone.encode_text([template.format(name) for name in names])
        torch.testing.assert_close(model.hand_written, torch.nn.functional.normalize(expected, dim=-1))


@pytest.mark.parametrize(
    ("key", "value", "message"), [("W", -1.0, "of at least 0"), ("TEMPLATE", "a scan.", "with {} for")]
)
def test_settings_that_cannot_work_are_refused(key: str, value: object, message: str, make_cfg: ConfigMaker) -> None:
    with pytest.raises(ValueError, match=rf"TRAINER.KGCOOP.{key} .*{message}"):
        tiny_run.build(make_cfg("KgCoOp", f"TRAINER.KGCOOP.{key}", value))
