"""Every YAML file of every trainer: it merges, and fits the backbone that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from dassl.engine import TRAINER_REGISTRY

from xcoop.backbones import backbone_names
from xcoop.config.defaults import get_cfg
from xcoop.config.merge import config_file, config_names, method_folder
from xcoop.config.plugins import plugin_path, trainer_names

FILES = sorted(plugin_path("configs", "trainers").glob("*/*.yaml"))
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_merges_and_fits_its_backbone(path: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    assert path.parent.name in trainer_names()
    assert cfg.MODEL.BACKBONE.NAME in backbone_names()
    assert tuple(cfg.INPUT.SIZE) == ((64, 64) if cfg.MODEL.BACKBONE.NAME == "phantom" else (224, 224))
    assert tuple(cfg.INPUT.PIXEL_MEAN) == MEAN
    assert tuple(cfg.INPUT.PIXEL_STD) == STD
    assert cfg.INPUT.INTERPOLATION == "bicubic"
    assert "normalize" in cfg.INPUT.TRANSFORMS


@pytest.mark.parametrize("trainer", trainer_names())
def test_every_trainer_has_the_configs_that_runs_start_from(trainer: str) -> None:
    have = set(config_names(*method_folder(trainer)))
    needs_vit = TRAINER_REGISTRY.get(trainer).needs_vit
    assert {"phantom", "vit_b16", "vit_b32"} <= have
    assert ("rn50" in have) is not needs_vit


@pytest.mark.parametrize("trainer", trainer_names())
def test_on_the_phantom_features_can_be_kept(trainer: str) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(config_file("phantom", *method_folder(trainer))))
    assert list(cfg.INPUT.TRANSFORMS) == ["normalize"]
    assert cfg.FEATURES.CACHE
