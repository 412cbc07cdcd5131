"""What a training with another number of epochs makes of checkpoints: it refuses them, since rates and means differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker

from xcoop.results.record import read_run
from xcoop.runs import train
from xcoop.utils.console import UserError

STEPPED = ["CoOp", "PromptSRC"]
EPOCHS = "OPTIM.MAX_EPOCH"


def forget(trainer: Any) -> None:
    """Leaves the checkpoints alone in a run's folder, as another programme does: they must tell by themselves."""
    for name in ("config.yaml", "results.json", "predictions.csv"):
        Path(trainer.output_dir, name).unlink(missing_ok=True)


def edit(trainer: Any, epoch: int, **changed: Any) -> None:
    """Changes entries of a checkpoint; None removes one."""
    content = tiny_run.stored(trainer, epoch) | changed
    path = Path(trainer.output_dir, "prompt_learner", f"model.pth.tar-{epoch}")
    torch.save({key: value for key, value in content.items() if value is not None}, path)


@pytest.mark.parametrize("name", STEPPED)
def test_another_number_of_epochs_is_refused(name: str, make_cfg: ConfigMaker, tmp_path: Path) -> None:
    total, short = 4, tiny_run.trained(make_cfg(name))
    folder = Path(short.output_dir, "prompt_learner")
    with pytest.raises(UserError, match=f"OPTIM.MAX_EPOCH: 2 there, {total} now"):
        tiny_run.build(make_cfg(name, EPOCHS, total)).train()
    forget(short)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for resume, output in (("", "out"), (short.output_dir, "new")):
        longer = tiny_run.build(make_cfg(name, EPOCHS, total, "RESUME", resume, output=output))
        with pytest.raises(
            ValueError,
            match=rf"tar-2 belongs to a training with OPTIM.MAX_EPOCH 2, and this one has {total}.*INIT_WEIGHTS",
        ):
            longer.train()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "new" / "results.json").exists()


@pytest.mark.parametrize("name", STEPPED)
def test_fewer_epochs_are_refused_too(name: str, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after one epoch of three: two would have had other rates from the first one on."""
    stopped = tiny_run.build(make_cfg(name, EPOCHS, 3))

    def interrupted() -> None:
        raise KeyboardInterrupt

    after = stopped.after_epoch
    monkeypatch.setattr(stopped, "after_epoch", lambda: after() or interrupted())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    forget(stopped)
    with pytest.raises(ValueError, match=r"tar-1 belongs to a training with OPTIM.MAX_EPOCH 3, and this one has 2"):
        tiny_run.build(make_cfg(name, EPOCHS, 2)).train()
    resumed = tiny_run.trained(make_cfg(name, EPOCHS, 3))
    assert resumed.start_epoch == 1


def test_the_remedy_that_is_named_works(make_cfg: ConfigMaker) -> None:
    short = tiny_run.trained(make_cfg("CoOp"))
    path = Path(short.output_dir, "prompt_learner", "model.pth.tar-2")
    longer = tiny_run.build(make_cfg("CoOp", EPOCHS, 4, "MODEL.INIT_WEIGHTS", str(path), output="new"))
    assert torch.equal(longer.model.prompt_learner.ctx, short.model.prompt_learner.ctx)
    longer.train()
    assert longer.start_epoch == 0
    assert not torch.equal(longer.model.prompt_learner.ctx, short.model.prompt_learner.ctx)


@pytest.mark.parametrize("pairs", [(EPOCHS, 4), ("OPTIM.LR", 0.02)])
def test_checkpoints_that_do_not_tell_the_number_are_told_by_their_rates(
    pairs: tuple[Any, ...], make_cfg: ConfigMaker
) -> None:
    short = tiny_run.trained(make_cfg("CoOp", EPOCHS, 3))
    edit(short, 3, max_epoch=None)
    forget(short)
    with pytest.raises(ValueError, match=r"tar-3 is no checkpoint to resume from .*learning rate after 3 epochs is"):
        tiny_run.build(make_cfg("CoOp", EPOCHS, 3, *pairs)).train()
    assert tiny_run.trained(make_cfg("CoOp", EPOCHS, 3)).start_epoch == 3


def test_resume_names_a_run_of_the_same_settings(
    make_cfg: ConfigMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(make_cfg("CoOp").dump())
    words = ["--config-file", str(settings), "--trainer", "CoOp"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert train.main([*words, "--output-dir", str(first)]) == 0
    resumed = [*words, "--output-dir", str(second), "--resume", str(first)]
    for pairs, message in (
        ([EPOCHS, "3"], "OPTIM.MAX_EPOCH: 2 there, 3 now"),
        (["OPTIM.LR", "0.5"], "OPTIM.LR: 0.01 there, 0.5 now"),
        (["SEED", "2"], "SEED: 1 there, 2 now"),
    ):
        capsys.readouterr()
        assert train.main([*resumed, *pairs]) == 2
        error = capsys.readouterr().err
        assert f"RESUME {first} holds a run with other settings" in error
        assert message in error
        assert not second.exists()
    assert train.main([*words, "--output-dir", str(first), EPOCHS, "5"]) == 2  # in the folder itself
    assert "OPTIM.MAX_EPOCH: 2 there, 5 now" in capsys.readouterr().err
    assert train.main(resumed) == 0
    done = read_run(second)
    assert done is not None
    assert done["metrics"] == (read_run(first) or {})["metrics"]
