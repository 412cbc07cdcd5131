"""BiomedCoOp against its losses in plain numbers; a planted outlier is not listened to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker

import xcoop
from xcoop.backbones import Backbone, ImageFeatures
from xcoop.trainers.biomedcoop import DEFAULTS, BiomedCoOpModel

NAMES = ["melanoma", "blue_nevus", "clear lung"]
LABELS = torch.tensor([0, 2, 1, 0])
SENTENCES = [
    [f"{start} {name}{end}." for start in ("a", "the", "one") for end in ("", " on skin", " of a patient")]
    for name in ("melanoma", "blue nevus", "lung")
]


def made(backbone: Backbone, **keys: object) -> BiomedCoOpModel:
    settings = DEFAULTS.clone()
    settings.merge_from_list([part for pair in keys.items() for part in pair])
    torch.manual_seed(0)
    model = BiomedCoOpModel(backbone, NAMES, settings, SENTENCES)
    with torch.no_grad():
        model.prompt_learner.ctx.normal_(std=0.5)
    return model


def images(backbone: Backbone, n: int = 4) -> ImageFeatures:
    pooled = torch.randn(n, backbone.embed_dim, generator=torch.Generator().manual_seed(3))
    return ImageFeatures(pooled, pooled[:, None, :][:, :0])


def one(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


@torch.no_grad()
def test_the_parts_of_the_loss_in_plain_numbers(tiny_backbone: Backbone) -> None:
    model = made(tiny_backbone, SCCM_LAMBDA=5.0, KDSP_LAMBDA=20.0, TAU=0.8)
    parts = model.losses(images(tiny_backbone), LABELS)
    assert parts.keys() == {"ce", "sccm", "kdsp", "acc"}
    learned = [one(row) for row in model.text_features().double().numpy()]
    sentences = [[one(row) for row in tiny_backbone.encode_text(texts).double().numpy()] for texts in SENTENCES]
    pictures = [one(row) for row in images(tiny_backbone).pooled.double().numpy()]
    scale = model.scale.item()

    errors = [(w - one(np.mean(texts, axis=0))) ** 2 for w, texts in zip(learned, sentences, strict=True)]
    assert parts["sccm"].item() == pytest.approx(5.0 * np.mean(errors), rel=1e-4)

    scores = []
    for n in range(len(SENTENCES[0])):
        scores.append(np.mean([max(scale * x @ texts[n] for texts in sentences) for x in pictures]))
    deviations = np.abs(np.array(scores) - np.mean(scores))
    kept = [n for n, deviation in enumerate(deviations) if deviation <= 0.8 * np.std(scores, ddof=1)]
    assert 1 < len(kept) < len(scores)
    teachers = [one(np.mean([texts[n] for n in kept], axis=0)) for texts in sentences]
    divergences = []
    for x in pictures:
        p = softmax(np.array([scale * x @ w for w in learned]))
        q = softmax(np.array([scale * x @ t for t in teachers]))
        divergences.append(sum(q * np.log(q / p)))
    assert parts["kdsp"].item() == pytest.approx(20.0 * np.mean(divergences) / len(NAMES), rel=1e-3)


@torch.no_grad()
def test_a_planted_outlier_is_not_listened_to(tiny_backbone: Backbone) -> None:
    """Sentence 4 of every class is put where the images are: its score is far above all others."""
    model = made(tiny_backbone)
    features = images(tiny_backbone)
    clean = [n for n in range(model.sentences.shape[1]) if n != 4]
    model.settings.TAU = 1e6  # all are listened to
    torch.testing.assert_close(model.selected(features), model.sentences.mean(1))
    model.sentences[:, 4] = torch.nn.functional.normalize(features.pooled.mean(0), dim=0)
    model.settings.TAU = 2.0
    torch.testing.assert_close(model.selected(features), model.sentences[:, clean].mean(1))


def test_without_its_weights_it_is_coop_bit_for_bit(make_cfg: ConfigMaker) -> None:
    node = "TRAINER.BIOMEDCOOP."
    keys = (f"{node}SCCM_LAMBDA", 0.0, f"{node}KDSP_LAMBDA", 0.0, f"{node}N_CTX", 16, f"{node}CTX_INIT", "")
    ours = tiny_run.trained(make_cfg("BiomedCoOp", *keys))
    coop = tiny_run.trained(make_cfg("CoOp", output="coop"))
    assert torch.equal(ours.model.trained_state()["ctx"], coop.model.trained_state()["ctx"])


def test_sentences_of_the_bank_are_recorded_with_the_run(make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg("BiomedCoOp", "TRAINER.BIOMEDCOOP.N_PROMPTS", 3))
    assert trainer.bank.name == "spots"
    expected = trainer.backbone.encode_text("a photo of a dark spot, low brightness, deep shadow.")[0]
    assert trainer.model.sentences.shape[:2] == (2, 3)
    torch.testing.assert_close(trainer.model.sentences[0, 0], torch.nn.functional.normalize(expected, dim=-1))


def test_sentences_of_a_file_need_no_bank(make_cfg: ConfigMaker, tmp_path: Path) -> None:
    path = tmp_path / "sentences.json"
    path.write_text(json.dumps({"dark spot": ["a dark one.", "a dim one."], "bright_spot": ["a bright one."]}))
    keys = ("TRAINER.BIOMEDCOOP.SENTENCES", str(path), "TRAINER.BIOMEDCOOP.N_PROMPTS", 2)
    trainer = tiny_run.trained(make_cfg("BiomedCoOp", *keys, "DATASET.CONCEPT_BANK", "no-such-bank"))
    assert trainer.bank is None
    expected = trainer.backbone.encode_text(["a dark one.", "a dim one.", "a bright one.", "a bright one."])
    expected = torch.nn.functional.normalize(expected, dim=-1).unflatten(0, (2, 2))
    torch.testing.assert_close(trainer.model.sentences, expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("N_PROMPTS", 0, "at least 1"), ("TAU", 0.0, "above 0"), ("SCCM_LAMBDA", -1.0, "of at least 0")],
)
def test_settings_that_cannot_work_are_refused(key: str, value: object, message: str, make_cfg: ConfigMaker) -> None:
    with pytest.raises(ValueError, match=rf"TRAINER.BIOMEDCOOP.{key} .*{message}"):
        tiny_run.build(make_cfg("BiomedCoOp", f"TRAINER.BIOMEDCOOP.{key}", value))


def test_a_missing_file_of_sentences_is_named(make_cfg: ConfigMaker) -> None:
    assert xcoop  # answers to `import dassl`
    with pytest.raises(FileNotFoundError, match=r"no file of sentences .*nothing\.json"):
        tiny_run.build(make_cfg("BiomedCoOp", "TRAINER.BIOMEDCOOP.SENTENCES", "nothing.json"))
