"""What plug-ins of version 0.1 call otherwise: modules by their old names, and `build_method` of an instance.

They still work, and are told the new names.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

MOVED = {  # below xcoop; the old names go with version 0.2
    "alignment": "methods.alignment",
    "averaging": "trainers.promptsrc",
    "backbones.blocks": "backbones.openai",
    "backbones.build": "backbones.clip_model",
    "backbones.clip_import": "backbones.clip_model",
    "backbones.deep_prompts": "backbones.openai",
    "backbones.download": "backbones.clip_model",
    "backbones.image_towers": "backbones.openai",
    "backbones.phantom_weights": "backbones.phantom",
    "backbones.registry": "backbones.base",
    "backbones.text_tower": "backbones.openai",
    "backbones.torchscript": "backbones.clip_model",
    "backbones.towers": "backbones.openai",
    "backbones.weights": "backbones.clip_model",
    "cache_model": "trainers.tipadapter",
    "checkpoints": "results.checkpoints",
    "checks": "training.trainer",
    "commands.base": "utils.console",
    "commands.concepts_check": "concepts.lint",
    "commands.phantom": "phantom.layouts",
    "commands.settings": "config.merge",
    "concepts.circular": "concepts.words",
    "concepts.controls": "concepts.sentences",
    "concepts.elicit": "concepts.elicitation",
    "concepts.elicit_answers": "concepts.elicitation",
    "concepts.elicit_bank": "concepts.elicitation",
    "concepts.elicit_client": "concepts.chat",
    "concepts.elicit_prompt": "concepts.elicitation",
    "concepts.elicit_store": "concepts.elicitation",
    "concepts.elicit_votes": "concepts.elicitation",
    "concepts.elicited": "concepts.bank",
    "concepts.ensembles": "concepts.sentences",
    "concepts.features": "concepts.sentences",
    "concepts.knowledge": "concepts.sentences",
    "concepts.lint_words": "concepts.lint",
    "concepts.mined_bank": "commands.concepts_mine",
    "concepts.mining": "commands.concepts_mine",
    "concepts.observations": "commands.concepts_mine",
    "concepts.schema": "concepts.bank",
    "concepts.shares": "concepts.sentences",
    "concepts.skeleton": "concepts.bank",
    "concepts.wording": "concepts.words",
    "config.defaults": "config.plugins",
    "config.identity": "config.merge",
    "corrections": "methods.corrections",
    "data.archive_limits": "utils.unpack",
    "data.augmentation": "config.augmentation",
    "data.check_page": "data.checking",
    "data.class_folders": "data.folders",
    "data.drawn": "data.dataset",
    "data.facts": "data.about",
    "data.family": "data.dataset",
    "data.fetching": "data.about",
    "data.hygiene": "data.splits",
    "data.images": "utils.images",
    "data.items": "data.splits",
    "data.madesplit": "data.splits",
    "data.member_names": "utils.unpack",
    "data.members": "utils.unpack",
    "data.own": "datasets.folder",
    "data.positive": "evaluation.metrics",
    "data.raw": "data.dataset",
    "data.survey": "data.folders",
    "data.tables": "utils.reading",
    "data.tar_stream": "utils.unpack",
    "data.unpack": "utils.unpack",
    "deep_prompts": "trainers.maple",
    "downloads": "utils.download",
    "engine.batches": "engine.data",
    "engine.dataset": "engine.data",
    "engine.datum": "engine.data",
    "engine.environment": "engine.tools",
    "engine.evaluator": "engine.parts",
    "engine.facade": "engine.imports",
    "engine.filetools": "engine.tools",
    "engine.finder": "engine.imports",
    "engine.logger": "engine.tools",
    "engine.loop": "engine.trainer",
    "engine.manager": "engine.data",
    "engine.mends": "engine.patches",
    "engine.meters": "engine.tools",
    "engine.models": "engine.trainer",
    "engine.nets": "engine.checkpoint",
    "engine.optim": "engine.parts",
    "engine.registry": "engine.tools",
    "engine.rng": "engine.tools",
    "engine.safeload": "engine.checkpoint",
    "engine.samplers": "engine.data",
    "engine.schedule": "engine.parts",
    "engine.transforms": "engine.parts",
    "evaluation.bootstrap": "evaluation.statistics",
    "evaluation.calibration": "evaluation.metrics",
    "evaluation.comparisons": "evaluation.statistics",
    "evaluation.drawn": "evaluation.metrics",
    "evaluation.harmonic": "evaluation.statistics",
    "evaluation.intervals": "evaluation.statistics",
    "evaluation.mcnemar": "evaluation.statistics",
    "evaluation.multiple": "evaluation.statistics",
    "evaluation.paired": "evaluation.statistics",
    "evaluation.positive": "evaluation.metrics",
    "evaluation.ranking": "evaluation.metrics",
    "evaluation.ranks": "evaluation.statistics",
    "explain.attention": "explain.maps",
    "explain.controls": "explain.measures",
    "explain.explanation": "explain.trained",
    "explain.faithfulness": "explain.measures",
    "explain.loading": "explain.trained",
    "explain.localisation": "explain.measures",
    "explain.map_methods": "explain.maps",
    "explain.masks": "explain.ground_truth",
    "explain.page": "explain.html",
    "explain.schema": "explain.html",
    "explain.target": "explain.maps",
    "explain.textual": "explain.concepts",
    "explain.textual.concept_set": "explain.concepts",
    "explain.textual.decomposition": "explain.concepts",
    "explain.textual.intervention": "explain.concepts",
    "explain.textual.nearest_words": "explain.concepts",
    "explain.textual.plausibility": "explain.trust",
    "explain.textual.prose": "explain.concepts",
    "explain.textual.subsets": "explain.concepts",
    "explain.trust_concepts": "explain.trust",
    "explain.trust_rows": "explain.trust",
    "explain.trust_table": "explain.trust",
    "explain.truth": "explain.ground_truth",
    "explain.visual": "explain.maps",
    "explain.visual.finer": "explain.maps",
    "explain.visual.gradcam": "explain.maps",
    "explain.visual.gradeclip": "explain.maps",
    "explain.visual.legrad": "explain.maps",
    "explain.visual.maskclip": "explain.maps",
    "explain.visual.occlusion": "explain.maps",
    "explain.visual.registry": "explain.maps",
    "explain.visual.relevancy": "explain.maps",
    "explain.visual.rise": "explain.maps",
    "explain.visual.rollout": "explain.maps",
    "explain.visual.similarity": "explain.maps",
    "explain.visual.trace": "explain.maps",
    "explain.words": "explain.concepts",
    "features": "training.feature_cache",
    "files": "utils.files",
    "fitting": "training.trainer",
    "fixed_text": "trainers.zsclip",
    "locks": "utils.files",
    "methods.averaging": "trainers.promptsrc",
    "methods.cache_model": "trainers.tipadapter",
    "methods.deep_prompts": "trainers.maple",
    "methods.distillation": "methods.prompts",
    "methods.fixed_text": "trainers.zsclip",
    "methods.released": "trainers.xcoop_released",
    "methods.selection": "methods.model",
    "methods.templates": "methods.prompts",
    "model": "methods.model",
    "names": "utils.console",
    "page.document": "page",
    "page.markup": "page",
    "page.style": "page",
    "phantom.captions": "phantom.tables",
    "phantom.chest_findings": "phantom.chest",
    "phantom.chest_frame": "phantom.chest_anatomy",
    "phantom.chest_layout": "phantom.layouts",
    "phantom.derm_concepts": "phantom.derm_lesion",
    "phantom.derm_layout": "phantom.layouts",
    "phantom.folders": "phantom.drawing",
    "phantom.objective": "phantom.pretrain",
    "phantom.student": "phantom.model",
    "phantom.texture": "phantom.drawing",
    "phantom.weights": "backbones.phantom",
    "plans": "runs.plan",
    "plugins": "config.plugins",
    "precision": "training.trainer",
    "progress": "utils.download",
    "prompts": "methods.prompts",
    "reading": "utils.reading",
    "released": "trainers.xcoop_released",
    "results.assess": "results.compare",
    "results.cells_csv": "results.report",
    "results.comparisons": "results.compare",
    "results.critical_difference": "results.figures",
    "results.curves": "results.figures",
    "results.drawing": "results.figures",
    "results.facts": "results.table",
    "results.identity": "config.merge",
    "results.measures": "results.compare",
    "results.outcomes": "results.compare",
    "results.page": "results.report",
    "results.places": "results.folder",
    "results.predictions": "results.record",
    "results.provenance": "results.record",
    "results.publish": "results.report",
    "results.reliability": "results.figures",
    "results.rows": "results.benchmark",
    "results.sheet": "results.table",
    "results.sheet_latex": "results.table",
    "results.sheet_text": "results.table",
    "results.spreadsheets": "results.record",
    "results.tables_base_new": "results.tables",
    "results.tables_compare": "results.tables",
    "results.tables_cost": "results.tables",
    "results.tables_mean": "results.tables",
    "results.tables_shots": "results.tables",
    "results.tables_transfer": "results.tables",
    "results.transfer": "results.benchmark",
    "resuming": "training.trainer",
    "rules": "utils.rules",
    "selection": "methods.model",
    "sharing": "utils.process_cache",
    "sweep.display": "sweep.launcher",
    "sweep.gridfile": "sweep.grid",
    "sweep.isolation": "sweep.worker",
    "sweep.jobs": "sweep.grid",
    "sweep.launch": "sweep.launcher",
    "sweep.slots": "sweep.launcher",
    "sweep.slurm_launcher": "sweep.slurm",
    "sweep.slurm_ledger": "sweep.slurm_task",
    "sweep.slurm_queue": "sweep.slurm",
    "sweep.slurm_state": "sweep.slurm_task",
    "sweep.transfer": "sweep.grid",
    "sweep.variants": "sweep.grid",
    "teachers": "methods.prompts",
    "templates": "methods.prompts",
    "tracking": "training.tracking",
    "train": "runs.train",
    "training.checks": "training.trainer",
    "training.fitting": "training.trainer",
    "training.fixed_text": "trainers.zsclip",
    "training.precision": "training.trainer",
    "training.resuming": "training.trainer",
    "utils.archive_limits": "utils.unpack",
    "utils.errors": "utils.console",
    "utils.locks": "utils.files",
    "utils.member_names": "utils.unpack",
    "utils.members": "utils.unpack",
    "utils.progress": "utils.download",
    "utils.suggest": "utils.console",
    "utils.tables": "utils.reading",
    "utils.tar_stream": "utils.unpack",
    "utils.web": "utils.download",
    "web": "utils.download",
    "workplace": "results.folder",
}


class MovedModules(MetaPathFinder, Loader):
    """Finds a module by its old name: it is the one of the new name, not another."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of an old name; None for any other."""
        package, _, old = name.partition(".")
        return ModuleSpec(name, self) if package == "xcoop" and old in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Puts the module of the new name in the place of the empty one of the old."""
        old = module.__name__
        new = f"xcoop.{MOVED[old.removeprefix('xcoop.')]}"
        warnings.warn(f"{old} is {new} now", DeprecationWarning, stacklevel=2)
        found = sys.modules[old] = importlib.import_module(new)
        if not hasattr(found, "__path__") and any(f"xcoop.{name}".startswith(f"{old}.") for name in MOVED):
            found.__class__ = FormerPackage
            found.__path__ = []  # its modules are still asked for


class FormerPackage(ModuleType):
    """A module that was a package: importing an old module of it (`explain.visual.trace`) replaces no function."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in vars(self)):
            super().__setattr__(name, value)


def accept_instance_build(cls: Any) -> None:
    """Makes a trainer of version 0.1, whose `build_method` is an instance's, one of today; others are left alone."""
    build = vars(cls).get("build_method")
    if not isinstance(build, FunctionType):
        return
    warnings.warn(
        f"{cls.__name__}.build_method(self, backbone, classnames, bank) should be a class method now: "
        "build_method(cls, cfg, backbone, task)",
        DeprecationWarning,
        stacklevel=3,  # the class statement, above `__init_subclass__`
    )

    def build_of_task(cls: Any, cfg: Any, backbone: Any, task: Any) -> Any:
        known = SimpleNamespace(cfg=cfg, settings=cfg.TRAINER[cls.node], bank=task.bank, template=task.template)
        return build(known, backbone, task.classnames, task.bank)

    cls.build_method = classmethod(build_of_task)
