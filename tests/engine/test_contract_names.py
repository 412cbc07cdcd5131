"""What can be imported, registered and configured, whichever engine answers."""

from __future__ import annotations

import importlib

import pytest
from toy_engine import ours_only, real_is_wrong

SURFACE = {
    "dassl.engine": "TRAINER_REGISTRY TrainerX TrainerXU TrainerBase SimpleTrainer build_trainer",
    "dassl.data": "DatasetWrapper DataManager",
    "dassl.data.datasets": "DATASET_REGISTRY DatasetBase Datum build_dataset",
    "dassl.data.transforms": "build_transform INTERPOLATION_MODES",
    "dassl.data.samplers": "build_sampler",
    "dassl.optim": "build_optimizer build_lr_scheduler",
    "dassl.evaluation": "EVALUATOR_REGISTRY build_evaluator Classification EvaluatorBase",
    "dassl.metrics": "compute_accuracy",
    "dassl.config": "get_cfg_default clean_cfg",
    "dassl.utils": (
        "mkdir_if_missing listdir_nohidden load_checkpoint load_pretrained_weights read_json write_json "
        "collect_env_info set_random_seed setup_logger check_isfile read_image save_checkpoint "
        "resume_from_checkpoint AverageMeter MetricMeter Registry Logger check_availability count_num_param "
        "tolist_if_not open_all_layers open_specified_layers get_most_similar_str_to_a_from_b download_url"
    ),
}


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in SURFACE.items() for n in names.split()])
def test_name_can_be_imported(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    "path",
    [
        "dassl.data.datasets.base_dataset.Datum",
        "dassl.data.data_manager.DataManager",
        "dassl.data.transforms.transforms.build_transform",
        "dassl.engine.trainer.TrainerX",
        "dassl.engine.build.build_trainer",
        "dassl.evaluation.evaluator.Classification",
        "dassl.optim.lr_scheduler.build_lr_scheduler",
        "dassl.utils.torchtools.load_checkpoint",
        "dassl.utils.tools.read_json",
    ],
)
def test_submodule_gives_the_same_object_as_its_package(path: str) -> None:
    module, _, name = path.rpartition(".")
    package = module.rpartition(".")[0]
    assert getattr(importlib.import_module(module), name) is getattr(importlib.import_module(package), name)


def test_datum_has_the_path_under_which_few_shot_files_hold_it() -> None:
    from dassl.data.datasets import Datum

    assert Datum.__module__ == "dassl.data.datasets.base_dataset"


class TestRegistry:
    def test_decorator_returns_the_class_and_a_direct_call_nothing(self) -> None:
        from dassl.utils import Registry

        registry = Registry("THINGS")

        class First: ...

        class Second: ...

        assert registry.register()(First) is First
        assert registry.register(Second) is None
        assert registry.registered_names() == ["First", "Second"]
        assert registry.get("First") is First

    def test_duplicate_is_an_error_unless_forced(self) -> None:
        from dassl.utils import Registry

        registry = Registry("THINGS")
        one, two = type("Same", (), {}), type("Same", (), {})
        registry.register(one)
        with pytest.raises(KeyError, match="Same"):
            registry.register(two)
        registry.register(two, force=True)
        assert registry.get("Same") is two

    def test_missing_name_is_a_key_error(self) -> None:
        from dassl.utils import Registry

        with pytest.raises(KeyError, match="Nobody"):
            Registry("THINGS").get("Nobody")

    def test_unknown_trainer_names_the_nearest(self) -> None:
        from dassl.utils import check_availability

        with pytest.raises(ValueError, match="CoCoOp") as error:
            check_availability("CoCOp", ["ZeroshotCLIP", "CoCoOp"])
        assert "ZeroshotCLIP" in str(error.value)


class TestConfig:
    def test_defaults(self) -> None:
        from dassl.config import get_cfg_default

        cfg = get_cfg_default()
        assert cfg.VERSION == 1
        assert cfg.SEED == -1
        assert cfg.INPUT.SIZE == (224, 224)
        assert cfg.INPUT.RRCROP_SCALE == (0.08, 1.0)
        assert cfg.INPUT.PIXEL_MEAN == [0.485, 0.456, 0.406]
        assert cfg.DATASET.NUM_SHOTS == -1
        assert cfg.DATALOADER.TRAIN_X.BATCH_SIZE == 32
        assert cfg.DATALOADER.TRAIN_U.SAME_AS_X is True
        assert cfg.OPTIM.NAME == "adam"
        assert cfg.OPTIM.LR == 0.0003
        assert cfg.OPTIM.WARMUP_EPOCH == -1
        assert cfg.OPTIM.WARMUP_CONS_LR == 1e-5
        assert cfg.TRAIN.PRINT_FREQ == 10
        assert cfg.TEST.FINAL_MODEL == "last_step"

    def test_each_call_gives_a_fresh_copy(self) -> None:
        from dassl.config import get_cfg_default

        get_cfg_default().OPTIM.LR = 7.0
        assert get_cfg_default().OPTIM.LR == 0.0003

    def test_unknown_key_and_wrong_type_are_refused(self) -> None:
        from dassl.config import get_cfg_default

        cfg = get_cfg_default()
        with pytest.raises((KeyError, AssertionError)):
            cfg.merge_from_list(["OPTIM.LRATE", 0.1])
        with pytest.raises(ValueError, match="Type mismatch"):
            cfg.merge_from_list(["OPTIM.LR", "fast"])

    def test_nodes_of_trainers_that_are_absent_exist(self) -> None:
        from dassl.config import clean_cfg, get_cfg_default

        cfg = get_cfg_default()
        assert {"MCD", "FIXMATCH", "DAEL"} <= set(cfg.TRAINER)
        clean_cfg(cfg, "fixmatch")
        assert set(cfg.TRAINER) == {"NAME", "FIXMATCH"}


@ours_only("the rest of Dassl is not there")
def test_name_that_is_not_offered_is_explained() -> None:
    import dassl.engine

    with pytest.raises(AttributeError, match="needs Dassl itself"):
        dassl.engine.SimpleNet  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("dassl.modeling.backbone")


@real_is_wrong("reads the class names from the training split alone")
def test_class_without_a_training_image_keeps_its_name(squares: object) -> None:
    from dassl.data.datasets import DatasetBase
    from toy_engine import items_of

    some = [item for item in items_of(squares, "train") if item.label != 1]  # type: ignore[arg-type]
    dataset = DatasetBase(train_x=some, test=items_of(squares, "test"))  # type: ignore[arg-type]
    assert dataset.classnames == ["red", "green", "blue"]
