"""Weights & Biases beside TensorBoard: off unless WANDB.PROJECT names a project, offline unless WANDB.MODE says so.

What is sent are the settings that make the run what it is, and numbers: no image, no path, no console output, no code.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xcoop.utils.suggest import shown

STEP = "step"
# By itself the package would send the console, the code's revision, the command line, the host's name and its load.
QUIET = {"console": "off", "disable_git": True, "save_code": False, "x_disable_meta": True, "x_disable_stats": True}


class Tracked:
    """The writer's methods of a trainer of either engine; what they write goes to the tracker, too."""

    cfg: Any
    output_dir: str
    _tracker: Any = None
    _tracked: list[dict[str, float]]

    def init_writer(self, log_dir: str) -> None:
        """Opens TensorBoard's writer and, if it is asked for, the tracker."""
        super().init_writer(log_dir)  # type: ignore[misc]
        if self._tracker is None and wanted(self.cfg):
            self._tracker, self._tracked = start(self.cfg, self.output_dir), []

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Writes a number to whatever is open."""
        super().write_scalar(tag, scalar_value, global_step)  # type: ignore[misc]
        if self._tracker is not None:
            # Steps of training and epochs of tests do not rise together, so the step is a number like others.
            self._tracked.append({tag: float(scalar_value), STEP: global_step or 0})
            if len({line[STEP] for line in self._tracked}) > 1:  # one call a step, not one a number
                self._flush(self._tracked[:-1])
                self._tracked = self._tracked[-1:]

    def close_writer(self) -> None:
        """Closes both."""
        super().close_writer()  # type: ignore[misc]
        if self._tracker is not None:
            self._flush(self._tracked)
            self._tracker.finish()
            self._tracker, self._tracked = None, []

    def _flush(self, lines: list[dict[str, float]]) -> None:
        if lines:
            self._tracker.log({name: value for line in lines for name, value in line.items()})

    def track_metrics(self, metrics: dict[str, float | None]) -> None:
        """The final metrics, as the run's summary."""
        if self._tracker is not None:
            self._tracker.summary.update({name: value for name, value in metrics.items() if value is not None})


def wanted(cfg: Any) -> bool:
    """Whether a run is to be tracked."""
    return bool(cfg.get("WANDB", {}).get("PROJECT"))


def check_tracking(cfg: Any) -> None:
    """Refuses what could not work, before anything is loaded.

    Raises:
        ImportError: the package is missing.
    """
    if not wanted(cfg):
        return
    if find_spec("wandb") is None:
        raise ImportError(
            f"WANDB.PROJECT is {shown(cfg.WANDB.PROJECT)}, and the package wandb is not installed: "
            "pip install 'xcoop[wandb]', or leave WANDB.PROJECT empty"
        )


def start(cfg: Any, folder: str) -> Any:
    """Opens a run of Weights & Biases; its files go to `<folder>/wandb`. Seeds of one setting share a group."""
    import wandb

    from xcoop.config.identity import config_hash, settings

    Path(folder).mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=cfg.WANDB.PROJECT,
        mode=cfg.WANDB.MODE,
        dir=folder,
        name=f"{cfg.TRAINER.NAME} {cfg.DATASET.NAME} {cfg.DATASET.NUM_SHOTS} shots seed {cfg.SEED}",
        group=config_hash(cfg)[:12],
        config=settings(cfg) | {"SEED": cfg.SEED},
        settings=wandb.Settings(**QUIET),
    )
    run.define_metric("*", step_metric=STEP)
    return run
