"""The epoch: `TrainerX` over labelled images, `TrainerXU` over labelled and unlabelled ones."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from xcoop.engine.meters import AverageMeter, MetricMeter
from xcoop.engine.trainer import SimpleTrainer


class LoopTrainer(SimpleTrainer):
    """The loop that both kinds of trainers share."""

    num_batches: int
    batch_idx: int

    def _loop(self, batches: Iterable[tuple[Any, ...]]) -> None:
        """Runs `forward_backward` on each batch, `self.num_batches` in all, and reports.

        Args:
            batches: each the positional arguments of `forward_backward`.
        """
        self.set_model_mode("train")
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        end = time.time()
        for index, batch in enumerate(batches):
            self.batch_idx = index
            data_time.update(time.time() - end)
            losses.update(self.forward_backward(*batch))
            batch_time.update(time.time() - end)
            if (self.batch_idx + 1) % self.cfg.TRAIN.PRINT_FREQ == 0 or self.num_batches < self.cfg.TRAIN.PRINT_FREQ:
                print(self._progress(losses, batch_time, data_time))
            self._write_scalars(losses)
            end = time.time()

    def _progress(self, losses: MetricMeter, batch_time: AverageMeter, data_time: AverageMeter) -> str:
        """The line that log parsers look for."""
        left = self.num_batches - self.batch_idx - 1
        left += (self.max_epoch - self.epoch - 1) * self.num_batches
        eta = datetime.timedelta(seconds=int(batch_time.avg * left))
        return (
            f"epoch [{self.epoch + 1}/{self.max_epoch}] "
            f"batch [{self.batch_idx + 1}/{self.num_batches}] "
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) "
            f"data {data_time.val:.3f} ({data_time.avg:.3f}) "
            f"{losses} "
            f"lr {self.get_current_lr():.4e} "
            f"eta {eta}"
        )

    def _write_scalars(self, losses: MetricMeter) -> None:
        step = self.epoch * self.num_batches + self.batch_idx
        for name, meter in losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, step)
        self.write_scalar("train/lr", self.get_current_lr(), step)


class TrainerX(LoopTrainer):
    """A trainer on labelled images. `forward_backward(batch)` returns the numbers to show.

    It is the trainer that steps the schedule: `update_lr()` at the last batch of an epoch.
    """

    def run_epoch(self) -> None:
        """One pass over the training images."""
        self.num_batches = len(self.train_loader_x)
        self._loop((batch,) for batch in self.train_loader_x)

    def parse_batch_train(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W), labels (B,) and domains (B,) on the trainer's device."""
        return batch["img"].to(self.device), batch["label"].to(self.device), batch["domain"].to(self.device)


class TrainerXU(LoopTrainer):
    """A trainer on labelled and unlabelled images: `forward_backward(batch_x, batch_u)`.

    TRAIN.COUNT_ITER says how long an epoch is: `train_x`, `train_u`, or `smaller_one`; the other loader starts anew
    when it is at its end.
    """

    def run_epoch(self) -> None:
        """One pass.

        Raises:
            ValueError: COUNT_ITER is unknown, or there are no unlabelled images.
        """
        if self.train_loader_u is None:
            raise ValueError(f"{type(self).__name__} needs unlabelled images; the dataset has none (train_u)")
        n_x, n_u = len(self.train_loader_x), len(self.train_loader_u)
        lengths = {"train_x": n_x, "train_u": n_u, "smaller_one": min(n_x, n_u)}
        if self.cfg.TRAIN.COUNT_ITER not in lengths:
            raise ValueError(f"TRAIN.COUNT_ITER {self.cfg.TRAIN.COUNT_ITER!r} is none of {', '.join(lengths)}")
        self.num_batches = lengths[self.cfg.TRAIN.COUNT_ITER]
        pairs = zip(range(self.num_batches), _endless(self.train_loader_x), _endless(self.train_loader_u))  # noqa: B905
        self._loop((batch_x, batch_u) for _, batch_x, batch_u in pairs)

    def forward_backward(self, batch_x: Any, batch_u: Any) -> dict[str, float]:  # type: ignore[override]
        """One step; returns what is to be shown."""
        raise NotImplementedError

    def parse_batch_train(self, batch_x: Any, batch_u: Any) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Labelled images, their labels, and unlabelled images, on the trainer's device."""
        return batch_x["img"].to(self.device), batch_x["label"].to(self.device), batch_u["img"].to(self.device)


def _endless(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader
