"""Backbones by name: each entry is whole, and read by its family from a folder or the hub's cache, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_families import FAMILIES, huggingface, keep, open_clip, pmc_clip
from yacs.config import CfgNode

from xcoop.backbones import Backbone, backbone_names, load_backbone, text_limits
from xcoop.backbones.presets import Preset, presets

DOCS = Path(__file__).parents[2] / "docs" / "backbones.md"
READ = [preset for preset in presets().values() if preset.family]
UNREAD = [preset for preset in presets().values() if not preset.family]


def load(name: str, **keys: Any) -> Any:
    backbone: Backbone = load_backbone(CfgNode({"MODEL": {"BACKBONE": {"NAME": name, **keys}}}))
    return backbone


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of each family, in its own format."""
    root = tmp_path_factory.mktemp("families")
    made = {"huggingface": huggingface, "open_clip": open_clip, "pmc_clip": pmc_clip}
    return {name: make(root / name) for name, make in made.items()}


def test_the_ones_that_were_asked_for_are_there() -> None:
    assert set(presets()) == {
        *("BiomedCLIP", "PubMedCLIP", "PMC-CLIP", "MONET", "ConceptCLIP", "DermLIP", "PLIP", "QuiltNet"),
        *("MedSigLIP", "TinyCLIP"),
    }
    assert set(presets()) <= set(backbone_names())


@pytest.mark.parametrize("preset", presets().values(), ids=lambda preset: preset.name)
def test_an_entry_is_whole(preset: Preset) -> None:
    assert all((preset.hub, preset.architecture, preset.licence, preset.citation, preset.found))
    assert preset.hub.removeprefix("datasets/").count("/") == 1
    assert bool(preset.family) is not bool(preset.unread)
    if preset.family:
        assert preset.family in backbone_names()
        assert preset.size > 0
        assert preset.length > 0
    assert len(preset.mean) == len(preset.std) == 3


@pytest.mark.parametrize("preset", READ, ids=lambda preset: preset.name)
def test_a_folder_in_its_familys_format_is_read_under_its_name(preset: Preset, folders: dict[str, Path]) -> None:
    folder = folders[preset.family]
    backbone, same = load(preset.name, PATH=str(folder)), load(preset.family, PATH=str(folder))
    assert (backbone.name, backbone.source) == (preset.name, str(folder))
    assert backbone.fingerprint() == same.fingerprint()
    limits = text_limits(preset.name)
    if limits is not None:
        assert (limits.context_length, limits.count_tokens("a nevus")) == (77, backbone.count_tokens("a nevus"))


@pytest.mark.parametrize("preset", UNREAD, ids=lambda preset: preset.name)
def test_one_that_no_adapter_reads_is_refused_with_the_reason(preset: Preset, folders: dict[str, Path]) -> None:
    for path in ("", str(folders["open_clip"])):
        with pytest.raises(ValueError, match=f"{preset.name} cannot be used: ") as caught:
            load(preset.name, PATH=path)
        assert preset.unread in str(caught.value)


@pytest.mark.parametrize("name", ["PubMedCLIP", "QuiltNet"])
def test_what_the_hubs_client_has_kept_is_used_without_network(name: str, hub: Path, folders: dict[str, Path]) -> None:
    preset = presets()[name]
    revision = keep(hub, preset.hub, folders[preset.family])
    backbone = load(name)
    assert backbone.name == name
    assert backbone.source == f"{preset.hub} at {revision[:12]}"
    assert backbone.fingerprint() == load(preset.family, PATH=str(folders[preset.family])).fingerprint()


@pytest.mark.parametrize("preset", READ, ids=lambda preset: preset.name)
def test_offline_the_steps_are_said(preset: Preset, hub: Path) -> None:
    with pytest.raises(ConnectionError) as caught:
        load(preset.name)
    assert f"hf download {preset.hub.removeprefix('datasets/')} --local-dir FOLDER" in str(caught.value)
    assert ("--repo-type dataset --include 'image_encoder" in str(caught.value)) is preset.hub.startswith("datasets/")
    assert "MODEL.BACKBONE.PATH" in str(caught.value)


def test_another_model_on_the_hub_can_be_named(hub: Path, folders: dict[str, Path]) -> None:
    keep(hub, "somebody/finer", folders["huggingface"])
    assert load("PubMedCLIP", SOURCE="somebody/finer").source.startswith("somebody/finer at ")


def test_mean_and_deviation_are_the_models_own_not_the_tables(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(folders["huggingface"], folder)
    told = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    backbone = load("MONET", PATH=str(folder))
    assert backbone.pixel_mean == (0.1, 0.2, 0.3)
    assert backbone.pixel_std == (0.4, 0.5, 0.6)


@pytest.mark.parametrize("family", ["huggingface", "open_clip"])
def test_small_families_are_unlike_openais_where_no_shape_tells(family: str, tmp_path: Path) -> None:
    """So that a run with one of them would notice if it were read as OpenAI's."""
    make, name, size = FAMILIES[family]
    backbone = load(name, PATH=str(make(tmp_path / "own")))
    assert backbone.input_size == size
    assert "gelu" in backbone.architecture
    assert "heads of width 32" in backbone.architecture
    assert torch.isfinite(backbone.encode_text("a nevus")).all()


@pytest.mark.parametrize("preset", presets().values(), ids=lambda preset: preset.name)
def test_the_documentation_says_what_the_table_says(preset: Preset) -> None:
    text = DOCS.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if f"(https://huggingface.co/{preset.hub})" in line)
    told = (preset.name, preset.licence, preset.unread or f"| {preset.size} | {preset.length} |")
    assert all(fact in line for fact in told)
