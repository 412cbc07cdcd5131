"""Fitting for trainers of either engine: what a method computes from all training images, not batch by batch."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dassl.data.data_manager import build_data_loader

from xcoop.backbones import LabelledFeatures
from xcoop.results import checkpoints
from xcoop.training.checks import with_workers_that_exist
from xcoop.training.feature_cache import FeatureLoader, FeatureStore
from xcoop.training.resuming import Resumable

logger = logging.getLogger(__name__)


class Fitting(Resumable):
    """Calls `PromptModel.prepare` and `PromptModel.conclude`, and keeps their results in the checkpoints.

    They see features of the training images as the test images are preprocessed, and of the validation images.
    """

    dm: Any
    device: Any
    store: FeatureStore
    val_loader: Any
    test_loader: Any
    output_dir: str

    def phase(self, name: str) -> AbstractContextManager[None]:
        """See `PromptTrainer.phase`."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Fits before the epochs, unless a checkpoint holds the result; without epochs, that is the whole training."""
        if not self.model.fitted or self._to_resume(self.cfg.RESUME or self.cfg.OUTPUT_DIR):
            return
        self.model.prepare(self._labelled(self._training_images()), self._validation())
        shapes = ", ".join(f"{name} {tuple(getattr(self.model, name).shape)}" for name in self.model.fitted)
        logger.info("fitted to %d training images: %s", len(self.dm.dataset.train_x), shapes)
        if not self.max_epoch:
            self.save_model(-1, self.output_dir, is_best=self._deploys_best())

    def _conclude(self) -> None:
        """Completes the model that will be tested, in its checkpoint, too."""
        if not self.model.fitted or not self.max_epoch:
            return
        name = checkpoints.BEST if self._deploys_best() else checkpoints.epoch_name(self.max_epoch)
        path = Path(self.output_dir, "prompt_learner", name)
        content = self._load(path)
        self.model.conclude(self._validation())
        checkpoints.write_checkpoint(path, content | {"state_dict": self.model.trained_state()})

    def _deploys_best(self) -> bool:
        return bool(self.cfg.TEST.FINAL_MODEL == "best_val" and not self.cfg.TEST.NO_TEST)

    def _training_images(self) -> Any:
        """A loader of each training image once, preprocessed as the test images are."""
        return build_data_loader(
            with_workers_that_exist(self.cfg),
            data_source=self.dm.dataset.train_x,
            batch_size=self.cfg.DATALOADER.TEST.BATCH_SIZE,
            tfm=self.test_loader.dataset.transform,
            is_train=False,
        )

    def _validation(self) -> LabelledFeatures | None:
        return None if self.val_loader is None else self._labelled(self.val_loader)

    def _labelled(self, loader: Any) -> LabelledFeatures:
        """All images of a loader, in the order of its dataset."""
        if not isinstance(loader, FeatureLoader):
            size, keep = self.cfg.DATALOADER.TEST.BATCH_SIZE, self.cfg.FEATURES.CACHE
            with self.phase("features"):
                loader = FeatureLoader(self.store.features(loader, size, keep), loader)
        return LabelledFeatures(loader.features, loader.labels.to(self.device))
