"""Every configuration of every trainer merges, and fits the backbone that it names; files build on one another."""

from __future__ import annotations

from pathlib import Path

import pytest
from dassl.engine import TRAINER_REGISTRY
from yacs.config import CfgNode

from xcoop.backbones import backbone_names
from xcoop.backbones.presets import presets
from xcoop.cli import main
from xcoop.config.merge import config_names, merge_file, method_files, method_names, read_config_tree
from xcoop.config.plugins import get_cfg, trainer_names
from xcoop.trainers.xcoop_released import LOCAL
from xcoop.utils.console import UserError

CONFIGS = [(trainer, name) for trainer in trainer_names() for name in method_names(trainer)]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def config(trainer: str, name: str) -> CfgNode:
    cfg = get_cfg()
    for path in method_files(name, trainer):
        merge_file(cfg, path)
    return cfg


@pytest.mark.parametrize(("trainer", "name"), CONFIGS, ids="/".join)
def test_a_config_merges_and_fits_its_backbone(trainer: str, name: str) -> None:
    cfg = config(trainer, name)
    assert cfg.MODEL.BACKBONE.NAME in backbone_names()
    preset = presets().get(cfg.MODEL.BACKBONE.NAME)
    size = preset.size if preset else 64 if cfg.MODEL.BACKBONE.NAME == "phantom" else 224
    assert tuple(cfg.INPUT.SIZE) == (size, size)
    assert tuple(cfg.INPUT.PIXEL_MEAN) == (preset.mean if preset else MEAN)
    assert tuple(cfg.INPUT.PIXEL_STD) == (preset.std if preset else STD)
    assert cfg.INPUT.INTERPOLATION == "bicubic"
    assert "normalize" in cfg.INPUT.TRANSFORMS


@pytest.mark.parametrize("trainer", trainer_names())
def test_every_trainer_has_the_configs_that_runs_start_from(trainer: str) -> None:
    have = set(method_names(trainer))
    needs_vit = TRAINER_REGISTRY.get(trainer).needs_vit
    assert {"phantom", "vit_b16", "vit_b32"} <= have
    assert ("rn50" in have) is not needs_vit


@pytest.mark.parametrize("trainer", trainer_names())
def test_on_the_phantom_features_can_be_kept(trainer: str) -> None:
    cfg = config(trainer, "phantom")
    assert list(cfg.INPUT.TRANSFORMS) == ["normalize"]
    assert cfg.FEATURES.CACHE


@pytest.mark.parametrize("name", [name for name in config_names("backbones") if name != "phantom"])
def test_only_the_backbone_and_its_images_differ_between_those_of_a_kind(name: str) -> None:
    same = [config(trainer, cfg) for trainer in ("LASP", "XCoOp") for cfg in ("vit_b32", name)]
    preset = presets().get(same[1].MODEL.BACKBONE.NAME)
    for cfg in same:
        cfg.MODEL.BACKBONE.NAME = ""
        if preset:
            cfg.INPUT.SIZE = (preset.size, preset.size)
            cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(preset.mean), list(preset.std)
    assert (same[0] == same[1]) is not name.startswith("rn")  # LASP has a file of its own for vision transformers
    assert same[2] == same[3]


def test_every_preset_that_is_read_has_a_config_and_no_other() -> None:
    named = {config("CoOp", name).MODEL.BACKBONE.NAME for name in config_names("backbones")}
    assert named & set(presets()) == {name for name, preset in presets().items() if preset.family}


def test_as_published_has_the_settings_of_the_released_code_where_they_carry_over() -> None:
    """Of the released configs/XCoOp/vit_b16_c4_batch32_pneumonia.yaml; that it selects by test images is not kept."""
    released, published = config("XCoOpReleased", "vit_b16"), config("XCoOpPublished", "vit_b16")
    assert published.OPTIM == released.OPTIM
    assert (published.OPTIM.LR, published.OPTIM.MAX_EPOCH, published.OPTIM.WARMUP_EPOCH) == (0.032, 120, 5)
    assert (published.OPTIM.MOMENTUM, published.OPTIM.WEIGHT_DECAY) == (0.9, 5e-4)
    assert published.INPUT == released.INPUT
    assert published.DATALOADER.TRAIN_X == released.DATALOADER.TRAIN_X
    ours, theirs = published.TRAINER.XCOOPPUBLISHED, released.TRAINER.XCOOPRELEASED
    shared = ours.keys() & theirs.keys()
    assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}
    assert (ours.LOCAL_WEIGHT, ours.LOCAL_POOL) == (LOCAL, "mean")


@pytest.mark.parametrize("trainer", ["MaPLe", "PromptSRC", "LASP"])
def test_what_trains_inside_the_image_tower_computes_in_what_the_hardware_has(trainer: str) -> None:
    assert config(trainer, "vit_b16").TRAINER[trainer.upper()].PREC == "auto"
    assert config(trainer, "phantom").TRAINER[trainer.upper()].PREC == "fp32"


def test_by_path_as_coop_users_write_it() -> None:
    assert method_files("configs/trainers/LASP/vit_b32.yaml", "") == method_files("vit_b32", "LASP")
    assert [path.name for path in method_files("vit_b32", "LASP")] == ["vit_b32.yaml", "vit.yaml"]
    assert [path.name for path in method_files("rn50", "LASP")] == ["rn50.yaml", "clip.yaml"]
    with pytest.raises(UserError, match="Did you mean 'vit_b16'"):
        method_files("configs/trainers/CoOp/vit_b17.yaml", "")


@pytest.mark.parametrize(("trainer", "name"), [("XCoOp", "vit_b16"), ("LASP", "vit_l14"), ("CoOp", "phantom")])
def test_other_programmes_get_one_plain_file(
    trainer: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path))
    assert main(["path", f"configs/trainers/{trainer}/{name}.yaml"]) == 0
    path = capsys.readouterr().out.strip()
    cfg = get_cfg()
    cfg.merge_from_file(path)  # yacs' own
    assert cfg == config(trainer, name)


class TestBases:
    def test_later_files_win(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "a.yaml").write_text("OPTIM: {LR: 1.0, NAME: sgd}\nSEED: 1\n")
        (tmp_path / "sub" / "b.yaml").write_text("_BASE_: ../a.yaml\nOPTIM: {LR: 2.0}\n")
        (tmp_path / "c.yaml").write_text("_BASE_: [sub/b.yaml, a.yaml]\nSEED: 3\n")
        assert read_config_tree(tmp_path / "sub" / "b.yaml") == {"OPTIM.LR": 2.0, "OPTIM.NAME": "sgd", "SEED": 1}
        assert read_config_tree(tmp_path / "c.yaml") == {"OPTIM.LR": 1.0, "OPTIM.NAME": "sgd", "SEED": 3}

    @pytest.mark.parametrize(
        ("base", "message"),
        [
            ("own.yaml", "leads in a circle: .*own.yaml -> .*own.yaml"),
            ("nowhere.yaml", "own.yaml: _BASE_ names .*nowhere.yaml, which is not there"),
            ("7", "_BASE_ must be a path or a list of paths, not 7"),
            ("[[a]]", "_BASE_ must be a path or a list of paths"),
            ("list.yaml", "list.yaml must hold keys and values, not a list"),
        ],
    )
    def test_what_is_no_base_is_refused(self, base: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "list.yaml").write_text("[1]")
        (tmp_path / "own.yaml").write_text(f"_BASE_: {base}\n")
        with pytest.raises(UserError, match=message):
            merge_file(get_cfg(), tmp_path / "own.yaml")
