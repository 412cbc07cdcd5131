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

_NOW = {  # today's name: the old ones, which go with version 0.2; all of them below xcoop
    "backbones.base": "backbones.registry",
    "backbones.clip_model": "backbones.build backbones.clip_import backbones.download",
    "backbones.openai": "backbones.deep_prompts backbones.text_tower backbones.towers",
    "backbones.phantom": "backbones.phantom_weights phantom.weights",
    "backbones.vit": "backbones.blocks backbones.image_towers",
    "backbones.weight_files": "backbones.torchscript backbones.weights",
    "commands.concepts_mine": "concepts.mined_bank concepts.mining concepts.observations",
    "concepts.bank": "concepts.elicited concepts.schema concepts.skeleton",
    "concepts.chat": "concepts.elicit_client",
    "concepts.elicitation": (
        "concepts.elicit concepts.elicit_answers concepts.elicit_bank concepts.elicit_prompt "
        "concepts.elicit_store concepts.elicit_votes"
    ),
    "concepts.lint": "commands.concepts_check concepts.lint_words",
    "concepts.sentences": "concepts.controls concepts.ensembles concepts.features concepts.knowledge concepts.shares",
    "concepts.words": "concepts.circular concepts.wording",
    "config.augmentation": "data.augmentation",
    "config.merge": "commands.settings config.identity results.identity",
    "config.plugins": "config.defaults plugins",
    "data.about": "data.facts data.fetching",
    "data.checking": "data.check_page",
    "data.dataset": "data.drawn data.family data.raw",
    "data.folders": "data.class_folders data.survey",
    "data.ownfolder": "data.own",
    "data.splits": "data.hygiene data.items data.madesplit",
    "engine.checkpoint": "engine.nets engine.safeload",
    "engine.data": "engine.batches engine.dataset engine.datum engine.manager engine.samplers",
    "engine.imports": "engine.facade engine.finder",
    "engine.parts": "engine.evaluator engine.optim engine.schedule engine.transforms",
    "engine.patches": "engine.mends",
    "engine.tools": "engine.environment engine.filetools engine.logger engine.meters engine.registry engine.rng",
    "engine.trainer": "engine.loop engine.models",
    "evaluation.metrics": (
        "data.positive evaluation.calibration evaluation.drawn evaluation.positive evaluation.ranking"
    ),
    "evaluation.statistics": (
        "evaluation.bootstrap evaluation.comparisons evaluation.harmonic evaluation.intervals evaluation.mcnemar "
        "evaluation.multiple evaluation.paired evaluation.ranks"
    ),
    "explain.concepts": (
        "explain.textual explain.textual.concept_set explain.textual.decomposition explain.textual.intervention "
        "explain.textual.nearest_words explain.textual.prose explain.textual.subsets explain.words"
    ),
    "explain.ground_truth": "explain.masks explain.truth",
    "explain.html": "explain.page explain.schema",
    "explain.maps": (
        "explain.map_methods explain.target explain.visual explain.visual.finer "
        "explain.visual.gradcam explain.visual.gradeclip explain.visual.legrad explain.visual.maskclip "
        "explain.visual.occlusion explain.visual.registry explain.visual.relevancy explain.visual.rise "
        "explain.visual.rollout explain.visual.similarity"
    ),
    "explain.measures": "explain.controls explain.faithfulness explain.localisation",
    "explain.tower": "explain.attention explain.visual.trace",
    "explain.trained": "explain.explanation explain.loading",
    "explain.trust": "explain.textual.plausibility explain.trust_concepts explain.trust_rows explain.trust_table",
    "methods.alignment": "alignment",
    "methods.model": "methods.selection model selection",
    "methods.prompts": "methods.distillation methods.templates prompts teachers templates",
    "page": "page.document page.markup page.style",
    "phantom.chest": "phantom.chest_findings",
    "phantom.chest_anatomy": "phantom.chest_frame",
    "phantom.derm_lesion": "phantom.derm_concepts",
    "phantom.drawing": "phantom.folders phantom.texture",
    "phantom.layouts": "commands.phantom phantom.chest_layout phantom.derm_layout",
    "phantom.model": "phantom.student",
    "phantom.pretrain": "phantom.objective",
    "phantom.tables": "phantom.captions",
    "results.benchmark": "results.rows results.transfer",
    "results.checkpoints": "checkpoints",
    "results.compare": "results.assess results.comparisons results.measures results.outcomes",
    "results.figures": "results.critical_difference results.curves results.drawing results.reliability",
    "results.folder": "results.places workplace",
    "results.record": "results.predictions results.provenance results.spreadsheets",
    "results.report": "results.cells_csv results.page results.publish",
    "results.table": "results.facts results.sheet results.sheet_latex results.sheet_text",
    "results.tables": (
        "results.tables_base_new results.tables_compare results.tables_cost results.tables_mean "
        "results.tables_shots results.tables_transfer"
    ),
    "runs.plan": "plans",
    "runs.train": "train",
    "sweep.grid": "sweep.gridfile sweep.jobs sweep.transfer sweep.variants",
    "sweep.job": "sweep.isolation",
    "sweep.launcher": "sweep.display sweep.launch sweep.slots",
    "sweep.slurm": "sweep.slurm_launcher sweep.slurm_queue",
    "sweep.slurm_task": "sweep.slurm_ledger sweep.slurm_state",
    "trainers.maple": "deep_prompts methods.deep_prompts",
    "trainers.promptsrc": "averaging methods.averaging",
    "trainers.tipadapter": "cache_model methods.cache_model",
    "trainers.xcoop_released": "methods.released released",
    "trainers.zsclip": "fixed_text methods.fixed_text training.fixed_text",
    "training.feature_cache": "features",
    "training.tracking": "tracking",
    "training.trainer": (
        "checks fitting precision resuming training.checks training.fitting training.precision training.resuming"
    ),
    "utils.console": "commands.base names utils.errors utils.suggest",
    "utils.download": "downloads progress utils.progress utils.web web",
    "utils.files": "files locks utils.locks",
    "utils.images": "data.images",
    "utils.process_cache": "sharing",
    "utils.reading": "data.tables reading utils.tables",
    "utils.rules": "rules",
    "utils.unpack": (
        "data.archive_limits data.member_names data.members data.tar_stream data.unpack utils.archive_limits "
        "utils.member_names utils.members utils.tar_stream"
    ),
}
MOVED = {old: new for new, names in _NOW.items() for old in names.split()}


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
