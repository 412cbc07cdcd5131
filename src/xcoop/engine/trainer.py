"""The base of all trainers: what is built, the order of a training, its steps and the test, models and checkpoints."""

from __future__ import annotations

import datetime
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from xcoop.engine.checkpoint import BEST, epoch_file, load_checkpoint, newest, restore, save_checkpoint
from xcoop.engine.data import DataManager, begin_epoch, deploys_best, require_validation
from xcoop.engine.imports import needs_dassl
from xcoop.engine.parts import build_evaluator
from xcoop.engine.tools import AverageMeter, MetricMeter, Registry

TRAINER_REGISTRY = Registry("TRAINER")
HAND_OVER = 5.0  # seconds between two handings over of numbers to TensorBoard

Names = str | Sequence[str] | None


def build_trainer(cfg: CfgNode) -> TrainerX:
    """The trainer that `cfg.TRAINER.NAME` names; ValueError if it is not registered."""
    trainer: TrainerX = TRAINER_REGISTRY.build(cfg.TRAINER.NAME, cfg)
    return trainer


class Taken(NamedTuple):
    """A step that was taken, and what is to be shown of it."""

    step: int
    numbers: Mapping[str, float | Tensor] | None
    rate: float
    before: str  # its line in the log: what stands before the numbers, and behind
    after: str


def with_numbers(taken: Sequence[Taken]) -> list[Taken]:
    """The steps with numbers in the place of scalar tensors, all read at once: each reading waits for the device."""
    waiting = [
        (index, name, value)
        for index, one in enumerate(taken)
        if isinstance(one.numbers, Mapping)
        for name, value in one.numbers.items()
        if isinstance(value, Tensor)
    ]
    if not waiting:
        return list(taken)
    device = waiting[0][2].device
    read = torch.stack([value.detach().to(device, torch.float64).reshape(()) for *_, value in waiting]).tolist()
    plain = [dict(one.numbers or {}) for one in taken]
    for (index, name, _), number in zip(waiting, read, strict=True):
        plain[index][name] = number
    return [one._replace(numbers=numbers) for one, numbers in zip(taken, plain, strict=True)]


class TrainerX:
    """A trainer on labelled images: it builds data, model and evaluator from the config, trains and tests.

    A method says `build_model` and `forward_backward(batch)`, which returns the numbers to show, and which steps the
    schedule: `update_lr()` at the last batch of an epoch.
    """

    model: Any
    scaler: Any = None  # a gradient scaler, where a trainer of mixed precision sets one
    num_batches: int
    batch_idx: int

    def __init__(self, cfg: CfgNode) -> None:
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self.best_result = float("-inf")
        self._writer: Any = None
        self._scalars: list[tuple[str, float, int | None, float]] = []  # not handed to it yet
        self._handed = time.monotonic()
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
        dm = self.dm = DataManager(self.cfg)
        self.train_loader_x, self.train_loader_u = dm.train_loader_x, dm.train_loader_u
        self.val_loader, self.test_loader = dm.val_loader, dm.test_loader
        self.num_classes, self.num_source_domains = dm.num_classes, dm.num_source_domains
        self.lab2cname = dm.lab2cname

    def build_model(self) -> None:
        """Builds and registers the model, its optimiser and its schedule."""
        raise NotImplementedError(needs_dassl(f"{type(self).__name__} without a build_model() of its own"))

    def train(self) -> None:
        """Runs the epochs from where `before_train` finds the training to MAX_EPOCH."""
        self.before_train()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            # Here, since programmes have trainers with a `run_epoch` of their own, and some without this loader.
            begin_epoch(getattr(self, "train_loader_x", None), epoch)
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self) -> None:
        """Resumes if there is something to resume, opens the writer, starts the clock."""
        if deploys_best(self.cfg):  # the test split, which `test` would fall back to, must not choose a model
            require_validation(self.cfg, self.val_loader)
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.cfg.OUTPUT_DIR)
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        self.time_start = time.time()

    def before_epoch(self) -> None:
        """Called before each epoch."""

    def run_epoch(self) -> None:
        """One pass over the training images."""
        self.set_model_mode("train")
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        self.num_batches = len(self.train_loader_x)
        frequency = self.cfg.TRAIN.PRINT_FREQ
        taken: list[Taken] = []
        end = time.time()
        try:
            for index, batch in enumerate(self.train_loader_x):
                self.batch_idx = index
                data_time.update(time.time() - end)
                numbers = self.forward_backward(batch)
                batch_time.update(time.time() - end)
                left = (self.max_epoch - self.epoch) * self.num_batches - index - 1
                before = (
                    f"epoch [{self.epoch + 1}/{self.max_epoch}] "
                    f"batch [{index + 1}/{self.num_batches}] "
                    f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) "
                    f"data {data_time.val:.3f} ({data_time.avg:.3f}) "
                )
                rate = self.get_current_lr()
                after = f" lr {rate:.4e} eta {datetime.timedelta(seconds=int(batch_time.avg * left))}"
                taken.append(Taken(self.epoch * self.num_batches + index, numbers, rate, before, after))
                waits = isinstance(numbers, Mapping) and any(isinstance(value, Tensor) for value in numbers.values())
                if not waits or len(taken) == frequency:
                    self._show(taken, losses)
                end = time.time()
        finally:
            self._show(taken, losses)

    def _show(self, taken: list[Taken], losses: MetricMeter) -> None:
        """Prints and writes what steps gave, and forgets them; their numbers may be on the device until here."""
        frequency, shown = self.cfg.TRAIN.PRINT_FREQ, with_numbers(taken)
        taken.clear()
        for step, numbers, rate, before, after in shown:
            losses.update(numbers)
            if (step % self.num_batches + 1) % frequency == 0 or self.num_batches < frequency:
                print(f"{before}{losses}{after}")  # the line that log parsers look for
            for name, meter in losses.meters.items():
                self.write_scalar(f"train/{name}", meter.avg, step)
            self.write_scalar("train/lr", rate, step)

    def after_epoch(self) -> None:
        """Validates if the best model is wanted, and writes the checkpoints that are due."""
        if deploys_best(self.cfg):
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST)
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        is_due = frequency > 0 and (self.epoch + 1) % frequency == 0
        if is_due or self.epoch + 1 == self.max_epoch:
            self.save_model(self.epoch, self.output_dir)

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

    def forward_backward(self, batch: Any) -> dict[str, float]:
        """One step; returns what is to be shown."""
        raise NotImplementedError(f"{type(self).__name__} has no forward_backward() of its own: one step of training")

    def parse_batch_train(self, batch: Any) -> Any:
        """Images (B, 3, H, W), labels (B,) and domains (B,) on the trainer's device."""
        return batch["img"].to(self.device), batch["label"].to(self.device), batch["domain"].to(self.device)

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluates on `val` or `test` (None is TEST.SPLIT), prints the result, and returns its first metric.

        Without a validation split, `val` means `test`.
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

    # Models, each with its optimiser and schedule

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Puts a model under the trainer's care; its name is also the folder of its checkpoints.

        `optim` is None if it is not trained. AttributeError before `super().__init__()` was called.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("a model cannot be registered before super().__init__() was called")
        if name in self._models:
            raise AssertionError(f"there is a model named {name!r} already")
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: Names = None) -> list[str]:
        """The given names, or all; AssertionError if one is unknown."""
        chosen = [names] if isinstance(names, str) else list(self._models if names is None else names)
        for name in chosen:
            if name not in self._models:
                raise AssertionError(f"no model named {name!r}; there are {list(self._models)}")
        return chosen

    def _chosen(self, parts: Mapping[str, Any], names: Names) -> list[Any]:
        """Those of the models, optimisers or schedules that there are, of the given names or all."""
        return [parts[name] for name in self.get_model_names(names) if parts[name] is not None]

    def set_model_mode(self, mode: str = "train", names: Names = None) -> None:
        """Puts registered models in train mode (`train`) or eval mode (`test`, `eval`)."""
        if mode not in ("train", "test", "eval"):
            raise KeyError(f"the mode {mode!r} is none of train, test, eval")
        for model in self._chosen(self._models, names):
            model.train(mode == "train")

    def update_lr(self, names: Names = None) -> None:
        """Moves the schedules on by one epoch."""
        for sched in self._chosen(self._scheds, names):
            sched.step()

    def get_current_lr(self, names: Names = None) -> float:
        """The rate of the first group of the first optimiser."""
        name = self.get_model_names(names)[0]
        return float(self._optims[name].param_groups[0]["lr"])

    def detect_anomaly(self, loss: Tensor) -> None:
        """FloatingPointError if the loss is infinite or not a number."""
        if not torch.isfinite(loss).all():
            raise FloatingPointError("Loss is infinite or NaN!")

    def model_zero_grad(self, names: Names = None) -> None:
        """Clears the gradients."""
        for optim in self._chosen(self._optims, names):
            optim.zero_grad()

    def model_backward(self, loss: Tensor) -> None:
        """Checks the loss and computes the gradients."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: Names = None) -> None:
        """Takes one step with each optimiser."""
        for optim in self._chosen(self._optims, names):
            optim.step()

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
        """Writes a checkpoint of each model into a folder of its name.

        Args:
            epoch: the epoch just finished, from 0.
            directory: the run's folder.
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
                "scaler": None if self.scaler is None else self.scaler.state_dict(),
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def resume_model_if_exist(self, directory: str) -> int:
        """Goes on from the newest checkpoints in a folder, if every model has one; how many epochs are finished."""
        folders = {name: os.path.join(directory, name) for name in self.get_model_names()}
        if not folders or not all(newest(folder) for folder in folders.values()):
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")

        def read(path: str) -> dict[str, Any]:
            print(f'Loading checkpoint from "{path}"')
            content: dict[str, Any] = load_checkpoint(path)
            return content

        contents = {name: read(newest(folder)) for name, folder in folders.items()}
        # A process that died while it saved may have saved some models and not the others; then the older state of all.
        epoch = min(int(content["epoch"]) for content in contents.values())
        for name, newer in contents.items():
            content = newer if newer["epoch"] == epoch else read(os.path.join(folders[name], epoch_file(epoch)))
            restore(content, self._models[name], self._optims[name], self._scheds[name])
            self.best_result = content.get("best_result", self.best_result)
            if self.scaler is not None and content.get("scaler"):
                self.scaler.load_state_dict(content["scaler"])
        return epoch

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Loads each model's weights of that epoch (None: the best) for a test; an empty directory does nothing."""
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            path = os.path.join(directory, name, BEST if epoch is None else epoch_file(epoch))
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


TrainerBase = SimpleTrainer = TrainerX  # Dassl builds it in three floors; programmes derive from any
