"""The way of every dataset from files to `Datum` lists: read, check, clean, choose."""

from __future__ import annotations

import logging
import os
import posixpath
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from xcoop.concepts.bank import same_name
from xcoop.config.defaults import check_settings
from xcoop.config.plugins import own_view
from xcoop.data import hygiene
from xcoop.data.about import MissingDatasetError, about, compare_counts, missing
from xcoop.data.class_folders import left_out
from xcoop.data.folders import absolute
from xcoop.data.items import Remark, Splits
from xcoop.data.splits import carve, few_shot, record, subsample_classes, three_way
from xcoop.data.survey import refuse_unreadable, survey
from xcoop.evaluation.positive import check_asked, positive_class
from xcoop.utils import suggest as names
from xcoop.utils.console import DatasetError

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

CARVE_SEED = 0  # of validation and test patients: the same for every run, so that seeds and shots compare on one set
TEST_SHARE = 0.3  # of a set without official splits; CoOp's own divisions hold 50, 20 and 30 %
MAX_NAMED = 5
PHANTOM_MARK = "phantom.json"  # lies in, or just above, a folder of drawn pictures


class MedicalDataset(DatasetBase):
    """A dataset in its official layout, with clean splits; a subclass finds and reads the files.

    Attributes:
        name: in records and messages; of the class, or of the set that it was told to read.
        about_name: of the facts in `configs/datasets/about/`; empty if nothing is published.
        tasks: class names of each task in label order; the first task is the default.
        concept_bank: name or file of the bank for these classes; empty if there is none.
        positive_class: of tasks of two classes, the one that is looked for; as it is stated here, by the user, or by
            `xcoop.evaluation.positive.positive_class`. Empty for other tasks.
        changes_labels: kinds of augmentation that do not keep the labels, each with the reason (see
            `xcoop.config.augmentation`); of a set with published facts, as these state it.
        dataset_dir: the folder that holds the images.
        task: the task that was read.
        is_phantom: whether the pictures are drawn.
        whole_folders: whether all that lies in the folders of the images ought to be images of the set; not so where a
            table chooses among them.
        split_hash: digest of the full splits (see `Splits.digest`).
        patients: patient of each image by its path; None if the dataset does not tell.
    """

    name: str = ""
    dataset_dir: str = ""
    about_name: str = ""
    tasks: Mapping[str, tuple[str, ...]]
    concept_bank: str = ""
    positive_class: str = ""
    changes_labels: Mapping[str, str] = {}
    is_phantom: bool = False
    whole_folders: bool = True

    def __init__(self, cfg: CfgNode) -> None:
        cfg = own_view(cfg)
        check_settings(cfg, section="DATASET")
        self.name = self.name or type(self).__name__
        self.task = self._choose_task(cfg.DATASET.TASK)
        check_asked(cfg.DATASET.POSITIVE_CLASS, cfg.DATASET.CLASSES or self.class_names)
        if self.about_name:
            self.changes_labels = about(self.about_name).changes_labels
        folder = self.find(cfg)
        self.dataset_dir = str(folder)
        self.is_phantom = self.is_phantom or _is_drawn(folder)
        full = self._clean(cfg, folder, self._ordered(cfg, folder, self.read(folder)))
        self.split_hash = full.digest()
        splits = subsample_classes(self._few_shot(cfg, folder, full), cfg.DATASET.SUBSAMPLE_CLASSES)
        self.patients = _patients(folder, splits)
        super().__init__(**self._datums(folder, splits))
        self.positive_class = positive_class(self.classnames, cfg.DATASET.POSITIVE_CLASS or self.positive_class)

    @abstractmethod
    def find(self, cfg: CfgNode) -> Path:
        """The folder of the images; raises `self.missing(looked_for)` if there is none."""

    @abstractmethod
    def read(self, folder: Path) -> Splits:
        """The official splits for `self.task`. An empty val is carved from train; `Splits.undivided` is divided."""

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

    def _choose_task(self, asked: str) -> str:
        if asked and asked not in self.tasks:
            raise ValueError(f"{self.name}: {names.unknown('DATASET.TASK', asked, self.tasks)}")
        return asked or next(iter(self.tasks))

    @classmethod
    def classes_of(cls, cfg: CfgNode) -> tuple[str, ...] | None:
        """The class names that the set itself has for a configuration, in its own order; None if nothing tells them."""
        tasks = getattr(cls, "tasks", None)
        if not tasks:
            return None
        return tuple(tasks[cfg.DATASET.TASK or next(iter(tasks))])

    def _ordered(self, cfg: CfgNode, folder: Path, splits: Splits) -> Splits:
        """The splits with the classes in the order, and under the names, of `DATASET.CLASSES`."""
        _require_plain(folder, [*self.class_names, *(text for i in splits.all() for text in (i.path, i.patient))])
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

    def _clean(self, cfg: CfgNode, folder: Path, splits: Splits) -> Splits:
        if self.about_name and not self.is_phantom:
            for line in compare_counts(about(self.about_name), self.task, splits):
                logger.warning("%s: %s", self.name, line)
        for remark in self.remarks(folder, splits):
            logger.log(logging.WARNING if remark.matters else logging.INFO, "%s: %s", self.name, remark.text)
        self._require_every_class(folder, splits)
        findings = survey(folder, [item.path for item in splits.all()])
        refuse_unreadable(folder, findings)
        hashes = {path: finding.content for path, finding in findings.items()}
        splits = self._divide(splits, float(cfg.DATASET.VAL_PERCENT), hashes)
        splits, clashes = hygiene.clean(splits, hashes, hygiene.drops(cfg.DATASET.HYGIENE))
        hygiene.report(self.name, clashes)
        self._require_every_class(folder, splits)
        return splits

    def _divide(self, splits: Splits, val_share: float, hashes: Mapping[str, str]) -> Splits:
        if not splits.divided:
            splits = three_way(splits.train, CARVE_SEED, TEST_SHARE, val_share, hashes)
            sizes = tuple(len(items) for _, items in splits)
            logger.info(
                "%s: no official splits; divided by patient into %d train, %d val and %d test", self.name, *sizes
            )
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

    @staticmethod
    def _datums(folder: Path, splits: Splits) -> dict[str, list[Datum]]:
        train, val, test = (
            [Datum(impath=_impath(folder, item.path), label=item.label, classname=item.classname) for item in items]
            for _, items in splits
        )
        return {"train_x": train, "val": val, "test": test}


def class_names(cfg: CfgNode) -> tuple[str, ...] | None:
    """The classes of the dataset that a checked configuration names, in their order; None if nothing tells them."""
    if cfg.DATASET.CLASSES:
        return tuple(map(str, cfg.DATASET.CLASSES))
    cls: Any = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    return cls.classes_of(cfg) if issubclass(cls, MedicalDataset) else None


def same_classes(one: Sequence[str], two: Sequence[str]) -> bool:
    """Whether two lists hold the same classes, in whatever order and spelling (see `same_name`)."""
    return sorted(map(same_name, one)) == sorted(map(same_name, two))


def _require_plain(folder: Path, texts: Iterable[str]) -> None:
    """DatasetError for names that could not be written to every record and page later, after the training."""
    strange = sorted({text for text in (str(folder), *texts) if not names.is_plain(text)})
    if strange:
        examples = ", ".join(f"'{names.escaped(text)}'" for text in strange[:MAX_NAMED])
        examples += ", ..." if len(strange) > MAX_NAMED else ""
        raise DatasetError(
            f"{names.escaped(str(folder))}: {len(strange)} names of files, classes or patients are no UTF-8, or hold "
            f"control characters: {examples}. Rename them"
        )


def _is_drawn(folder: Path) -> bool:
    return any((place / PHANTOM_MARK).is_file() for place in (folder, folder.parent))


def _impath(folder: Path, path: str) -> str:
    return os.path.join(folder, path)


def _patients(folder: Path, splits: Splits) -> dict[str, str] | None:
    items = splits.all()
    if not all(item.patient for item in items):
        return None
    return {_impath(folder, item.path): item.patient for item in items}
