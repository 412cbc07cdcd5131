"""How `import dassl` is answered: by the real Dassl, patched as it is loaded, or by modules of ours of the same names.

A finder stands first on `sys.meta_path` and looks only at `dassl` and what is below it, and at copies of CLIP. It asks
the other finders; if one of them knows a Dassl, each of its modules is patched right after it ran. If none does, our
own modules answer. These are empty until a name is asked for; only then is the file of ours that holds it imported, so
that `import dassl.config` costs no torch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from xcoop.version import __version__

# What a package of Dassl's offers here, by the file of ours that holds it.
OFFERED: dict[str, dict[str, str]] = {
    "dassl": {},
    "dassl.config": {"config": "cfg_default clean_cfg get_cfg_default"},
    "dassl.data": {
        "data": "DATASET_REGISTRY DataManager DatasetBase DatasetWrapper Datum build_data_loader build_dataset "
        "build_sampler",
        "parts": "INTERPOLATION_MODES build_transform",
    },
    "dassl.engine": {"trainer": "SimpleTrainer TRAINER_REGISTRY TrainerBase TrainerX build_trainer"},
    "dassl.evaluation": {"parts": "Classification EVALUATOR_REGISTRY EvaluatorBase build_evaluator"},
    "dassl.metrics": {"parts": "compute_accuracy"},
    "dassl.optim": {"parts": "build_lr_scheduler build_optimizer"},
    "dassl.utils": {
        "checkpoint": "count_num_param load_checkpoint load_pretrained_weights open_all_layers open_specified_layers "
        "resume_from_checkpoint save_checkpoint",
        "tools": "AverageMeter Logger MetricMeter Registry check_availability check_isfile collect_env_info "
        "listdir_nohidden mkdir_if_missing read_image read_json set_random_seed setup_logger tolist_if_not write_json",
    },
}
# Its modules below these, each of which offers all that the package does.
BELOW = {
    "dassl.config": "defaults",
    "dassl.data": "data_manager datasets datasets.base_dataset datasets.build samplers transforms "
    "transforms.transforms",
    "dassl.engine": "build trainer",
    "dassl.evaluation": "build evaluator",
    "dassl.metrics": "accuracy",
    "dassl.optim": "lr_scheduler optimizer",
    "dassl.utils": "logger meters registry tools torchtools",
}
# Module -> name -> file.
MODULES = {
    module: {name: file for file, names in offered.items() for name in names.split()}
    for package, offered in OFFERED.items()
    for module in (package, *(f"{package}.{below}" for below in BELOW.get(package, "").split()))
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
        if file := MODULES[self.__name__].get(name):
            value = getattr(importlib.import_module(f"xcoop.engine.{file}"), name)
            setattr(self, name, value)
            return value
        if (submodule := f"{self.__name__}.{name}") in MODULES:
            return importlib.import_module(submodule)
        raise AttributeError(needs_dassl(submodule))


class DasslFinder(MetaPathFinder, Loader):
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
        if not ours:
            for finder in sys.meta_path:
                find = None if finder is self else getattr(finder, "find_spec", None)
                spec = find(fullname, path, target) if find else None
                # A bare folder named `dassl` (a namespace, without an origin) is no Dassl.
                if spec is not None and (spec.origin is not None or fullname != "dassl"):
                    return _patched(spec)
        if fullname in MODULES and (ours or fullname == "dassl"):
            # All are packages: `from dassl.engine import TrainerXU` then comes here, and is told why it fails.
            return ModuleSpec(fullname, self, origin="xcoop.engine", is_package=True)
        if ours:  # with any other `name` than `fullname`, which the import statement would pass over
            raise ModuleNotFoundError(needs_dassl(fullname), name="dassl")
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module of our own engine, of the name asked for."""
        return Facade(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Gives it its list of names."""
        module.__dict__["__all__"] = list(MODULES[module.__name__])
        if module.__name__ == "dassl":
            module.__dict__["__version__"] = f"0.6.3+xcoop.{__version__}"  # Dassl's API of that version


def _patched(spec: ModuleSpec) -> ModuleSpec:
    """The spec, whose loader will patch the module around its execution."""
    loader: Any = spec.loader
    if loader is not None:
        execute = loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            if module.__name__ in CLIPS:
                with _packaging_in_pkg_resources():
                    execute(module)
                return
            from xcoop.engine.patches import patching

            with patching(module):
                execute(module)

        # On the instance, not the class: each spec has a loader of its own, and it keeps its type.
        loader.exec_module = execute_and_patch
    return spec


@contextmanager
def _packaging_in_pkg_resources() -> Iterator[None]:
    """Lets `from pkg_resources import packaging` work, by which many copies of CLIP compare versions.

    setuptools 70 dropped `packaging` from there, setuptools 82 pkg_resources. Nobody else sees the stand-in.
    """
    stand_in: Any = ModuleType("pkg_resources")
    importlib.import_module("packaging.version")
    stand_in.packaging = sys.modules["packaging"]
    before = {name: module for name, module in sys.modules.items() if name == "pkg_resources"}
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
        sys.modules.update(before)


def install() -> None:
    """Puts the finder in its place, once, and patches what is already imported of a real Dassl."""
    if not any(isinstance(finder, DasslFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, DasslFinder())
    if "dassl" in sys.modules and not isinstance(sys.modules["dassl"], Facade):
        from xcoop.engine.patches import patch_loaded

        patch_loaded()
