"""CONTRIBUTING.md: its trainer is written down as it stands there, one file, and used."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import set_random_seed
from tiny_run import ConfigMaker, table_of

import xcoop.trainers
from xcoop.config import plugins
from xcoop.config.merge import method_files
from xcoop.methods.model import Task
from xcoop.results.record import read_run
from xcoop.runs.plan import make_plans
from xcoop.trainers.coop import CoOp, CoOpModel

TEXT = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
BLOCK = re.compile(r"```python\n# (trainers/smooth_coop\.py)\n(.*?)```", re.DOTALL)


@pytest.fixture
def smooth_coop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The trainer of the text, among the plug-ins."""
    ((name, body),) = BLOCK.findall(TEXT.read_text(encoding="utf-8"))
    (tmp_path / "trainers").mkdir()
    (tmp_path / name).write_text(body, encoding="utf-8")
    plugins.load_plugins()  # what is imported from here on is forgotten afterwards
    for table in ("_trainers", "_nodes"):
        monkeypatch.setattr(plugins, table, dict(getattr(plugins, table)))
    monkeypatch.setattr(xcoop.trainers, "__path__", [*xcoop.trainers.__path__, str(tmp_path / "trainers")])
    cls = importlib.import_module("xcoop.trainers.smooth_coop").SmoothCoOp
    monkeypatch.setitem(table_of(TRAINER_REGISTRY), "SmoothCoOp", cls)
    yield cls
    sys.modules.pop("xcoop.trainers.smooth_coop")


def test_its_loss_is_what_it_says(smooth_coop: Any, make_cfg: ConfigMaker) -> None:
    cfg = make_cfg("SmoothCoOp", "TRAINER.SMOOTHCOOP.SMOOTHING", 0.3)
    set_random_seed(1)
    model = smooth_coop(cfg).model
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])
    loss = model.losses(model.encode_images(images), labels)["ce"]
    logs = model(images).log_softmax(1)
    wanted = -(0.7 * logs[range(4), labels] + 0.3 * logs.mean(1)).mean()
    torch.testing.assert_close(loss, wanted)


def test_it_runs_and_is_recorded_without_any_other_file(smooth_coop: Any, make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.trained(make_cfg("SmoothCoOp"))
    found = read_run(Path(trainer.output_dir))
    assert found is not None
    assert found["trainer"] == "SmoothCoOp"
    assert found["trained_parameters"] == trainer.model.prompt_learner.ctx.numel()


def test_a_trainer_written_for_the_first_version_goes_on_working(make_cfg: ConfigMaker) -> None:
    """`build_method` was an instance's, and took classes and bank; it read the settings off the trainer."""
    with pytest.warns(DeprecationWarning, match=r"Old\.build_method.* should be a class method"):

        class Old(CoOp):
            def build_method(self: Any, backbone: Any, classnames: list[str], bank: Any) -> CoOpModel:
                assert bank is None
                return CoOpModel(backbone, classnames, self.settings)

    trainer = Old(make_cfg("CoOp"))
    trainer.train()
    other = Old.build_method(trainer.cfg, trainer.backbone, Task(tiny_run.NAMES))
    other.load_trained_state(trainer.model.trained_state())
    assert torch.equal(other.text_features(), trainer.model.text_features())


def test_it_is_configured_as_coop_is_until_it_has_files_of_its_own(smooth_coop: Any, tmp_path: Path) -> None:
    assert method_files("vit_b16", "SmoothCoOp") == method_files("vit_b16", "CoOp")
    (plan,) = make_plans(["phantom", "4", "SmoothCoOp"], "data", str(tmp_path), [1])
    cfg = plan.config(1)
    assert (cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME, cfg.OPTIM.MAX_EPOCH) == ("SmoothCoOp", "phantom", 200)
    assert method_files("vit_b16", "KgCoOp")[-1].parent.name == "KgCoOp"
