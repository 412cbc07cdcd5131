"""Our trainers in somebody else's programme: a CoOp fork's config, names, and `train.py`, which knows nothing of us."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
import torch
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import Registry
from PIL import Image
from tiny_run import ConfigMaker, TinyImages, table_of
from yacs.config import CfgNode

import xcoop
from xcoop.config import plugins
from xcoop.config.merge import config_hash, read_config
from xcoop.config.plugins import get_cfg
from xcoop.engine.config import flatten
from xcoop.explain.report import test_images as known_images
from xcoop.results.record import UNTRAINED, read_run
from xcoop.trainers.coop import CoOp
from xcoop.training import trainer as training
from xcoop.utils.console import UserError


def theirs(cfg: CfgNode, **keys: Any) -> CfgNode:
    """A config in which a programme has set keys (dotted, `__` for the dot) after `plug_in`, and added some."""
    own = cfg.clone()
    own.defrost()
    for key, value in keys.items():
        *above, leaf = key.split("__")
        node = own
        for name in above:
            node = node.setdefault(name, CfgNode())
        node[leaf] = CfgNode(value) if isinstance(value, dict) else value
    own.freeze()
    return own


FOREIGN = {
    "WANDB": False,
    "FEATURES": None,
    "DATASET__SIZE": "large",
    "DATASET__CLASSES": 7,
    "DATASET__INCLUDE_ALL_CLASSES": False,
    "DATASET__HYGIENE": {"STRICT": True},
    "MODEL__BACKBONE__PATH": None,
    "TRAINER__XCOOP": True,
    "TRAINER__XCoOp": {"ENABLE": True, "XCoOp_PROMPTS": ["a photo of {}"], "DIR": None},
    "TRAINER__COOP__CTX_INIT": False,
    "LOSS__GM": False,
}


class Theirs(TinyImages):
    """A programme's own dataset, which reads a key that we read otherwise."""

    seen: Any = None

    def __init__(self, cfg: CfgNode) -> None:
        type(self).seen = cfg.DATASET.SIZE
        super().__init__(cfg)


@pytest.mark.parametrize("trainer", ["CoOp", "XCoOp"])
def test_keys_that_a_programme_uses_otherwise(
    trainer: str, make_cfg: ConfigMaker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table_of(DATASET_REGISTRY), "Theirs", Theirs)
    plain = make_cfg(trainer, "DATASET.NAME", "Theirs")
    foreign = FOREIGN | {"MODEL__BACKBONE__PATH": plain.MODEL.BACKBONE.PATH}  # the weights are needed
    cfg = theirs(plain, **foreign)
    before = cfg.dump()
    run = tiny_run.trained(cfg)
    assert cfg.dump() == before
    assert Theirs.seen == "large"
    said = "\n".join(record.getMessage() for record in caplog.records)
    own = "TRAINER.XCOOP is True" if trainer == "XCoOp" else "TRAINER.COOP.CTX_INIT is False"
    for line in ("WANDB is False", "FEATURES is None", "DATASET.SIZE is 'large'", "DATASET.CLASSES is 7", own):
        assert line in said
    assert ("CTX_INIT" in said) == (trainer == "CoOp")  # other trainers' keys are none of its business
    assert run.cfg.WANDB == get_cfg().WANDB
    assert run.cfg.DATASET.INCLUDE_ALL_CLASSES is False
    model = xcoop.load_run(run.output_dir)
    images = [str(path) for path in sorted(Path(cfg.DATASET.ROOT, "test").glob("*.png"))[:3]]
    assert model.predict(images).probabilities.shape == (3, 2)


@pytest.mark.parametrize("value", [None, 1.5, "x", True, 3, ["x"], CfgNode({"A": 1})], ids=repr)
def test_every_key_of_another_type_has_our_default(value: Any) -> None:
    keys = [CfgNode({**plugins.SHARED, "TRAINER": {"XCOOP": get_cfg().TRAINER.XCOOP}})]
    ours, cfg = flatten(keys[0]), get_cfg()
    for key in ours:
        *above, leaf = key.split(".")
        node = reduce(dict.__getitem__, above, cfg)
        dict.__setitem__(node, leaf, value)
    view = flatten(plugins.own_view(cfg, "XCOOP"))
    for key, default in ours.items():
        same = type(value) is type(default) or (type(value), type(default)) == (int, float)
        assert view[key] == (value if same else default), key


def test_our_datasets_read_a_programmes_config_as_ours(tmp_path: Path) -> None:
    from xcoop.datasets.folder import Folder

    for label in ("leaf", "root"):
        for number in range(8):
            picture = np.random.default_rng([ord(label[0]), number]).integers(0, 255, (32, 32, 3), np.uint8)
            (tmp_path / label).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / label / f"{number}.png")
    cfg = get_cfg()
    cfg.DATASET.PATH = str(tmp_path)
    foreign = {key: FOREIGN[key] for key in ("DATASET__HYGIENE", "DATASET__CLASSES")}
    assert Folder(theirs(cfg, **foreign, DATASET__TASK=None)).classnames == ["leaf", "root"]


def test_a_folder_with_a_file_of_somebody_elses_is_refused(make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg("CoOp"))
    file = Path(trainer.output_dir, "config.yaml")
    file.parent.mkdir()
    file.write_text("colour: blue\n")
    with pytest.raises(FileExistsError, match="not written by xcoop"):
        trainer.train()
    assert file.read_text() == "colour: blue\n"
    assert [path.name for path in file.parent.iterdir()] == ["config.yaml"]


def test_what_our_own_programme_sets_stays_as_it_is() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["DATASET.CLASSES", ("a", "b"), "DATASET.SIZE", 28, "WANDB.PROJECT", "p", "SEED", 3])
    cfg.merge_from_list(["TRAINER.XCOOP.LOCAL_WEIGHT", 0.5, "TRAINER.NAME", "XCoOp"])
    assert plugins.own_view(cfg, "XCOOP") == cfg


class Other:
    """Another programme's trainer."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg


def test_a_name_that_is_taken_stays_theirs_and_ours_has_a_prefix(
    make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table_of(TRAINER_REGISTRY), "CoOp", Other)
    monkeypatch.setitem(table_of(DATASET_REGISTRY), "Phantom", Other)
    try:
        plugins.load_plugins()
        plugins.load_plugins()
        assert isinstance(tiny_run.build(make_cfg("CoOp")), Other)
        run = tiny_run.trained(make_cfg("xcoop.CoOp"))
        assert type(DATASET_REGISTRY.get("xcoop.Phantom")).__name__ == "function"
        assert isinstance(run, CoOp)
        assert plugins.trainer_class("CoOp") is CoOp
        record = read_run(Path(run.output_dir))
        assert record is not None
        assert record["trainer"] == "CoOp"
        assert xcoop.load_run(run.output_dir).cfg.TRAINER.NAME == "CoOp"
    finally:
        for registry in (TRAINER_REGISTRY, DATASET_REGISTRY):
            for name in [name for name in registry.registered_names() if name.startswith("xcoop.")]:
                del table_of(registry)[name]
    with pytest.raises(ValueError, match=r"'KoOp'.*CoOp"):
        plugins.trainer_class("KoOp")


def test_registering_twice_changes_nothing() -> None:
    registry = Registry("TRAINER")
    registry.register(Other)
    for _ in range(2):
        plugins._register(registry, {"Other": CoOp, "CoOp": CoOp})
    assert sorted(registry.registered_names()) == ["CoOp", "Other", "xcoop.Other"]
    assert registry.get("Other") is Other
    assert registry.get("CoOp") is CoOp


def test_the_run_leaves_its_config_whoever_launched_it(make_cfg: ConfigMaker) -> None:
    cfg = make_cfg("XCoOp")
    trainer = tiny_run.trained(cfg)
    folder = Path(trainer.output_dir)
    record = read_run(folder)
    assert record is not None
    assert {"config.yaml", "results.json", "predictions.csv"} <= {path.name for path in folder.iterdir()}
    assert config_hash(read_config(folder / "config.yaml")) == record["config_hash"] == config_hash(cfg)
    assert record["started"] <= record["finished"]
    assert torch.equal(xcoop.load_run(folder).model.prompt_learner.words, trainer.model.prompt_learner.words)


def test_an_evaluation_says_whose_weights_it_is_of(make_cfg: ConfigMaker) -> None:
    source = tiny_run.trained(make_cfg("CoOp", output="source")).output_dir
    for directory, epoch, said in ((source, None, source), (source, 1, source), ("", None, UNTRAINED)):
        trainer = tiny_run.build(make_cfg("CoOp", output=f"evaluation{epoch}{len(directory)}"))
        trainer.load_model(directory, epoch=epoch)
        trainer.test()
        record = read_run(Path(trainer.output_dir))
        assert record is not None
        assert (record["evaluated_from"], record["load_epoch"]) == (said, epoch)
        loaded = xcoop.load_run(trainer.output_dir)
        assert torch.equal(loaded.model.prompt_learner.ctx, trainer.model.prompt_learner.ctx)


def test_weights_loaded_before_a_training_make_no_evaluation_of_it(make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg("CoOp"))
    trainer.load_model(None, 10)  # as two forks do
    trainer.train()
    record = read_run(Path(trainer.output_dir))
    assert record is not None
    assert record["evaluated_from"] is None


def test_a_folder_with_another_run_is_refused_before_anything_is_trained(make_cfg: ConfigMaker) -> None:
    first = tiny_run.trained(make_cfg("CoOp"))
    before = {path: path.read_bytes() for path in Path(first.output_dir).rglob("*") if path.is_file()}
    trainer = tiny_run.build(make_cfg("CoOp", "OPTIM.LR", 0.5))
    with pytest.raises(UserError, match=r"other settings:\n  OPTIM.LR: 0.01 there, 0.5 now"):
        trainer.train()
    assert {path: path.read_bytes() for path in Path(first.output_dir).rglob("*") if path.is_file()} == before


def test_an_engine_whose_optimisers_take_no_groups_by_name(
    make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = training.build_optimizer
    monkeypatch.setattr(training, "build_optimizer", lambda model, optim_cfg: build(model, optim_cfg))  # as in 0.5.0
    assert tiny_run.build(make_cfg("XCoOp")).optim.param_groups


def test_a_run_on_a_dataset_of_another_programme_is_read_without_it(
    make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table_of(DATASET_REGISTRY), "Theirs", Theirs)
    run = tiny_run.trained(make_cfg("XCoOp", "DATASET.NAME", "Theirs"))
    monkeypatch.delitem(table_of(DATASET_REGISTRY), "Theirs")
    model = xcoop.load_run(run.output_dir)
    assert model.bank is not None
    with pytest.raises(ValueError, match=r"its dataset Theirs is none of xcoop's.*name the images"):
        known_images(model)
