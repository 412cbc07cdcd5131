"""What runs need, looked at once before any of them is started: their images, concept banks and weights.

A dataset that is not there would end each run by itself, after its folder was made and its programme loaded. What is
found here ends all of them at once, in one message, and leaves nothing behind. Images are read in full for their faults
(see `xcoop.data.folders.survey`), and weights are fetched, so that workers find both done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from xcoop.sweep.job import DONE, Job
from xcoop.utils.console import UserError, describe, say

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from xcoop.data.dataset import Raw

FAULTS = (OSError, ValueError, ImportError)  # what a run would end with
# Keys of a dataset that choose among its images, or do not concern its files.
CHOICES = ("NUM_SHOTS", "SUBSAMPLE_CLASSES", "VAL_SHOTS", "VAL_PERCENT", "CONCEPT_BANK", "LABEL")


def require_ready(jobs: Sequence[Job], skip: bool = False) -> list[Job]:
    """The jobs that can be run: all of them, or with `skip` those that lack nothing and build on nothing that does.

    Weights are fetched only once all images are there.

    Args:
        jobs: what is to be run; what is done needs nothing.
        skip: leave out what cannot be run, and say so.

    Raises:
        UserError: something is not there, or cannot be read; or, with `skip`, nothing is left to run.
    """
    left = list(jobs)
    for weights in (False, True):
        if not (stopped := stops(left, images=not weights, weights=weights)):
            continue
        if not skip:
            raise UserError(_told(stopped, len(left)))
        out = {job.folder for group in stopped.values() for job in group}
        out |= {job.folder for job in left if job.after in out}
        say(*(f"left out: {line}" for line in stopped_lines(stopped)))
        left = [job for job in left if job.folder not in out]
        if not left:
            raise UserError("nothing is left to run: what each run needs is named above")
    return left


def stops(jobs: Sequence[Job], images: bool = False, weights: bool = False) -> dict[str, list[Job]]:
    """What stops runs, by the message, with the runs that it stops: datasets and banks that are not there, or broken.

    Args:
        jobs: those that are done are not looked at.
        images: read each image, too.
        weights: look at the weights alone, and fetch them.
    """
    tqdm.monitor_interval = 0  # no thread: workers may be forks of this process
    needs, found = _Needs(images), dict[str, list[Job]]()
    for job in jobs:
        if job.cfg is None or job.state() == DONE:
            continue
        try:
            needs.fetch_weights(job.cfg) if weights else needs.look_at_data(job)
        except FAULTS as error:
            found.setdefault(describe(error), []).append(job)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves it to the runs' logs to say how things were read."""
    library = logging.getLogger("xcoop")
    handler, before = logging.NullHandler(), library.propagate
    library.addHandler(handler)
    library.propagate = False
    try:
        yield
    finally:
        library.propagate = before
        library.removeHandler(handler)


def _told(stopped: dict[str, list[Job]], total: int) -> str:
    """The message itself if there is one; else the beginning of each."""
    runs = sum(map(len, stopped.values()))
    others = "" if runs == total else "; --skip-missing runs the others"
    if len(stopped) == 1:
        (message,) = stopped
        return message + (f"\nNothing was started: {runs} of {total} runs need it{others}." if others else "")
    head = f"nothing was started: {len(stopped)} things stop {runs} of {total} runs{others}"
    return "\n".join([head, *(f"  {line}" for line in stopped_lines(stopped)), "`xcoop data check NAME` says more."])


def stopped_lines(stopped: dict[str, list[Job]]) -> list[str]:
    """A line for each message: the first dataset that it stops, and how it begins."""
    lines = []
    for message, (job, *_) in stopped.items():
        stated = job.cfg.DATASET.LABEL if job.cfg is not None else ""
        name = stated or Path(job.words[job.words.index("--dataset-config-file") + 1]).stem
        lines.append(f"{name}: {message.splitlines()[0].removesuffix(' Looked for')}")  # where is said by `data check`
    return lines


class _Needs:
    """Looks at what runs need, at each thing once."""

    def __init__(self, images: bool) -> None:
        self.images = images  # whether each is read
        self._found: dict[object, Any] = {}  # by what was looked at: what it is, or the exception that it ended in

    def _once(self, key: object, find: Callable[[], Any]) -> Any:
        if key not in self._found:
            try:
                self._found[key] = find()
            except FAULTS as error:
                self._found[key] = error
        if isinstance(self._found[key], Exception):
            raise self._found[key]
        return self._found[key]

    def look_at_data(self, job: Job) -> None:
        """Reads dataset and concept bank; not those of another programme, nor a phantom, which is drawn when used."""
        from dassl.data.datasets import DATASET_REGISTRY
        from dassl.engine import TRAINER_REGISTRY

        from xcoop.data.dataset import DrawnDataset, MedicalDataset, read_raw
        from xcoop.training.trainer import PromptTrainer

        cfg: Any = job.cfg
        dataset, trainer = DATASET_REGISTRY.get(cfg.DATASET.NAME), TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
        if not _is_one(dataset, MedicalDataset) or _is_one(dataset, DrawnDataset):
            return
        key = repr([(key, value) for key, value in cfg.DATASET.items() if key not in CHOICES])
        look = dataset.examined if self.images else read_raw
        with _quiet():
            raw = self._once(key, lambda: look(cfg))
        if not job.after and _is_one(trainer, PromptTrainer) and trainer.uses_bank(cfg):  # an evaluation has that of
            half = cfg.DATASET.SUBSAMPLE_CLASSES  # its training
            self._once((key, cfg.DATASET.CONCEPT_BANK, half), lambda: _look_at_bank(cfg, raw))

    def fetch_weights(self, cfg: CfgNode) -> None:
        """Sees to it that the weights' files are here."""
        from xcoop.backbones import fetch_weights

        self._once(repr(cfg.MODEL.BACKBONE), lambda: fetch_weights(cfg))


def _is_one(cls: object, of: type) -> bool:
    """Whether a registered class is of a kind; another programme may have registered a function."""
    return isinstance(cls, type) and issubclass(cls, of)


def _look_at_bank(cfg: CfgNode, raw: Raw) -> None:
    from xcoop.concepts.bank import load_dataset_bank

    names = list(raw.class_names)
    asking = SimpleNamespace(
        name=raw.name, classnames=names, dataset_dir=str(raw.folder), concept_bank=raw.concept_bank
    )
    bank = load_dataset_bank(cfg, asking)
    if cfg.DATASET.SUBSAMPLE_CLASSES == "all":
        bank.for_classes(names)
