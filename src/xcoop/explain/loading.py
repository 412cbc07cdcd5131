"""From the folder of a finished run to a model that predicts and explains. No dataset is needed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from xcoop.backbones import Backbone, load_backbone
from xcoop.concepts import ConceptBank, load_bank
from xcoop.config.defaults import add_missing, get_cfg
from xcoop.config.identity import config_hash, read_config
from xcoop.config.plugins import trainer_class
from xcoop.explain.trained import TrainedModel
from xcoop.methods.model import PromptModel, Task
from xcoop.methods.templates import DEFAULT
from xcoop.results import checkpoints
from xcoop.results.record import CONFIG, RESULTS, read_run

logger = logging.getLogger(__name__)


def load_run(folder: Path, device: str | None = None) -> TrainedModel:
    """The trained model of a run; see `xcoop.load_run`."""
    results = _finished(folder)
    cfg = _config(folder / CONFIG, results)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu"))
    backbone = load_backbone(cfg).to(where)
    bank = _bank(cfg, results)
    trainer = trainer_class(cfg.TRAINER.NAME)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(max(cfg.SEED, 0))  # as in training, so that `start` is where it started
        known = bank if trainer.uses_bank(cfg) else None
        task = Task(results["classnames"], known, results.get("template") or DEFAULT)
        model = trainer.build_method(cfg, backbone, task)
    model = model.to(where).eval()
    start = model.trained_state()
    _load_weights(model, folder, cfg, results)
    _check_backbone(backbone, results, folder)  # now that tuned norm layers are in place
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return TrainedModel(folder, cfg, results, model, start, bank, where)


def _finished(folder: Path) -> dict[str, Any]:
    results = read_run(folder)
    if results is None or not (folder / CONFIG).is_file():
        inside = sorted(str(path.parent) for path in folder.glob(f"*/{RESULTS}")) if folder.is_dir() else []
        hint = f"; finished runs below it: {', '.join(inside)}" if inside else ""
        raise FileNotFoundError(f"{folder} is not the folder of a finished run: {RESULTS} and {CONFIG} needed{hint}")
    return results


def _config(path: Path, results: dict[str, Any]) -> Any:
    """The saved config; keys that are newer than it have their defaults.

    Raises:
        ValueError: it is not that of the recorded run.
    """
    cfg = CfgNode(read_config(path))
    found = config_hash(cfg)
    if (found, cfg.get("SEED")) != (results["config_hash"], results["seed"]):
        raise ValueError(
            f"{path} was changed after the run: its settings have the SHA-256 {found[:12]}... and the seed "
            f"{cfg.get('SEED')}, and {RESULTS} records {results['config_hash'][:12]}... and {results['seed']}. Restore "
            "it; data and weights may lie in another folder (DATASET.ROOT, MODEL.BACKBONE.PATH), under their old names"
        )
    add_missing(cfg, get_cfg())
    cfg.freeze()
    return cfg


def _check_backbone(backbone: Backbone, results: dict[str, Any], folder: Path) -> None:
    """A prompt means nothing to other weights than those it was learned with."""
    wanted, found = results.get("backbone_sha256"), backbone.fingerprint()
    if wanted and wanted != found:
        raise ValueError(
            f"{folder / RESULTS}: the run's backbone {results['backbone']} had weights with SHA-256 {wanted[:12]}..., "
            f"those found now have {found[:12]}...: set MODEL.BACKBONE.PATH in {CONFIG} "
            "to where the run's own weights lie, under their old name"
        )


def _bank(cfg: Any, results: dict[str, Any]) -> ConceptBank | None:
    """The concepts of the run's classes, also for methods that were trained without them; None if there are none."""
    from dassl.data.datasets import DATASET_REGISTRY

    known = cfg.DATASET.NAME in DATASET_REGISTRY.registered_names()  # else it belongs to the programme that trained
    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME) if known else None
    name = cfg.DATASET.CONCEPT_BANK or results.get("concept_bank") or getattr(dataset, "concept_bank", "")
    if not name:
        return None
    try:
        bank = load_bank(name).for_classes(results["classnames"])
    except (OSError, ValueError) as error:
        if results.get("bank"):
            raise
        logger.warning("no concepts for the classes %s: %s", results["classnames"], error)
        return None
    recorded = results.get("bank")
    if recorded and recorded["sha256"] != bank.sha256:
        logger.warning("concept bank %s has changed since the run (%s)", name, bank.path)
    return bank


def _load_weights(model: PromptModel, folder: Path, cfg: Any, results: dict[str, Any]) -> None:
    if not model.state_tensors() or results.get("evaluated_from") == "untrained":
        return
    source = Path(results["evaluated_from"]) if results.get("evaluated_from") else folder
    checkpoint = source / "prompt_learner"
    epoch = results.get("load_epoch")
    path = checkpoint / (checkpoints.BEST if epoch is None else checkpoints.epoch_name(epoch))
    if epoch is None and not path.is_file() and cfg.TEST.FINAL_MODEL != "best_val":
        path = checkpoints.latest_checkpoint(checkpoint) or path
    model.load_trained_state(checkpoints.read_checkpoint(path)["state_dict"], str(path))
