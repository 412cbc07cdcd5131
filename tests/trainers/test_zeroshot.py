"""Zero-shot CLIP: the sentences it compares with, and that nothing else happens."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker

from xcoop.concepts import load_bank
from xcoop.concepts.sentences import clinical_features


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


def test_clinical_sentences_come_from_the_bank(make_cfg: ConfigMaker, pictures: Path) -> None:
    trainer = tiny_run.build(make_cfg("ZeroshotCLIP", "TRAINER.ZEROSHOTCLIP.CLINICAL", True))
    bank = load_bank(pictures / "bank.yaml").for_classes(tiny_run.NAMES)
    assert torch.equal(trainer.model.text_features(), clinical_features(trainer.backbone, bank))
    assert trainer.bank == bank


def test_it_trains_nothing_and_ends_with_the_lines_of_a_run(
    make_cfg: ConfigMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = tiny_run.trained(make_cfg("ZeroshotCLIP", "TEST.FINAL_MODEL", "best_val"))
    out = capsys.readouterr().out
    assert "epoch [" not in out
    assert out.index("Finish training") < out.index("* accuracy:")
    assert not list(Path(trainer.output_dir).rglob("model*"))
    assert (Path(trainer.output_dir) / "results.json").is_file()


def test_a_template_without_a_place_for_the_name_is_refused(make_cfg: ConfigMaker) -> None:
    with pytest.raises(ValueError, match=r"'a photo of a class'; it must be a sentence with \{\}"):
        tiny_run.build(make_cfg("ZeroshotCLIP", "TRAINER.ZEROSHOTCLIP.TEMPLATE", "a photo of a class"))
