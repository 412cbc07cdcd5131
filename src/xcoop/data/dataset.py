"""The way of every dataset from files to `Datum` lists: find, read, check, clean, choose."""

from __future__ import annotations

import logging
import os
import posixpath
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from xcoop.concepts.bank import same_name
from xcoop.config.plugins import check_settings, own_view
from xcoop.data.about import MissingDatasetError, about, compare_counts, missing
from xcoop.data.folders import absolute, left_out, refuse_unreadable, survey
from xcoop.data.splits import (
    Remark,
    Splits,
    carve,
    clean,
    few_shot,
    grouped,
    record,
    shown_some,
    subsample_classes,
    three_way,
    told,
)
from xcoop.evaluation.metrics import check_asked, positive_class
from xcoop.utils.console import DatasetError, escaped, is_plain, unknown
from xcoop.utils.files import cache_dir, writable

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

CARVE_SEED = 0  # of validation and test patients: the same for every run, so that seeds and shots compare on one set
TEST_SHARE = 0.3  # of a set without official splits; CoOp's own divisions hold 50, 20 and 30 %
MAX_NAMED = 5
PHANTOM_MARK = "phantom.json"  # lies in, or just above, a folder of drawn images
CASES = 1200  # of a phantom that is drawn on first use
SEED = 2019  # of that drawing; the runs' own seeds choose shots, not images


@dataclass(frozen=True)
class Raw:
    """A dataset as its reader gives it: before anything is compared, carved or left out."""

    name: str
    about_name: str  # of its facts; empty if nothing is published
    folder: Path  # of the images
    task: str
    class_names: tuple[str, ...]  # in label order
    is_phantom: bool
    splits: Splits  # as they are handed out; an empty val is carved from train later
    remarks: tuple[Remark, ...] = ()  # on how it was read
    drops: bool = True  # whether a run leaves out what clashes (DATASET.HYGIENE)
    concept_bank: str = ""  # name or file of the dataset's own bank; empty if there is none


class MedicalDataset(DatasetBase):
    """A dataset in its official layout, with clean splits; a subclass finds and reads the files.

    Attributes:
        name: in records and messages; of the class, or of the set that it was told to read.
        about_name: of the facts in `configs/datasets/about/`; empty if nothing is published.
        tasks: class names of each task in label order; the first task is the default.
        concept_bank: name or file of the bank for these classes; empty if there is none.
        positive_class: of tasks of two classes, the one that is looked for; as it is stated here, by the user, or by
            `xcoop.evaluation.metrics.positive_class`. Empty for other tasks.
        changes_labels: kinds of augmentation that do not keep the labels, each with the reason (see
            `xcoop.config.augmentation`); of a set with published facts, as these state it.
        dataset_dir: the folder that holds the images.
        task: the task that was read.
        is_phantom: whether the images are drawn.
        whole_folders: whether all that lies in the folders of the images ought to be images of the set; not so where a
            table chooses among them.
        split_hash: digest of the full splits (see `Splits.digest`).
        patients: patient of each image by its path; None if the dataset does not tell.
    """

    name: str = ""
    dataset_dir: str = ""
    about_name: str = ""
    tasks: Mapping[str, tuple[str, ...]] = {}
    concept_bank: str = ""
    positive_class: str = ""
    changes_labels: Mapping[str, str] = {}
    is_phantom: bool = False
    whole_folders: bool = True

    def __init__(self, cfg: CfgNode) -> None:
        cfg = own_view(cfg)
        raw = self.load(cfg)
        full = self._clean(cfg, raw)
        self.split_hash = full.digest()
        splits = subsample_classes(self._few_shot(cfg, raw.folder, full), cfg.DATASET.SUBSAMPLE_CLASSES)
        path_of = {item.path: os.path.join(raw.folder, item.path) for item in splits.all()}
        patients = {path_of[item.path]: item.patient for item in splits.all()}
        self.patients = patients if all(patients.values()) else None
        train, val, test = (
            [Datum(impath=path_of[item.path], label=item.label, classname=item.classname) for item in items]
            for _, items in splits
        )
        super().__init__(train_x=train, val=val, test=test)
        self.positive_class = positive_class(self.classnames, cfg.DATASET.POSITIVE_CLASS or self.positive_class)

    def load(self, cfg: CfgNode) -> Raw:
        """Finds and reads the set, and does nothing else with it.

        Raises:
            MissingDatasetError: it is not there; the message says how to get it.
            DatasetError: its files contradict its layout.
            ValueError: the configuration names no task of it, or states what no run could mean.
        """
        cfg = own_view(cfg)
        check_settings(cfg, section="DATASET")
        self.set_up(cfg)
        self.name = self.name or type(self).__name__
        if (task := cfg.DATASET.TASK) and task not in self.tasks:
            raise ValueError(f"{self.name}: {unknown('DATASET.TASK', task, self.tasks)}")
        self.task = task or next(iter(self.tasks))
        check_asked(cfg.DATASET.POSITIVE_CLASS, cfg.DATASET.CLASSES or self.class_names)
        if self.about_name:
            self.changes_labels = about(self.about_name).changes_labels
        folder = self.find(cfg)
        self.dataset_dir = str(folder)
        drawn = any((place / PHANTOM_MARK).is_file() for place in (folder, folder.parent))
        self.is_phantom = self.is_phantom or drawn
        splits = self._ordered(cfg, folder, self.tested(cfg, folder, self.read(folder)))
        remarks, drops = tuple(self.remarks(folder, splits)), cfg.DATASET.HYGIENE == "drop"
        names = tuple(self.class_names)
        told = (self.name, self.about_name, folder, self.task, names, self.is_phantom, splits, remarks, drops)
        return Raw(*told, self.concept_bank)

    @classmethod
    def examined(cls, cfg: CfgNode) -> Raw:
        """What `load` gives, once every class has a training image and every image can be read; else DatasetError."""
        dataset: Any = cls.__new__(cls)  # the constructor would go on to clean and choose
        raw: Raw = dataset.load(cfg)
        dataset._require_every_class(raw.folder, raw.splits)
        refuse_unreadable(raw.folder, survey(raw.folder, [item.path for item in raw.splits.all()]))
        return raw

    @staticmethod
    def guide() -> list[str]:
        """What has to be known of sets of which nothing is published, as lines; none of others."""
        return []

    def kept_split(self) -> Path | None:
        """Once it is loaded: the file of a split that was made before; None if there is none."""
        return None

    def set_up(self, cfg: CfgNode) -> None:
        """Takes from the configuration what the set is, where the class alone does not state it: name, tasks, bank."""

    @abstractmethod
    def find(self, cfg: CfgNode) -> Path:
        """The folder of the images; raises `self.missing(looked_for)` if there is none."""

    @abstractmethod
    def read(self, folder: Path) -> Splits:
        """The official splits for `self.task`. An empty val is carved from train; `Splits.undivided` is divided."""

    def tested(self, cfg: CfgNode, folder: Path, splits: Splits) -> Splits:
        """The splits; ValueError if test images are asked for from another split, though the set has its own way."""
        if cfg.DATASET.TEST_FROM:
            has = "has test images" if splits.divided else "has no splits, and is given all three"
            raise ValueError(f"{folder} {has}: leave out DATASET.TEST_FROM {cfg.DATASET.TEST_FROM}")
        return splits

    def remarks(self, folder: Path, splits: Splits) -> list[Remark]:
        """What has to be said of how the set was read; of one that takes whole folders, what it left out of them."""
        if not self.whole_folders:
            return []
        taken = {item.path for item in splits.all()}
        places = {posixpath.dirname(path) for path in taken}
        return left_out(folder, places, lambda path: path in taken or self.is_companion(path))

    def is_companion(self, path: str) -> bool:
        """Whether a file is known to lie beside the images without being one, such as a mask."""
        return False

    def concept_labels(self, folder: Path) -> dict[str, dict[str, str]] | None:
        """What the set itself says of each image: by path relative to `folder`, the value of each concept.

        The values are those of the set, in lower case; `present` and `absent` for a concept that is there or not. A
        concept on which the set is silent for an image is left out there. None: the set has no such labels.
        """
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the task, in label order, whatever is subsampled."""
        return self.tasks[self.task]

    def missing(self, looked_for: list[Path]) -> FileNotFoundError:
        """The error that says where the dataset was looked for and how to get it."""
        if self.about_name:
            return missing(about(self.about_name), looked_for)
        places = "\n".join(f"  {path}" for path in looked_for)
        return MissingDatasetError(f"{self.name} was not found. Looked for\n{places}\nName its place: DATASET.PATH")

    def first_holding(self, candidates: list[Path], *names: str) -> Path:
        """The first folder that holds one of these files or folders; raises `missing` if none does."""
        for folder in candidates:
            if any((folder / name).exists() for name in names):
                return folder
        raise self.missing([folder / names[0] for folder in candidates])

    @staticmethod
    def places(cfg: CfgNode, *below_root: str) -> list[Path]:
        """Where to look: `DATASET.PATH` alone if it is given, else these paths below `DATASET.ROOT`."""
        if cfg.DATASET.PATH:
            return [absolute(cfg.DATASET.PATH)]
        return [absolute(cfg.DATASET.ROOT) / below for below in below_root]

    @classmethod
    def classes_of(cls, cfg: CfgNode) -> tuple[str, ...] | None:
        """The class names that the set itself has for a configuration, in its own order; None if nothing tells them."""
        return tuple(cls.tasks[cfg.DATASET.TASK or next(iter(cls.tasks))]) if cls.tasks else None

    def _ordered(self, cfg: CfgNode, folder: Path, splits: Splits) -> Splits:
        """The splits with the classes in the order, and under the names, of `DATASET.CLASSES`."""
        texts = {str(folder), *self.class_names, *(text for item in splits.all() for text in (item.path, item.patient))}
        if strange := sorted(text for text in texts if not is_plain(text)):
            # They could not be written to every record and page later, after the training.
            shown = shown_some((f"'{escaped(text)}'" for text in strange), MAX_NAMED)
            raise DatasetError(
                f"{escaped(str(folder))}: {len(strange)} names of files, classes or patients are no UTF-8, or hold "
                f"control characters: {shown}. Rename them"
            )
        wanted = tuple(map(str, cfg.DATASET.CLASSES))
        if not wanted or wanted == self.class_names:
            return splits
        if not same_classes(self.class_names, wanted):
            raise DatasetError(
                f"{folder}: the classes are not those of DATASET.CLASSES (case, '_', '-' aside).\n"
                f"  there:           {', '.join(map(repr, self.class_names))}\n"
                f"  DATASET.CLASSES: {', '.join(map(repr, wanted))}"
            )
        place = {same_name(name): label for label, name in enumerate(wanted)}
        new = [place[same_name(name)] for name in self.class_names]  # of each own label
        moved = (
            [replace(item, label=new[item.label], classname=wanted[new[item.label]]) for item in items]
            for _, items in splits
        )
        self.tasks = {**self.tasks, self.task: wanted}
        named = [name for name in wanted if same_name(name) == same_name(self.positive_class)]
        self.positive_class = "".join(named) or self.positive_class
        return replace(Splits.of(*moved), divided=splits.divided)

    def _clean(self, cfg: CfgNode, raw: Raw) -> Splits:
        """The full splits of a run: compared with the published, images readable, divided, nothing in two of them."""
        if self.about_name and not self.is_phantom:
            for line in compare_counts(about(self.about_name), self.task, raw.splits):
                logger.warning("%s: %s", self.name, line)
        for remark in raw.remarks:
            logger.log(logging.WARNING if remark.matters else logging.INFO, "%s: %s", self.name, remark.text)
        self._require_every_class(raw.folder, raw.splits)
        findings = survey(raw.folder, [item.path for item in raw.splits.all()])
        refuse_unreadable(raw.folder, findings)
        hashes = {path: finding.content for path, finding in findings.items()}
        splits, clashes = clean(self._divide(raw.splits, float(cfg.DATASET.VAL_PERCENT), hashes), hashes, raw.drops)
        for group in grouped(clashes):
            logger.warning("%s: %s", self.name, told(group))
        self._require_every_class(raw.folder, splits)
        return splits

    def _divide(self, splits: Splits, val_share: float, hashes: Mapping[str, str]) -> Splits:
        if not splits.divided:
            splits = three_way(splits.train, CARVE_SEED, TEST_SHARE, val_share, hashes)
            sizes = ", ".join(f"{len(items)} {split}" for split, items in splits)
            logger.info("%s: no official splits; divided by patient into %s", self.name, sizes)
        elif not splits.val:
            train, val = carve(splits.train, val_share, CARVE_SEED, hashes)
            splits = Splits.of(train, val, splits.test)
            logger.info("%s: %d validation images carved from train, by patient", self.name, len(val))
        return splits

    def _require_every_class(self, folder: Path, splits: Splits) -> None:
        """Each class needs a training image (the engine takes the class names from there), the test set any."""
        found = {item.classname for item in splits.train}
        if lacking := [name for name in self.class_names if name not in found]:
            raise DatasetError(f"{folder}: no training image of {', '.join(map(repr, lacking))}")
        if splits.divided and not splits.test:
            raise DatasetError(f"{folder}: no test image")

    def _few_shot(self, cfg: CfgNode, folder: Path, full: Splits) -> Splits:
        shots, seed, val_shots = int(cfg.DATASET.NUM_SHOTS), int(cfg.SEED), int(cfg.DATASET.VAL_SHOTS)
        if shots < 1:
            return full
        chosen = few_shot(full, shots, seed, salt=f"{self.name}|{self.task}", val_shots=val_shots)
        facts = {"dataset": self.name, "task": self.task, "shots": shots, "seed": seed, "source": self.split_hash}
        suffix = "" if self.task == next(iter(self.tasks)) else f"-{self.task}"
        suffix += f"-val_{val_shots}" if val_shots else ""
        path = record(chosen, folder, facts, f"shot_{shots}-seed_{seed}{suffix}.json")
        logger.info("%s: few-shot subset of %d images: %s", self.name, len(chosen.train), path)
        return chosen


class FamilyDataset(MedicalDataset):
    """One set of a family that shares a format: `DATASET.SET`, with the class names `DATASET.CLASSES` in their order.

    The set's name in lower case is that of its configuration, its facts and its concept bank.
    """

    def set_up(self, cfg: CfgNode) -> None:
        """Takes name and classes from the configuration, the task from the facts."""
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
        # Others are new names, in the order of the labels.
        self.tasks = {task: tuple(published if same_classes(published, classes) else classes)}
        self.positive_class = facts.positive


class DrawnDataset(MedicalDataset):
    """A phantom of `DATASET.CASES` cases (0: 1,200), drawn if it is not there, and found again.

    It lies below `DATASET.ROOT`, or below the cache if no root is given or it cannot be written to;
    `DATASET.PATH` names another folder, drawn into if it is missing.
    """

    is_phantom = True

    @abstractmethod
    def folder_name(self, cases: int) -> str:
        """Of the drawing; other images have another name."""

    @abstractmethod
    def draw(self, out: Path, cases: int) -> None:
        """Draws whole or not at all; FileExistsError if another process was faster."""

    @abstractmethod
    def inside(self, folder: Path) -> Path | None:
        """What is read of a drawing's folder; None if it holds no drawing."""

    def find(self, cfg: CfgNode) -> Path:
        """What is read of the phantom; drawn if it is not there."""
        cases = int(cfg.DATASET.CASES) or CASES
        name = self.folder_name(cases)
        places = [cache_dir() / name]
        if cfg.DATASET.PATH:
            places = self.places(cfg)
        elif cfg.DATASET.ROOT:
            (below_root,) = self.places(cfg, name)
            places = [*places, below_root] if writable(below_root) else [below_root, *places]
        for folder in places:
            if found := self.inside(folder):
                return found
        folder = places[-1]
        if folder.exists() and any(folder.iterdir()):
            raise self.missing([folder])
        logger.info("drawing %d phantom cases into %s, once", cases, folder)
        try:
            self.draw(folder, cases)
        except OSError:
            if not self.inside(folder):
                raise
            logger.info("another process drew %s first; it is used", folder)
        return self.inside(folder) or folder


def read_raw(cfg: CfgNode) -> Raw:
    """The dataset that a configuration names, see `MedicalDataset.load`; ValueError if it is not of this kind."""
    cls: Any = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if not issubclass(cls, MedicalDataset):
        raise ValueError(f"{cls.__name__} is no MedicalDataset, and cannot be read without being cleaned")
    return cls.__new__(cls).load(cfg)  # the constructor would go on to clean and choose


def class_names(cfg: CfgNode) -> tuple[str, ...] | None:
    """The classes of the dataset that a checked configuration names, in their order; None if nothing tells them."""
    if cfg.DATASET.CLASSES:
        return tuple(map(str, cfg.DATASET.CLASSES))
    cls: Any = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    return cls.classes_of(cfg) if issubclass(cls, MedicalDataset) else None


def same_classes(one: Sequence[str], two: Sequence[str]) -> bool:
    """Whether two lists hold the same classes, in whatever order and spelling (see `same_name`)."""
    return sorted(map(same_name, one)) == sorted(map(same_name, two))
