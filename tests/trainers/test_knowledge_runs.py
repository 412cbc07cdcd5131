"""XCoOp under each kind of knowledge: it trains, and all that it ties prompts to is the knowledge in question."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker

from xcoop.concepts.sentences import KNOWLEDGE, clinical_features, shares
from xcoop.config.merge import config_hash
from xcoop.methods.prompts import context_from_words
from xcoop.results.benchmark import parse_folder
from xcoop.runs.plan import make_plans

KEY = "TRAINER.XCOOP.KNOWLEDGE"
CONTROLS = [kind for kind in KNOWLEDGE if kind != "bank"]


@pytest.mark.parametrize("knowledge", CONTROLS)
def test_each_control_trains_and_is_recorded(knowledge: str, make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.trained(make_cfg("XCoOp", KEY, knowledge))
    bank = tiny_run.build(make_cfg("XCoOp", output="bank"))
    assert trainer.model.prompt_learner.ctx.shape == bank.model.prompt_learner.ctx.shape  # as many numbers to train
    record = json.loads(Path(trainer.output_dir, "results.json").read_text())
    assert record["config_hash"] == config_hash(trainer.cfg) != config_hash(bank.cfg)
    assert record["bank"]["sha256"] == bank.bank.sha256


def test_swapped_concepts_reach_every_part_of_the_model(make_cfg: ConfigMaker) -> None:
    pairs = ("TRAINER.XCOOP.N_PROMPTS", 1, "TRAINER.XCOOP.SENTENCES", "whole")
    own = tiny_run.build(make_cfg("XCoOp", *pairs)).model
    swapped = tiny_run.build(make_cfg("XCoOp", *pairs, KEY, "shuffled"))
    model, words = swapped.model, "high brightness, white glow"
    start = context_from_words(model.backbone, words)
    assert torch.equal(model.prompt_learner.ctx[0, 0, : len(start)], start[:8])
    assert torch.equal(model.concepts[0], own.concepts[1])
    sentence = "a photo of a dark_spot, high brightness, white glow."
    want = torch.nn.functional.normalize(model.backbone.encode_text([sentence]), dim=-1)[0]
    for features in (model.clinical[0, 0], model.text_features()[0, 0]):
        torch.testing.assert_close(features, want)
    assert model.bank.texts("dark_spot") == ["high brightness", "white glow"]  # what explanations will speak of


def test_unrelated_concepts_differ_with_the_seed(make_cfg: ConfigMaker) -> None:
    pairs = (KEY, "random", "TRAINER.XCOOP.N_PROMPTS", 2, "TRAINER.XCOOP.SENTENCES", "share")
    one, two = (tiny_run.build(make_cfg("XCoOp", *pairs, "SEED", seed)) for seed in (1, 2))
    assert [len(one.model.bank.texts(name)) for name in tiny_run.NAMES] == [2, 2]
    assert one.model.bank.classes != two.model.bank.classes
    for k, share in enumerate(shares(one.model.bank, 2)):
        torch.testing.assert_close(one.model.clinical[k], clinical_features(one.backbone, share))


@pytest.mark.parametrize("variant", ["aligned", "released"])
def test_without_concepts_there_is_no_token_term(variant: str, make_cfg: ConfigMaker) -> None:
    pairs = ("TRAINER.XCOOP.VARIANT", variant, "TRAINER.XCOOP.TOKEN_WEIGHT", 5.0)
    found = {}
    for knowledge in ("bank", "none"):
        trainer = tiny_run.build(make_cfg("XCoOp", *pairs, KEY, knowledge, output=f"{variant}-{knowledge}"))
        features, labels = trainer.parse_batch_train(next(iter(trainer.train_loader_x)))
        found[knowledge] = trainer.model.losses(features, labels)
    assert found["bank"]["token"].item() != 0
    assert found["none"].get("token", torch.zeros(())).item() == 0
    assert found["none"]["prompt"].item() != 0


def test_without_concepts_prompts_start_from_the_template_and_differ(make_cfg: ConfigMaker) -> None:
    model = tiny_run.build(make_cfg("XCoOp", KEY, "none")).model
    words = context_from_words(model.backbone, "a photo of a")
    torch.testing.assert_close(model.prompt_learner.ctx[0, 0, : len(words)], words, atol=0.12, rtol=0)
    assert not torch.equal(model.prompt_learner.ctx[0], model.prompt_learner.ctx[1])


def test_the_kinds_stand_in_rows_of_their_own() -> None:
    words = ["phantom", "1", "XCoOp", "phantom", KEY]
    folders = [make_plans([*words, kind], "data", "out", (1,))[0].folder for kind in KNOWLEDGE]
    labels = [parse_folder(folder).label for folder in folders]
    assert labels == ["phantom", "phantom knowledge-shuffled", "phantom knowledge-random", "phantom knowledge-none"]


# A run says once by which concepts it goes, and who has read them.


def lines(trainer: str, data: Path, weights: Path, out: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tiny_run.build(tiny_run.config(trainer, data, weights, out, "OPTIM.MAX_EPOCH", 1))
    return [record.getMessage() for record in caplog.records if "concept bank" in record.getMessage()]


def test_the_bank_is_stated_once(
    pictures: Path, tiny_weights_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stated = lines("XCoOp", pictures, tiny_weights_file, tmp_path / "x", caplog)
    assert stated == ["concept bank spots 1: 2 + 2 concepts, reviewed by nobody so far"]
    assert lines("CoOp", pictures, tiny_weights_file, tmp_path / "c", caplog) == [], "it uses no bank"


def test_its_readers_are_named(tiny_weights_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tiny_run.draw(tmp_path / "data")
    text = (data / "bank.yaml").read_text().replace("reviewed_by: []", "reviewed_by: [A. Reader, B. Reader]")
    (data / "bank.yaml").write_text(text)
    (stated,) = lines("XCoOp", data, tiny_weights_file, tmp_path / "x", caplog)
    assert stated.endswith("reviewed by A. Reader, B. Reader")
