"""How `import dassl` is answered: by the real Dassl, patched as it is loaded, or by modules of ours of the same names.

A finder stands first on `sys.meta_path` and looks only at `dassl` and what is below it, and at copies of CLIP. It asks
the other finders; if one of them knows a Dassl, each of its modules is patched right after it ran. If none does, our
own modules answer. These are empty until a name is asked for; only then is the file of ours that holds it imported, so
that `import dassl.config` costs no torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from xcoop.version import __version__

# Our file -> the names that it gives to the outside.
FILES = {
    "checkpoint": "count_num_param load_checkpoint load_pretrained_weights open_all_layers open_specified_layers "
    "resume_from_checkpoint save_checkpoint",
    "config": "cfg_default clean_cfg get_cfg_default",
    "data": "DATASET_REGISTRY DataManager DatasetBase DatasetWrapper Datum build_data_loader build_dataset "
    "build_sampler",
    "evaluator": "AverageMeter Classification EVALUATOR_REGISTRY EvaluatorBase MetricMeter build_evaluator "
    "compute_accuracy",
    "optim": "build_lr_scheduler build_optimizer",
    "tools": "Logger Registry check_availability check_isfile collect_env_info listdir_nohidden mkdir_if_missing "
    "read_image read_json set_random_seed setup_logger tolist_if_not write_json",
    "trainer": "SimpleTrainer TRAINER_REGISTRY TrainerBase TrainerX build_trainer",
    "transforms": "INTERPOLATION_MODES build_transform",
}
FILE_OF = {name: file for file, names in FILES.items() for name in names.split()}

_TOOLS = (
    "check_availability check_isfile collect_env_info listdir_nohidden mkdir_if_missing read_image read_json "
    "set_random_seed tolist_if_not write_json"
)
# Dassl's module -> the names found in it.
MODULES = {
    "dassl": "",
    "dassl.config": FILES["config"],
    "dassl.config.defaults": "cfg_default",
    "dassl.data": "DataManager DatasetWrapper",
    "dassl.data.data_manager": "DataManager DatasetWrapper build_data_loader build_dataset build_sampler "
    "build_transform",
    "dassl.data.datasets": "DATASET_REGISTRY DatasetBase Datum build_dataset",
    "dassl.data.datasets.base_dataset": "DatasetBase Datum",
    "dassl.data.datasets.build": "DATASET_REGISTRY build_dataset",
    "dassl.data.samplers": "build_sampler",
    "dassl.data.transforms": FILES["transforms"],
    "dassl.data.transforms.transforms": FILES["transforms"],
    "dassl.engine": FILES["trainer"],
    "dassl.engine.build": "TRAINER_REGISTRY build_trainer",
    "dassl.engine.trainer": "SimpleTrainer TrainerBase TrainerX",
    "dassl.evaluation": "Classification EVALUATOR_REGISTRY EvaluatorBase build_evaluator",
    "dassl.evaluation.build": "EVALUATOR_REGISTRY build_evaluator",
    "dassl.evaluation.evaluator": "Classification EvaluatorBase",
    "dassl.metrics": "compute_accuracy",
    "dassl.metrics.accuracy": "compute_accuracy",
    "dassl.optim": FILES["optim"],
    "dassl.optim.lr_scheduler": "build_lr_scheduler",
    "dassl.optim.optimizer": "build_optimizer",
    "dassl.utils": f"{FILES['checkpoint']} {_TOOLS} AverageMeter Logger MetricMeter Registry setup_logger",
    "dassl.utils.logger": "Logger setup_logger",
    "dassl.utils.meters": "AverageMeter MetricMeter",
    "dassl.utils.registry": "Registry",
    "dassl.utils.tools": _TOOLS,
    "dassl.utils.torchtools": FILES["checkpoint"],
}
CLIPS = ("clip.clip", "xcoop._clip.clip")  # a checkout's copy, or the installed one as we import it


def needs_dassl(what: str) -> str:
    """What is said of a part of Dassl that this engine does not have, with the remedy."""
    return (
        f"{what} needs Dassl itself, of which xcoop's own engine has what prompt learners use. With a checkout of "
        "https://github.com/KaiyangZhou/Dassl.pytorch on PYTHONPATH, or installed, xcoop runs on it"
    )


class Facade(ModuleType):
    """A module of Dassl's name whose content is ours, fetched when it is asked for."""

    def __getattr__(self, name: str) -> Any:
        """Fetches one of the offered names, or a sub-module."""
        if name in MODULES[self.__name__].split():
            value = getattr(importlib.import_module(f"xcoop.engine.{FILE_OF[name]}"), name)
            setattr(self, name, value)
            return value
        if (submodule := f"{self.__name__}.{name}") in MODULES:
            return importlib.import_module(submodule)
        raise AttributeError(needs_dassl(submodule))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *MODULES[self.__name__].split()})


class FacadeLoader(Loader):
    """Makes the modules of our own engine."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module of the name asked for."""
        return Facade(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Gives it its documentation and its list of names."""
        module.__doc__ = f"`{module.__name__}` as the engine of xcoop {__version__} offers it."
        module.__dict__["__all__"] = MODULES[module.__name__].split()
        if module.__name__ == "dassl":
            module.__dict__["__version__"] = f"0.6.3+xcoop.{__version__}"  # Dassl's API of that version


class DasslFinder(MetaPathFinder):
    """Finds `dassl` and its modules, and the modules of CLIP; leaves every other name to the other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The real module's spec with the patch attached, ours if there is no real one, or None.

        Raises:
            ModuleNotFoundError: our own engine answers to `import dassl`, and does not have this module or name; the
                message has the remedy.
        """
        is_dassl = fullname.partition(".")[0] == "dassl"
        if not is_dassl and fullname not in CLIPS:
            return None
        ours = is_dassl and isinstance(sys.modules.get("dassl"), Facade)
        spec = None if ours else self._spec_of_others(fullname, path, target)
        if spec is not None:
            return _patched(spec)
        if fullname in MODULES and (ours or fullname == "dassl"):
            # All are packages: `from dassl.engine import TrainerXU` then comes here, and is told why it fails.
            return ModuleSpec(fullname, FacadeLoader(), origin="xcoop.engine", is_package=True)
        if ours:  # with any other `name` than `fullname`, which the import statement would pass over
            raise ModuleNotFoundError(needs_dassl(fullname), name="dassl")
        return None

    def _spec_of_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        """What the other finders say. A bare folder named `dassl` (no loader, or a namespace) is no Dassl."""
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and (spec.origin is not None or name != "dassl"):
                return spec
        return None


def install() -> None:
    """Puts the finder in its place, once, and patches what is already imported of a real Dassl."""
    if not any(isinstance(finder, DasslFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, DasslFinder())
    if "dassl" in sys.modules and not isinstance(sys.modules["dassl"], Facade):
        from xcoop.engine.patches import patch_loaded

        patch_loaded()


def _patched(spec: ModuleSpec) -> ModuleSpec:
    """The spec, whose loader will patch the module around its execution."""
    loader: Any = spec.loader
    if loader is not None:
        execute = loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            from xcoop.engine.patches import patching

            with patching(module):
                execute(module)

        # On the instance, not the class: each spec has a loader of its own, and it keeps its type.
        loader.exec_module = execute_and_patch
    return spec
