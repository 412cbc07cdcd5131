"""Datasets that share a format: one reader, and a YAML file a set that names it and its classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xcoop.concepts.bank import same_name
from xcoop.config.plugins import own_view
from xcoop.data.about import about
from xcoop.data.dataset import MedicalDataset
from xcoop.utils.console import DatasetError

if TYPE_CHECKING:
    from yacs.config import CfgNode


class FamilyDataset(MedicalDataset):
    """One set of a family, `DATASET.SET`, with the class names `DATASET.CLASSES`, in the order that they shall have.

    The set's name in lower case is that of its configuration, its facts and its concept bank.
    """

    def __init__(self, cfg: CfgNode) -> None:
        cfg = own_view(cfg)
        self.name = str(cfg.DATASET.SET)
        classes = [str(name) for name in cfg.DATASET.CLASSES]
        if not self.name or not classes:
            family = cfg.DATASET.NAME
            raise DatasetError(f"{family} reads many sets: name one of its configurations, which state SET and CLASSES")
        if twice := sorted({name for name in classes if classes.count(name) > 1}):
            raise DatasetError(f"DATASET.CLASSES of {self.name} holds {', '.join(map(repr, twice))} more than once")
        self.about_name = self.concept_bank = self.name.lower()
        facts = about(self.about_name)
        task, counts = next(iter(facts.counts.items()))
        published = list(next(iter(counts.values()), classes))
        same = sorted(map(same_name, published)) == sorted(map(same_name, classes))
        self.tasks = {task: tuple(published if same else classes)}  # others are new names, in the order of the labels
        self.positive_class = facts.positive
        super().__init__(cfg)
