"""What a trainer looks at before it builds anything: workers, image size, normalisation, the concept bank."""

from __future__ import annotations

import logging
import os
from typing import Any

from xcoop.backbones import Backbone
from xcoop.concepts import ConceptBank, load_bank
from xcoop.concepts.bank import skeleton

logger = logging.getLogger(__name__)


def with_workers_that_exist(cfg: Any) -> Any:
    """The config with NUM_WORKERS capped to the CPUs of this process."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = cfg.DATALOADER.NUM_WORKERS
    if wanted <= cpus:
        return cfg
    logger.info("DATALOADER.NUM_WORKERS %d: this machine has %d CPUs, so %d", wanted, cpus, cpus)
    capped = cfg.clone()
    capped.defrost()
    capped.DATALOADER.NUM_WORKERS = cpus
    capped.freeze()
    return capped


def check_input(cfg: Any, backbone: Backbone) -> None:
    """Images must come as the backbone expects them: a wrong size is an error, another normalisation a warning."""
    if tuple(cfg.INPUT.SIZE) != (backbone.input_size, backbone.input_size):
        size = backbone.input_size
        raise ValueError(f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)}; {backbone.name} needs ({size}, {size})")
    for key, own in (("PIXEL_MEAN", backbone.pixel_mean), ("PIXEL_STD", backbone.pixel_std)):
        if max(abs(a - b) for a, b in zip(cfg.INPUT[key], own, strict=True)) > 1e-3:
            logger.warning(
                "INPUT.%s is %s; %s was trained with %s", key, list(cfg.INPUT[key]), backbone.name, list(own)
            )


def load_dataset_bank(cfg: Any, dataset: Any) -> ConceptBank:
    """The bank that DATASET.CONCEPT_BANK names, else the dataset's own."""
    name = cfg.DATASET.CONCEPT_BANK or getattr(dataset, "concept_bank", "")
    if not name:
        raise ValueError(
            f"dataset {cfg.DATASET.NAME} names no concept bank; set DATASET.CONCEPT_BANK to a name or file."
            + _how_to_write_one(dataset)
        )
    return load_bank(name)


def state_bank(bank: ConceptBank) -> None:
    """Says in the log which concepts a run goes by, and which clinicians have read them."""
    counts = " + ".join(str(len(concepts)) for concepts in bank.classes.values())
    readers = ", ".join(bank.reviewed_by) or "nobody so far"
    logger.info("concept bank %s %s: %s concepts, reviewed by %s", bank.name, bank.version, counts, readers)


def _how_to_write_one(dataset: Any) -> str:
    """A bank to be filled in, with the class names; "" if the dataset does not tell them."""
    name, classnames = getattr(dataset, "name", type(dataset).__name__), getattr(dataset, "classnames", ())
    if not classnames:
        return ""
    folder = getattr(dataset, "dataset_dir", "")
    where = f"{folder}/concepts.yaml" if name == "Folder" else "a YAML file"
    return f" To write one, fill this in and save it as {where}:\n\n{skeleton(name, classnames)}"
