"""Which of our objects answers to which name of Dassl: one table, and the modules made from it.

A module of the facade is empty until a name is asked for; only then is the file of ours that holds it imported. So
`import dassl.config` costs no torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from xcoop.version import __version__

# Our file -> the names that it gives to the outside.
_HOME = {
    "batches": ("DatasetWrapper",),
    "checkpoint": ("load_checkpoint", "resume_from_checkpoint", "save_checkpoint"),
    "config": ("cfg_default", "clean_cfg", "get_cfg_default"),
    "dataset": ("DATASET_REGISTRY", "DatasetBase", "build_dataset"),
    "datum": ("Datum",),
    "environment": ("collect_env_info", "set_random_seed"),
    "evaluator": ("Classification", "EVALUATOR_REGISTRY", "EvaluatorBase", "build_evaluator"),
    "filetools": (
        "check_isfile",
        "download_url",
        "listdir_nohidden",
        "mkdir_if_missing",
        "read_image",
        "read_json",
        "tolist_if_not",
        "write_json",
    ),
    "logger": ("Logger", "setup_logger"),
    "loop": ("TrainerX", "TrainerXU"),
    "manager": ("DataManager", "build_data_loader"),
    "meters": ("AverageMeter", "MetricMeter", "compute_accuracy"),
    "nets": (
        "count_num_param",
        "init_network_weights",
        "load_pretrained_weights",
        "open_all_layers",
        "open_specified_layers",
    ),
    "optim": ("RAdam", "build_optimizer"),
    "registry": (
        "BACKBONE_REGISTRY",
        "HEAD_REGISTRY",
        "NETWORK_REGISTRY",
        "Registry",
        "check_availability",
        "get_most_similar_str_to_a_from_b",
    ),
    "samplers": ("RandomClassSampler", "RandomDomainSampler", "SeqDomainSampler", "build_sampler"),
    "schedule": ("build_lr_scheduler",),
    "trainer": ("SimpleTrainer", "TRAINER_REGISTRY", "TrainerBase", "build_trainer"),
    "transforms": ("INTERPOLATION_MODES", "build_transform"),
}
_FILE_OF = {name: file for file, names in _HOME.items() for name in names}

_TOOLS = (*_HOME["filetools"], *_HOME["environment"], "check_availability", "get_most_similar_str_to_a_from_b")
_TORCHTOOLS = (*_HOME["checkpoint"], *_HOME["nets"])
_METERS = ("AverageMeter", "MetricMeter")
_TRAINERS = ("SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU")

# Dassl's module -> the names found in it.
MODULES: dict[str, tuple[str, ...]] = {
    "dassl": (),
    "dassl.config": _HOME["config"],
    "dassl.config.defaults": ("cfg_default",),
    "dassl.data": ("DataManager", "DatasetWrapper"),
    "dassl.data.data_manager": ("DataManager", "DatasetWrapper", "build_data_loader"),
    "dassl.data.datasets": ("DATASET_REGISTRY", "DatasetBase", "Datum", "build_dataset"),
    "dassl.data.datasets.base_dataset": ("DatasetBase", "Datum"),
    "dassl.data.datasets.build": ("DATASET_REGISTRY", "build_dataset"),
    "dassl.data.samplers": _HOME["samplers"],
    "dassl.data.transforms": _HOME["transforms"],
    "dassl.data.transforms.transforms": _HOME["transforms"],
    "dassl.engine": ("TRAINER_REGISTRY", "build_trainer", *_TRAINERS),
    "dassl.engine.build": ("TRAINER_REGISTRY", "build_trainer"),
    "dassl.engine.trainer": _TRAINERS,
    "dassl.evaluation": _HOME["evaluator"],
    "dassl.evaluation.build": ("EVALUATOR_REGISTRY", "build_evaluator"),
    "dassl.evaluation.evaluator": ("Classification", "EvaluatorBase"),
    "dassl.metrics": ("compute_accuracy",),
    "dassl.metrics.accuracy": ("compute_accuracy",),
    "dassl.modeling": ("BACKBONE_REGISTRY", "HEAD_REGISTRY", "NETWORK_REGISTRY"),
    "dassl.optim": ("build_lr_scheduler", "build_optimizer"),
    "dassl.optim.lr_scheduler": ("build_lr_scheduler",),
    "dassl.optim.optimizer": ("build_optimizer",),
    "dassl.optim.radam": ("RAdam",),
    "dassl.utils": (*_TOOLS, *_TORCHTOOLS, *_METERS, *_HOME["logger"], "Registry"),
    "dassl.utils.logger": _HOME["logger"],
    "dassl.utils.meters": _METERS,
    "dassl.utils.registry": ("Registry",),
    "dassl.utils.tools": _TOOLS,
    "dassl.utils.torchtools": _TORCHTOOLS,
}


class Facade(ModuleType):
    """A module of Dassl's name whose content is ours, fetched when it is asked for."""

    def __getattr__(self, name: str) -> Any:
        """Fetches one of the offered names, or a sub-module."""
        if name in MODULES[self.__name__]:
            value = getattr(importlib.import_module(f"xcoop.engine.{_FILE_OF[name]}"), name)
            setattr(self, name, value)
            return value
        if f"{self.__name__}.{name}" in MODULES:
            return importlib.import_module(f"{self.__name__}.{name}")
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        raise AttributeError(
            f"module {self.__name__!r} (the engine of xcoop {__version__}) has no {name!r}; it offers "
            f"{', '.join(sorted(MODULES[self.__name__])) or 'only sub-modules'}. The rest needs Dassl itself."
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *MODULES[self.__name__]})


def fill(module: ModuleType) -> None:
    """Gives a fresh facade module the attributes that are there from the start."""
    module.__doc__ = f"`{module.__name__}` as the engine of xcoop {__version__} offers it."
    module.__dict__["__all__"] = list(MODULES[module.__name__])
    if module.__name__ == "dassl":
        module.__dict__["__version__"] = f"0.6.3+xcoop.{__version__}"  # Dassl's API of that version
