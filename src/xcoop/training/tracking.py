"""What is noted beside the training: the wall time of its phases, and numbers for Weights & Biases.

Weights & Biases is off unless WANDB.PROJECT names a project, and offline unless WANDB.MODE says so. What is sent are
the settings that make the run what it is, and numbers: no image, no path, no console output, no code.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xcoop.config.merge import config_hash, settings
from xcoop.utils.console import shown, to_paste

STEP = "step"
# By itself the package would send the console, the code's revision, the command line, the host's name and its load.
QUIET = {"console": "off", "disable_git": True, "save_code": False, "x_disable_meta": True, "x_disable_stats": True}


class Clock:
    """The wall time of a run by phase, in seconds; time in a phase within another one counts in the inner one."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(("build", "features", "train", "test"), 0.0)
        self._running = ""
        self._since = time.perf_counter()

    @property
    def seconds(self) -> dict[str, float]:
        """By phase, the running one so far included."""
        self._switch(self._running)
        return dict(self._seconds)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is done inside is of this phase."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, phase: str) -> str:
        """Begins a phase ("" is none); the one that ended by it."""
        ended, now = self._running, time.perf_counter()
        if ended:
            self._seconds[ended] += now - self._since
        self._running, self._since = phase, now
        return ended


def check_tracking(cfg: Any) -> None:
    """ImportError if the package that tracks is missing."""
    if find_spec("wandb") is None:
        raise ImportError(
            f"WANDB.PROJECT is {shown(cfg.WANDB.PROJECT)}, and the package wandb is not installed: "
            f"{to_paste('pip', 'install', 'xcoop[wandb]')}, or leave WANDB.PROJECT empty"
        )


class Tracker:
    """One run of Weights & Biases; seeds of one setting share a group.

    Args:
        cfg: the run's config; its project is named.
        folder: of the run; the package's own files go to `<folder>/wandb`.
    """

    def __init__(self, cfg: Any, folder: str) -> None:
        import wandb

        Path(folder).mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=cfg.WANDB.PROJECT,
            mode=cfg.WANDB.MODE,
            dir=folder,
            name=f"{cfg.TRAINER.NAME} {cfg.DATASET.NAME} {cfg.DATASET.NUM_SHOTS} shots seed {cfg.SEED}",
            group=config_hash(cfg)[:12],
            config=settings(cfg) | {"SEED": cfg.SEED},
            settings=wandb.Settings(**QUIET),
        )
        self.run.define_metric("*", step_metric=STEP)
        self.waiting: dict[str, float] = {}  # the numbers of one step, which are sent in one call

    def log(self, tag: str, value: float, step: int) -> None:
        """Takes a number. Steps of training and epochs of tests do not rise together: STEP is a number like others."""
        if self.waiting and self.waiting[STEP] != step:
            self.run.log(self.waiting)
            self.waiting = {}
        self.waiting |= {tag: value, STEP: step}

    def summarise(self, metrics: dict[str, float | None]) -> None:
        """Sends the final metrics, as the run's summary."""
        self.run.summary.update({name: value for name, value in metrics.items() if value is not None})

    def finish(self) -> None:
        """Sends what waits, and closes the run."""
        if self.waiting:
            self.run.log(self.waiting)
        self.run.finish()
