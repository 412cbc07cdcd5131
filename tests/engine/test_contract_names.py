"""What can be imported, registered and configured, whichever engine answers."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from dassl.config import clean_cfg, get_cfg_default
from dassl.utils import (
    Registry,
    check_availability,
    check_isfile,
    listdir_nohidden,
    mkdir_if_missing,
    read_json,
    write_json,
)
from toy_engine import ours_only

SURFACE = {
    "dassl.engine": "TRAINER_REGISTRY TrainerX build_trainer",
    "dassl.engine.trainer": "TrainerX SimpleTrainer TrainerBase",
    "dassl.data": "DatasetWrapper DataManager",
    "dassl.data.datasets": "DATASET_REGISTRY DatasetBase Datum build_dataset",
    "dassl.data.data_manager": "DatasetWrapper build_data_loader build_dataset build_sampler build_transform",
    "dassl.data.samplers": "build_sampler",
    "dassl.data.transforms": "build_transform INTERPOLATION_MODES",
    "dassl.optim": "build_optimizer build_lr_scheduler",
    "dassl.evaluation": "EVALUATOR_REGISTRY build_evaluator Classification",
    "dassl.evaluation.evaluator": "Classification EvaluatorBase",
    "dassl.metrics": "compute_accuracy",
    "dassl.config": "get_cfg_default clean_cfg",
    "dassl.utils": (
        "mkdir_if_missing listdir_nohidden load_checkpoint load_pretrained_weights read_json write_json "
        "collect_env_info set_random_seed setup_logger check_isfile read_image save_checkpoint "
        "AverageMeter MetricMeter Registry Logger check_availability "
        "count_num_param open_all_layers open_specified_layers resume_from_checkpoint tolist_if_not"
    ),
}
SUBMODULES = [
    *(
        "data.datasets.base_dataset.Datum",
        "data.data_manager.DataManager",
        "data.transforms.transforms.build_transform",
    ),
    *("engine.trainer.TrainerX", "engine.build.build_trainer", "evaluation.evaluator.Classification"),
    *("optim.lr_scheduler.build_lr_scheduler", "utils.torchtools.load_checkpoint", "utils.tools.read_json"),
]


def test_names_can_be_imported_and_submodules_give_the_objects_of_their_packages() -> None:
    for module, names in SURFACE.items():
        for name in names.split():
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
    for path in SUBMODULES:
        module, _, name = f"dassl.{path}".rpartition(".")
        package = importlib.import_module(module.rpartition(".")[0])
        assert getattr(importlib.import_module(module), name) is getattr(package, name), path


@ours_only("the rest of Dassl is not there")
@pytest.mark.parametrize(
    "statement",
    [
        "import dassl.modeling",
        "import dassl.modeling.backbone",
        "from dassl.modeling import BACKBONE_REGISTRY",
        "from dassl.engine import TrainerXU",
        "from dassl.engine.trainer import SimpleNet",
        "from dassl.data.samplers import RandomDomainSampler",
        "import dassl.engine; dassl.engine.SimpleNet",
    ],
)
def test_a_part_that_only_dassl_has_is_refused_with_the_remedy(statement: str) -> None:
    with pytest.raises((ImportError, AttributeError), match=r"needs Dassl itself.*Dassl\.pytorch on PYTHONPATH"):
        exec(statement)
    assert not hasattr(importlib.import_module("dassl.engine"), "TrainerXU")


def test_a_registry_holds_each_name_once() -> None:
    registry = Registry("THINGS")

    class First: ...

    one, two = type("Same", (), {}), type("Same", (), {})
    assert registry.register()(First) is First
    assert registry.register(one) is None
    assert registry.registered_names() == ["First", "Same"]
    assert registry.get("First") is First
    with pytest.raises(KeyError, match="Same"):
        registry.register(two)
    registry.register(two, force=True)
    assert registry.get("Same") is two
    with pytest.raises(KeyError, match="Nobody"):
        registry.get("Nobody")
    with pytest.raises(ValueError, match="CoCoOp") as error:
        check_availability("CoCOp", ["ZeroshotCLIP", "CoCoOp"])
    assert "ZeroshotCLIP" in str(error.value)


class TestConfig:
    DEFAULTS = {  # noqa: RUF012
        "VERSION": 1, "SEED": -1, "INPUT.SIZE": (224, 224), "INPUT.RRCROP_SCALE": (0.08, 1.0),
        "INPUT.PIXEL_MEAN": [0.485, 0.456, 0.406], "DATASET.NUM_SHOTS": -1, "DATALOADER.TRAIN_X.BATCH_SIZE": 32,
        "MODEL.HEAD.NAME": "", "DATASET.SOURCE_DOMAINS": (), "OPTIM.NAME": "adam", "OPTIM.LR": 0.0003,
        "OPTIM.WARMUP_EPOCH": -1, "OPTIM.WARMUP_CONS_LR": 1e-5, "TRAIN.PRINT_FREQ": 10, "TEST.FINAL_MODEL": "last_step",
    }  # fmt: skip

    def test_defaults_are_fresh_in_each_copy(self) -> None:
        get_cfg_default().OPTIM.LR = 7.0
        for key, default in self.DEFAULTS.items():
            value = get_cfg_default()
            for name in key.split("."):
                value = value[name]
            assert value == default, key

    def test_dassls_keys_of_domain_adaptation_can_be_set(self) -> None:
        cfg = get_cfg_default()
        cfg.merge_from_list(["DATALOADER.TRAIN_U.BATCH_SIZE", 4, "DATALOADER.TRAIN_X.N_INS", 2])
        cfg.merge_from_list(["TRAIN.COUNT_ITER", "train_u", "MODEL.BACKBONE.PRETRAINED", False])
        assert (cfg.DATALOADER.TRAIN_U.SAMPLER, cfg.DATALOADER.TRAIN_X.N_DOMAIN) == ("RandomSampler", 0)

    def test_unknown_key_and_wrong_type_are_refused(self) -> None:
        cfg = get_cfg_default()
        with pytest.raises((KeyError, AssertionError)):
            cfg.merge_from_list(["OPTIM.LRATE", 0.1])
        with pytest.raises(ValueError, match="Type mismatch"):
            cfg.merge_from_list(["OPTIM.LR", "fast"])

    def test_a_printed_config_has_one_trainers_node(self) -> None:
        cfg = get_cfg_default()
        cfg.TRAINER.MYCOOP, cfg.TRAINER.OTHER = cfg.TEST.clone(), cfg.TEST.clone()
        clean_cfg(cfg, "MyCoOp")
        assert set(cfg.TRAINER) == {"NAME", "MYCOOP"}


def test_helpers_around_files(tmp_path: Path) -> None:
    for _ in range(2):
        mkdir_if_missing(str(tmp_path / "a" / "b"))
    write_json({"k": [1, "é"]}, str(tmp_path / "new" / "x.json"))
    assert read_json(str(tmp_path / "new" / "x.json")) == {"k": [1, "é"]}
    assert '\n    "k"' in (tmp_path / "new" / "x.json").read_text()
    (tmp_path / ".hidden").touch()
    assert listdir_nohidden(str(tmp_path), sort=True) == ["a", "new"]
    assert check_isfile(str(tmp_path / ".hidden"))
    with pytest.warns(UserWarning, match="nowhere"):
        assert not check_isfile(str(tmp_path / "nowhere"))
