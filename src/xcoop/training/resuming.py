"""Saving, resuming and loading for trainers of either engine: only what was trained, and exactly where it was."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from xcoop.concepts.bank import same_name
from xcoop.engine.rng import restore_rng, rng_state
from xcoop.methods.model import PromptModel
from xcoop.results import checkpoints
from xcoop.training.precision import Precision

logger = logging.getLogger(__name__)


class Resumable:
    """The three checkpoint methods of a trainer, in the place of the engine's."""

    cfg: Any
    model: PromptModel
    precision: Precision
    optim: Any  # None where nothing is trained in steps
    sched: Any
    best_result: float
    max_epoch: int
    _loaded: tuple[str | None, int | None]

    def save_model(
        self, epoch: int, directory: str, is_best: bool = False, val_result: float | None = None, model_name: str = ""
    ) -> None:
        """Writes what was trained, and what a resumed run needs to go on as if it had never stopped."""
        if not self.model.state_tensors():
            return
        stepped = {} if self.optim is None else checkpoints.optimiser_state(self.optim, epoch + 1)
        content = {
            "state_dict": self.model.trained_state(),
            "epoch": epoch + 1,
            "max_epoch": self.max_epoch,
            **stepped,
            "scaler": self.precision.state(),
            "val_result": None if val_result is None else float(val_result),
            "best_result": float(self.best_result),
            "rng": rng_state(),
            "trainer": type(self).__name__,
            "classnames": self.model.classnames,
            **self.extra_state(),
        }
        folder = Path(directory, "prompt_learner")
        path = folder / (model_name or checkpoints.epoch_name(epoch + 1))
        checkpoints.write_checkpoint(path, content)
        logger.info("Checkpoint saved to %s", path)
        if is_best:
            checkpoints.write_checkpoint(folder / checkpoints.BEST, content)

    def extra_state(self) -> dict[str, Any]:
        """What else a resumed run needs; a method that has something extends this and `_restore`."""
        return {}

    def resume_model_if_exist(self, directory: str) -> int:
        """Continues from the last checkpoint below `directory`; the number of epochs that are done.

        Raises:
            ValueError: it does not belong to such a run, or is damaged; or RESUME names a folder without one.
        """
        path = self._to_resume(directory)
        if path is None:
            if self.cfg.RESUME:
                checkpoints.require_resumable(self.cfg.RESUME)
            logger.info("No checkpoint found, train from scratch")
            return 0
        logger.info("Found checkpoint at %s (will resume training)", directory)
        content = self._load(path)
        epoch: int = content["epoch"]
        if not 0 <= epoch <= self.max_epoch:
            raise ValueError(f"{path} was written after epoch {epoch}; this run has OPTIM.MAX_EPOCH {self.max_epoch}")
        _require_same_length(path, content.get("max_epoch", self.max_epoch), self.max_epoch)
        try:
            self._restore(content)
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} is no checkpoint to resume from ({type(error).__name__}: {error})") from error
        return epoch

    def _to_resume(self, directory: str) -> Path | None:
        """The checkpoint to go on from; None if there is none, or nothing that one could hold."""
        return checkpoints.latest_checkpoint(Path(directory, "prompt_learner")) if self.model.state_tensors() else None

    def _restore(self, content: dict[str, Any]) -> None:
        """Puts all but the weights to where they were."""
        if self.optim is not None:
            checkpoints.restore_optimiser(self.optim, self.sched, content)
        self.precision.load_state(content.get("scaler"))
        self.best_result = float(content.get("best_result", self.best_result))
        if "rng" in content:
            restore_rng(content["rng"])

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Loads what was trained: the given epoch; else the best one; else, without a best one, the last.

        Contexts that hold for all classes can be loaded for other classes.
        """
        if directory:
            self._loaded = directory, epoch
        if not directory or not self.model.state_tensors():
            logger.info("load_model() is skipped: nothing trained is given or needed")
            return
        folder = Path(directory, "prompt_learner")
        path = folder / (checkpoints.BEST if epoch is None else checkpoints.epoch_name(epoch))
        if epoch is None and not path.is_file() and self.cfg.TEST.FINAL_MODEL != "best_val":
            path = checkpoints.latest_checkpoint(folder) or path
        content = self._load(path)
        logger.info('Loading weights to prompt_learner from "%s" (epoch = %s)', path, content["epoch"])

    def _load(self, path: Path) -> dict[str, Any]:
        content = checkpoints.read_checkpoint(path)
        if self.model.class_specific:
            _require_same_classes(path, content.get("classnames"), self.model.classnames)
        self.model.load_trained_state(content["state_dict"], str(path))
        return content


def _require_same_classes(path: Path, trained: list[str] | None, wanted: list[str]) -> None:
    """ValueError if contexts that belong to classes were trained for others; old checkpoints do not tell."""
    if trained and list(map(same_name, trained)) != list(map(same_name, wanted)):
        raise ValueError(
            f"{path} holds contexts of the classes {trained}, and this dataset has {wanted}: class-specific contexts, "
            "caches and classifiers do not transfer; only what all classes share does (e.g. CoOp with "
            "TRAINER.COOP.CSC False, CoCoOp, CLIPAdapter)"
        )


def _require_same_length(path: Path, total: int, wanted: int) -> None:
    """ValueError if a checkpoint was written on the way to another number of epochs; old checkpoints do not tell."""
    if total != wanted:
        raise ValueError(
            f"{path} belongs to a training with OPTIM.MAX_EPOCH {total}, and this one has {wanted}. Learning rates and "
            "means over epochs follow the whole length, so the result would be that of neither: train from the start "
            f"in another folder, or begin a new training at these weights with MODEL.INIT_WEIGHTS {path}"
        )
