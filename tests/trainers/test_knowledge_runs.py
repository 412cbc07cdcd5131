"""XCoOp under each kind of knowledge: it trains, and all that it ties prompts to is the knowledge in question."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker

from xcoop.concepts.sentences import KNOWLEDGE
from xcoop.config.merge import config_hash
from xcoop.results.benchmark import parse_folder
from xcoop.runs.plan import make_plans

KEY = "TRAINER.XCOOP.KNOWLEDGE"
CONTROLS = [kind for kind in KNOWLEDGE if kind != "bank"]


@pytest.mark.parametrize("knowledge", CONTROLS)
@pytest.mark.parametrize("trainer", ["XCoOp", "XCoOpPublished", "XCoOpReleased"])
def test_each_control_trains_and_is_recorded(trainer: str, knowledge: str, make_cfg: ConfigMaker) -> None:
    key = f"TRAINER.{trainer.upper()}.KNOWLEDGE"
    made = tiny_run.trained(make_cfg(trainer, key, knowledge))
    bank = tiny_run.build(make_cfg(trainer, output="bank"))
    record = json.loads(Path(made.output_dir, "results.json").read_text())
    assert record["config_hash"] == config_hash(made.cfg) != config_hash(bank.cfg)
    assert record["bank"]["sha256"] == bank.bank.sha256


def test_the_sentences_are_those_of_the_knowledge_in_question(make_cfg: ConfigMaker) -> None:
    def texts(knowledge: str, seed: int = 1) -> list[str]:
        trainer = tiny_run.build(make_cfg("XCoOp", KEY, knowledge, "SEED", seed))
        found: list[str] = trainer.model.prompt_learner.texts
        return found

    assert texts("bank")[:2] == ["a photo of a dark spot, low brightness.", "a photo of a dark spot, deep shadow."]
    swapped = ["a photo of a dark spot, high brightness.", "a photo of a dark spot, white glow."]
    assert texts("shuffled")[:2] == swapped
    assert texts("none") == ["a photo of a dark spot.", "a photo of a bright spot."]
    assert len(texts("random")) == 4
    assert texts("random") == texts("random")
    assert not set(texts("random")) & set(texts("bank"))
    assert texts("random") != texts("random", seed=2)


@pytest.mark.parametrize("trainer", ["XCoOpPublished", "XCoOpReleased"])
def test_without_concepts_there_is_no_token_term(trainer: str, make_cfg: ConfigMaker) -> None:
    found = {}
    for knowledge in ("bank", "none"):
        made = tiny_run.build(make_cfg(trainer, f"TRAINER.{trainer.upper()}.KNOWLEDGE", knowledge, output=knowledge))
        features, labels = made.parse_batch_train(next(iter(made.train_loader_x)))
        found[knowledge] = made.model.losses(features, labels)
    assert found["bank"]["token"].item() != 0
    assert found["none"].get("token", torch.zeros(())).item() == 0
    assert found["none"]["prompt"].item() != 0


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
