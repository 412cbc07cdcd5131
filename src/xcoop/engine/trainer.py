"""The bases of all trainers: models with their optimisers, checkpoints, the order of a training, the test."""

from __future__ import annotations

import datetime
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xcoop.engine.checkpoint import BEST, POINTER, load_checkpoint, resume_from_checkpoint, save_checkpoint
from xcoop.engine.evaluator import build_evaluator
from xcoop.engine.filetools import as_sequence
from xcoop.engine.manager import DataManager
from xcoop.engine.registry import Registry, check_availability

if TYPE_CHECKING:
    from yacs.config import CfgNode

TRAINER_REGISTRY = Registry("TRAINER")

Names = str | Sequence[str] | None


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


class TrainerBase:
    """Keeps models with their optimisers and schedulers, and runs the epochs."""

    cfg: CfgNode
    start_epoch: int
    epoch: int
    max_epoch: int
    output_dir: str
    device: torch.device

    def __init__(self) -> None:
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: Any = None
        self.best_result = float("-inf")

    # Models

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Puts a model under the trainer's care: its mode, its steps, its checkpoints.

        Args:
            name: also the folder of its checkpoints.
            model: the module.
            optim: its optimiser; None if it is not trained.
            sched: the optimiser's schedule.

        Raises:
            AttributeError: `super().__init__()` was not called yet.
            AssertionError: the name is taken.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("a model cannot be registered before super().__init__() was called")
        if name in self._models:
            raise AssertionError(f"there is a model named {name!r} already")
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: Names = None) -> list[str]:
        """The given names, or all.

        Raises:
            AssertionError: a name is unknown.
        """
        chosen = as_sequence(names, list(self._models))
        for name in chosen:
            if name not in self._models:
                raise AssertionError(f"no model named {name!r}; there are {list(self._models)}")
        return chosen

    def set_model_mode(self, mode: str = "train", names: Names = None) -> None:
        """Puts registered models in train mode (`train`) or eval mode (`test`, `eval`).

        Raises:
            KeyError: another word.
        """
        if mode not in ("train", "test", "eval"):
            raise KeyError(f"the mode {mode!r} is none of train, test, eval")
        for name in self.get_model_names(names):
            if self._models[name] is not None:
                self._models[name].train(mode == "train")

    def update_lr(self, names: Names = None) -> None:
        """Moves the schedules on by one epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names: Names = None) -> float:
        """The rate of the first group of the first optimiser."""
        name = self.get_model_names(names)[0]
        return float(self._optims[name].param_groups[0]["lr"])

    # One step

    def detect_anomaly(self, loss: Tensor) -> None:
        """Stops a training that has left the numbers.

        Raises:
            FloatingPointError: the loss is infinite or not a number.
        """
        if not torch.isfinite(loss).all():
            raise FloatingPointError("Loss is infinite or NaN!")

    def model_zero_grad(self, names: Names = None) -> None:
        """Clears the gradients."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: Tensor) -> None:
        """Checks the loss and computes the gradients."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: Names = None) -> None:
        """Takes one step with each optimiser."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: Tensor, names: Names = None) -> None:
        """Clears the gradients, computes them, takes a step."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    # Checkpoints

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Writes a checkpoint of each model.

        Args:
            epoch: the epoch just finished, from 0.
            directory: the run's folder; each model has a folder in it.
            is_best: copy it to the best model's name.
            val_result: the validation result, in percent.
            model_name: a file name in place of `model.pth.tar-<epoch + 1>`.
        """
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1,
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                "val_result": None if val_result is None else float(val_result),
                "best_result": float(self.best_result),
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def resume_model_if_exist(self, directory: str) -> int:
        """Goes on from the newest checkpoints in a folder, if every model has one.

        Returns:
            How many epochs are finished.
        """
        folders = {name: os.path.join(directory, name) for name in self.get_model_names()}
        if not folders or not all(os.path.isfile(os.path.join(folder, POINTER)) for folder in folders.values()):
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        epoch = 0
        for name, folder in folders.items():
            epoch = resume_from_checkpoint(folder, self._models[name], self._optims[name], self._scheds[name])
        return epoch

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Loads the weights of each model for a test.

        Args:
            directory: a run's folder; empty does nothing.
            epoch: which epoch's checkpoint; None is the best model.

        Raises:
            FileNotFoundError: there is no such checkpoint.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            path = os.path.join(directory, name, BEST if epoch is None else f"model.pth.tar-{epoch}")
            if not os.path.exists(path):
                raise FileNotFoundError(f"no model at {path!r}")
            checkpoint = load_checkpoint(path)
            result = checkpoint.get("val_result")
            score = "" if result is None else f", val_result = {result:.1f}"
            print(f'Loading weights to {name} from "{path}" (epoch = {checkpoint["epoch"]}{score})')
            self._models[name].load_state_dict(checkpoint["state_dict"])

    # TensorBoard

    def init_writer(self, log_dir: str) -> None:
        """Opens the TensorBoard writer, once."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            print(f"Initialize tensorboard (log_dir={log_dir})")
            self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self) -> None:
        """Closes it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Writes a number for TensorBoard; without a writer, nothing."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # The training

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Runs the epochs from `start_epoch` to `max_epoch`; `before_train` may still move the start."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        for self.epoch in range(self.start_epoch, self.max_epoch):
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

    def model_inference(self, input: Any) -> Tensor:  # noqa: A002 (the name is part of the interface)
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
        self.best_result = float("-inf")

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
        """Resumes if there is something to resume, opens the writer, starts the clock."""
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
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST)
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        is_due = frequency > 0 and (self.epoch + 1) % frequency == 0
        if is_due or self.epoch + 1 == self.max_epoch:
            self.save_model(self.epoch, self.output_dir)

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

    def model_inference(self, input: Any) -> Tensor:  # noqa: A002
        """The logits (B, C)."""
        logits: Tensor = self.model(input)
        return logits

    def parse_batch_test(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels (B,) on the trainer's device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)
