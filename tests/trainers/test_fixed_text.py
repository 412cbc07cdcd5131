"""Fixed sentences of every method that has them: templates, clinical sentences, ensembles."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker
from torch.nn.functional import normalize

from xcoop.concepts import load_bank
from xcoop.concepts.sentences import clinical_features
from xcoop.methods.model import best_setting, validation_scores

METHODS = ["ZeroshotCLIP", "CLIPAdapter", "TipAdapter", "TipAdapterF", "LPPlusPlus", "TaskRes"]


def text_of(make_cfg: ConfigMaker, name: str, **keys: object) -> tuple[torch.Tensor, object]:
    pairs = [item for key, value in keys.items() for item in (f"TRAINER.{name.upper()}.{key}", value)]
    trainer = tiny_run.build(make_cfg(name, *pairs))
    return normalize(trainer.model.text, dim=-1), trainer.backbone


@pytest.mark.parametrize("name", METHODS)
def test_an_ensemble_is_the_mean_of_unit_features(name: str, make_cfg: ConfigMaker) -> None:
    keys = {"TEMPLATE": "{}, magnified", "ENSEMBLE": "templates", "TEMPLATES": ["a scan of {}.", "{}, magnified", "{}"]}
    text, backbone = text_of(make_cfg, name, **keys)
    for row, word in zip(text, ["dark spot", "bright spot"], strict=True):
        each = [backbone.encode_text([t])[0] for t in (f"{word}, magnified", f"a scan of {word}.", word)]
        mean = sum(feature / feature.norm() for feature in each) / 3
        torch.testing.assert_close(row, mean / mean.norm(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_an_ensemble_of_concepts_has_a_sentence_for_each(name: str, make_cfg: ConfigMaker) -> None:
    text, backbone = text_of(make_cfg, name, ENSEMBLE="concepts")
    sentences = ["a photo of a dark_spot, low brightness.", "a photo of a dark_spot, deep shadow."]
    mean = normalize(backbone.encode_text(sentences), dim=-1).mean(0)
    torch.testing.assert_close(text[0], mean / mean.norm(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_the_clinical_sentences_are_those_of_the_bank(name: str, make_cfg: ConfigMaker, pictures: Path) -> None:
    text, backbone = text_of(make_cfg, name, CLINICAL=True)
    bank = load_bank(pictures / "bank.yaml").for_classes(tiny_run.NAMES)
    torch.testing.assert_close(text, clinical_features(backbone, bank))


def test_scores_count_correct_images_and_then_their_cross_entropy() -> None:
    labels = torch.tensor([0, 1])
    right = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    table = validation_scores(torch.stack([right.flip(1), right, 2 * right, right / 2]), labels)
    assert table[:, 0].tolist() == [0, 2, 2, 2]
    assert table[1, 1].item() == pytest.approx(-torch.log(1 + torch.exp(torch.tensor(-2.0))).item())
    assert best_setting(table) == 2
    assert best_setting(table[[1, 1]]) == 0


# Zero-shot CLIP


@pytest.mark.parametrize(
    ("template", "sentences"),
    [
        ("", ["a photo of a dark spot.", "a photo of a bright spot."]),
        ("{}, magnified", ["dark spot, magnified", "bright spot, magnified"]),
    ],
)
def test_class_names_go_into_the_template(template: str, sentences: list[str], make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg("ZeroshotCLIP", "TRAINER.ZEROSHOTCLIP.TEMPLATE", template))
    clip = trainer.backbone.model
    images = next(iter(trainer.dm.test_loader))["img"]
    with torch.no_grad():
        text = clip.encode_text(trainer.backbone.tokenize(sentences))
        image = clip.encode_image(images)
    cosines = torch.cosine_similarity(image[:, None], text[None], dim=-1)
    torch.testing.assert_close(trainer.model(images), clip.logit_scale.exp() * cosines, atol=1e-5, rtol=0)


def test_a_dataset_may_bring_its_template(make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny_run.build(make_cfg("ZeroshotCLIP", "TRAINER.ZEROSHOTCLIP.TEMPLATE", "an x-ray of {}."))
    monkeypatch.setattr(tiny_run.TinyImages, "template", "an x-ray of {}.", raising=False)
    own = tiny_run.build(make_cfg("ZeroshotCLIP"))
    assert torch.equal(own.model.text_features(), plain.model.text_features())


def test_it_trains_nothing_and_ends_with_the_lines_of_a_run(
    make_cfg: ConfigMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny_run.trained(make_cfg("ZeroshotCLIP", "TEST.FINAL_MODEL", "best_val"))
    out = capsys.readouterr().out
    assert "epoch [" not in out
    assert out.index("Finish training") < out.index("* accuracy:")
    assert not list(Path(trainer.output_dir).rglob("model*"))
    assert (Path(trainer.output_dir) / "results.json").is_file()
