"""The bases of all trainers: the order of a training, and the test."""

from __future__ import annotations

import datetime
import os
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from xcoop.engine.batches import begin_epoch
from xcoop.engine.checkpoint import BEST
from xcoop.engine.evaluator import build_evaluator
from xcoop.engine.manager import DataManager
from xcoop.engine.models import ModelKeeper
from xcoop.engine.registry import Registry, check_availability

if TYPE_CHECKING:
    from yacs.config import CfgNode

TRAINER_REGISTRY = Registry("TRAINER")
HAND_OVER = 5.0  # seconds between two handings over of numbers to TensorBoard


def build_trainer(cfg: CfgNode) -> SimpleTrainer:
    """The trainer that `cfg.TRAINER.NAME` names.

    Raises:
        ValueError: it is not registered.
    """
    name = cfg.TRAINER.NAME
    check_availability(name, TRAINER_REGISTRY.registered_names())
    if cfg.VERBOSE:
        print(f"Loading trainer: {name}")
    trainer: SimpleTrainer = TRAINER_REGISTRY.get(name)(cfg)
    return trainer


class TrainerBase(ModelKeeper):
    """Runs the epochs, and says where a trainer can add to them."""

    cfg: CfgNode
    start_epoch: int
    epoch: int
    max_epoch: int
    output_dir: str
    device: torch.device

    def __init__(self) -> None:
        super().__init__()
        self._writer: Any = None
        self._scalars: list[tuple[str, float, int | None, float]] = []  # not handed to it yet
        self._handed = time.monotonic()

    # TensorBoard

    def init_writer(self, log_dir: str) -> None:
        """Opens the TensorBoard writer, once."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            print(f"Initialize tensorboard (log_dir={log_dir})")
            self._writer = SummaryWriter(log_dir=log_dir, max_queue=10_000)

    def close_writer(self) -> None:
        """Closes it."""
        if self._writer is not None:
            self._hand_over()
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Writes a number for TensorBoard; without a writer, nothing.

        Numbers are handed over some seconds' worth at once: its thread, woken by each, would slow short steps down.
        """
        if self._writer is None:
            return
        self._scalars.append((tag, float(scalar_value), global_step, time.time()))
        if time.monotonic() - self._handed >= HAND_OVER:
            self._hand_over()

    def _hand_over(self) -> None:
        for scalar in self._scalars:
            self._writer.add_scalar(*scalar)
        self._scalars.clear()
        self._handed = time.monotonic()

    # The training

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Runs the epochs from `start_epoch` to `max_epoch`; `before_train` may still move the start."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            for name in ("train_loader_x", "train_loader_u"):
                begin_epoch(getattr(self, name, None), epoch)
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self) -> None:
        """Called before the first epoch."""

    def after_train(self) -> None:
        """Called after the last epoch."""

    def before_epoch(self) -> None:
        """Called before each epoch."""

    def after_epoch(self) -> None:
        """Called after each epoch."""

    def run_epoch(self) -> None:
        """One pass over the training images."""
        raise NotImplementedError

    def test(self, split: str | None = None) -> float:
        """Evaluates the model."""
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        """What `forward_backward` needs of a batch."""
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> Any:
        """What `test` needs of a batch."""
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> dict[str, float]:
        """One step; returns what is to be shown."""
        raise NotImplementedError

    def model_inference(self, input: Any) -> Tensor:
        """The logits (B, C) of a batch of images."""
        raise NotImplementedError


class SimpleTrainer(TrainerBase):
    """Builds data, model and evaluator from the config, and says what happens around the epochs.

    Args:
        cfg: the run's config.
    """

    model: Any

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)

    def check_cfg(self, cfg: CfgNode) -> None:
        """Checks the config before anything is built; the base accepts all."""

    def build_data_loader(self) -> None:
        """Builds the data manager, and puts its loaders on the trainer."""
        dm = DataManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.dm = dm

    def build_model(self) -> None:
        """Builds and registers the model; a trainer must say how."""
        raise NotImplementedError(
            f"{type(self).__name__} has no build_model(). The networks of dassl.modeling are not part of this engine: "
            "build a model, an optimiser and a schedule, and register them."
        )

    def train(self) -> None:  # type: ignore[override]
        """Runs the training that the config describes."""
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        """Resumes if there is something to resume, opens the writer, starts the clock.

        Raises:
            ValueError: the best model on a validation split is asked for, and there is none. (The test split, which
                `test` would fall back to, must not choose a model.)
        """
        if self._wants_best() and self.val_loader is None:
            raise ValueError("TEST.FINAL_MODEL best_val: the dataset has no validation split to choose the model by")
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.cfg.OUTPUT_DIR)
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        self.time_start = time.time()

    def after_train(self) -> None:
        """Tests the final model."""
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        print(f"Elapsed: {datetime.timedelta(seconds=round(time.time() - self.time_start))}")
        self.close_writer()

    def after_epoch(self) -> None:
        """Validates if the best model is wanted, and writes the checkpoints that are due."""
        if self._wants_best():
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST)
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        is_due = frequency > 0 and (self.epoch + 1) % frequency == 0
        if is_due or self.epoch + 1 == self.max_epoch:
            self.save_model(self.epoch, self.output_dir)

    def _wants_best(self) -> bool:
        return not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val"

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluates on a split and prints the result.

        Args:
            split: `val` or `test`; None is TEST.SPLIT. Without a validation split, `val` means `test`.

        Returns:
            The first metric of the evaluator.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = split or self.cfg.TEST.SPLIT
        if split != "val" or self.val_loader is None:
            split = "test"
        loader: Any = self.val_loader if split == "val" else self.test_loader
        print(f"Evaluate on the *{split}* set")
        for batch in tqdm(loader, disable=None):  # a bar on a terminal only
            images, labels = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(images), labels)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def model_inference(self, input: Any) -> Tensor:
        """The logits (B, C)."""
        logits: Tensor = self.model(input)
        return logits

    def parse_batch_test(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels (B,) on the trainer's device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)
