"""The hash of a configuration: it changes with what changes a result, and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_runs import config, write

from xcoop.config.identity import config_hash, differences, read_config
from xcoop.results.folder import check_free, other_data
from xcoop.results.record import Origin
from xcoop.utils.console import UserError

ORIGIN = Origin("phantom", "train.py")


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


def files(folder: Path, **contents: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in contents.items():
        (folder / f"{name}.png").write_text(text)
    return folder


def on(path: Path) -> dict[str, Any]:
    return {"DATASET": {"PATH": str(path)}}


def test_two_folders_of_one_name_are_told_apart_unless_one_is_a_copy_or_was_moved(tmp_path: Path) -> None:
    one = files(tmp_path / "a" / "my_images", leaf="1", root="2")
    other = files(tmp_path / "b" / "my_images", leaf="1", stem="2")
    longer = files(tmp_path / "c" / "my_images", leaf="1", root="22")
    copy = files(tmp_path / "d" / "my_images", leaf="1", root="2")
    (copy / "split-seed_0.json").write_text("{}")
    assert str(one) in other_data(on(one), on(other))
    assert other_data(on(one), on(longer))
    assert not other_data(on(one), on(copy))
    assert not other_data(on(one), on(one / ".." / "my_images"))
    assert not other_data(on(tmp_path / "gone" / "my_images"), on(one))
    assert not other_data({"DATASET": {}}, on(one))


def test_two_tables_of_one_name_are_told_apart(tmp_path: Path) -> None:
    places = [tmp_path / name / "list.csv" for name in ("a", "b", "c")]
    for place, text in zip(places, ("path,label\n1,x\n", "path,label\n1,y\n", "path,label\n1,x\n"), strict=True):
        place.parent.mkdir()
        place.write_text(text)
    assert other_data(on(places[0]), on(places[1]))
    assert not other_data(on(places[0]), on(places[2]))


def test_a_run_on_another_folder_of_the_same_name_is_refused(tmp_path: Path) -> None:
    one = files(tmp_path / "a" / "my_images", leaf="1")
    other = files(tmp_path / "b" / "my_images", root="2")
    run = tmp_path / "run"
    write(config(run, "DATASET.PATH", str(one)), 15)
    check_free(run, config(run, "DATASET.PATH", str(one)), ORIGIN)
    with pytest.raises(UserError, match=r"with other settings:\n  DATASET\.PATH: .* which has other files"):
        check_free(run, config(run, "DATASET.PATH", str(other)), ORIGIN)
    one.rename(tmp_path / "gone")
    check_free(run, config(run, "DATASET.PATH", str(other)), ORIGIN)
