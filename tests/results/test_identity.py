"""The hash of a configuration: it changes with what changes a result, and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_runs import config

from xcoop.config.merge import config_hash, differences, read_config


@pytest.mark.parametrize(
    "pairs",
    [
        ("OUTPUT_DIR", "/elsewhere"),
        ("DATASET.ROOT", "/elsewhere"),
        ("FEATURES.DIR", "/elsewhere"),
        ("RESUME", "/elsewhere"),
        ("DATALOADER.NUM_WORKERS", 7),
        ("USE_CUDA", False),
        ("VERBOSE", False),
        ("SEED", 3),
        ("TRAINER.COCOOP.N_CTX", 7),  # another method's
        ("MODEL.BACKBONE.PATH", ""),
    ],
)
def test_machine_seed_and_other_methods_do_not_count(pairs: tuple[str, Any]) -> None:
    plain, other = config(Path("run")), config(Path("run"))
    other.merge_from_list(list(pairs))
    assert config_hash(plain) == config_hash(other)
    assert differences(plain, other) == []


@pytest.mark.parametrize(
    "pairs",
    [
        ("DATASET.NUM_SHOTS", 8),
        ("DATASET.NAME", "Derm7pt"),
        ("TRAINER.NAME", "CoCoOp"),
        ("TRAINER.COOP.N_CTX", 7),
        ("OPTIM.LR", 0.5),
        ("MODEL.BACKBONE.PATH", "/some/weights.pt"),
        ("INPUT.TRANSFORMS", ("normalize",)),
        ("TEST.FINAL_MODEL", "best_val"),
        ("DATASET.SUBSAMPLE_CLASSES", "base"),
    ],
)
def test_what_changes_the_result_counts(pairs: tuple[str, Any]) -> None:
    plain, other = config(Path("run")), config(Path("run"))
    other.merge_from_list(list(pairs))
    assert config_hash(plain) != config_hash(other)
    assert any(pairs[0] in line for line in differences(plain, other))


def test_a_weights_file_counts_by_its_name() -> None:
    one = config(Path("run"), "MODEL.BACKBONE.PATH", "/here/weights.pt")
    other = config(Path("run"), "MODEL.BACKBONE.PATH", "/there/weights.pt")
    assert config_hash(one) == config_hash(other)


def test_a_saved_config_has_the_same_hash(tmp_path: Path) -> None:
    cfg = config(tmp_path, "INPUT.TRANSFORMS", ("random_flip", "normalize"), "OPTIM.LR", 1e-5)
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    assert config_hash(read_config(path)) == config_hash(cfg)


def test_a_method_without_a_node_depends_on_all_nodes() -> None:
    plain, other = config(Path("run"), trainer="MyOwn"), config(Path("run"), trainer="MyOwn")
    other.TRAINER.COOP.N_CTX += 1
    assert config_hash(plain) != config_hash(other)


@pytest.mark.parametrize("text", ["- a list", "", "a: [", yaml.safe_dump({"SEED": 1})])
def test_what_is_no_config_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        read_config(path)
