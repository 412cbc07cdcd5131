"""Runs on backbones that are not OpenAI's: what was loaded is recorded, and none is taken for another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from helpers_families import OPEN_CLIP, hugging_face_folder, open_clip_folder
from tiny_run import ConfigMaker

from xcoop import load_run

GELU = OPEN_CLIP | {"quick_gelu": False, "vision_cfg": OPEN_CLIP["vision_cfg"] | {"head_width": 32}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {
        "open_clip": open_clip_folder(root / "open_clip", GELU),
        "huggingface": hugging_face_folder(root / "huggingface"),
    }


def record(trainer: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(trainer.output_dir, "results.json").read_text())
    return content


@pytest.mark.parametrize("family", ["open_clip", "huggingface"])
@pytest.mark.parametrize("name", ["CoOp", "MaPLe", "CLIPLoRA", "XCoOp"])
def test_it_trains_and_is_recorded(name: str, family: str, folders: dict[str, Path], make_cfg: ConfigMaker) -> None:
    pairs = ("MODEL.BACKBONE.NAME", family, "MODEL.BACKBONE.PATH", str(folders[family]), "OPTIM.MAX_EPOCH", 1)
    trainer = tiny_run.trained(make_cfg(name, *pairs))
    said = record(trainer)
    assert (said["backbone"], said["weights"]) == (family, folders[family].name), "no folder of this machine"
    assert said["architecture"] == trainer.backbone.architecture
    assert ("image tower with gelu, 4 heads of width 32" in said["architecture"]) == (family == "open_clip")
    again = load_run(trainer.output_dir)
    assert again.backbone.fingerprint() == said["backbone_sha256"]


def test_the_same_weights_computed_otherwise_are_another_backbone(
    tiny_weights_file: Path, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the cache of features nor a finished run mistakes one for the other."""
    stated = ("MODEL.BACKBONE.ACTIVATION", "gelu", "MODEL.BACKBONE.HEAD_WIDTH", 32)
    plain = tiny_run.trained(make_cfg("CoOp", "OPTIM.MAX_EPOCH", 1, output="plain"))
    other = tiny_run.trained(make_cfg("CoOp", "OPTIM.MAX_EPOCH", 1, *stated, output="other"))
    fresh = tiny_run.trained(make_cfg("CoOp", "OPTIM.MAX_EPOCH", 1, *stated, "FEATURES.CACHE", False, output="fresh"))
    assert record(plain)["backbone_sha256"] != record(other)["backbone_sha256"]
    assert record(plain)["config_hash"] != record(other)["config_hash"]
    torch.testing.assert_close(torch.cat(other._probabilities), torch.cat(fresh._probabilities))
    assert not torch.allclose(torch.cat(other._probabilities), torch.cat(plain._probabilities), atol=1e-3)
    saved = Path(plain.output_dir, "config.yaml")
    saved.write_text(saved.read_text().replace("ACTIVATION: ''", "ACTIVATION: gelu"))
    with pytest.raises(ValueError, match=r"config.yaml was changed after the run"):
        load_run(plain.output_dir)


def test_a_folder_whose_config_was_changed_is_another_backbone(tmp_path: Path, make_cfg: ConfigMaker) -> None:
    folder = open_clip_folder(tmp_path / "model", GELU)
    pairs = ("MODEL.BACKBONE.NAME", "open_clip", "MODEL.BACKBONE.PATH", str(folder), "OPTIM.MAX_EPOCH", 1)
    trainer = tiny_run.trained(make_cfg("CoOp", *pairs))
    open_clip_folder(folder, OPEN_CLIP)  # with the same weights
    with pytest.raises(ValueError, match=r"those found now have \w{12}\.\.\.: set MODEL.BACKBONE.PATH"):
        load_run(trainer.output_dir)
