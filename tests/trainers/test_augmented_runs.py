"""An augmented run is the same whatever the workers and wherever it was resumed, on either engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
import torch
from tiny_run import ConfigMaker

from xcoop.training import trainer as training

REAL = os.environ.get("XCOOP_REAL_DASSL", "")
AUGMENTED = ("INPUT.TRANSFORMS", ["random_resized_crop", "random_flip", "colorjitter", "gaussian_noise", "normalize"])


@pytest.fixture(autouse=True)
def _as_many_workers_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine with one CPU."""
    monkeypatch.setattr(training, "with_workers_that_exist", lambda cfg: cfg)


@pytest.mark.parametrize("name", ["CoOp", "PromptSRC"])  # an image tower that is frozen, and one that is not
def test_weights_do_not_depend_on_the_number_of_workers(name: str, make_cfg: ConfigMaker) -> None:
    pairs = (*AUGMENTED, "OPTIM.LR", 0.1)
    none = tiny_run.trained(make_cfg(name, *pairs))
    two = tiny_run.trained(make_cfg(name, *pairs, "DATALOADER.NUM_WORKERS", 2, output="two"))
    assert torch.equal(torch.cat(two._probabilities), torch.cat(none._probabilities))
    for key, tensor in none.model.trained_state().items():
        assert torch.equal(two.model.trained_state()[key], tensor), key


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0)])
def test_resumed_in_the_third_epoch_with_other_workers_it_ends_as_if_it_had_not_stopped(
    before: int, after: int, make_cfg: ConfigMaker
) -> None:
    pairs = (*AUGMENTED, "OPTIM.MAX_EPOCH", 5, "OPTIM.LR", 0.1, "DATALOADER.NUM_WORKERS")
    whole = tiny_run.trained(make_cfg("CoOp", *pairs, 0))
    stopped = tiny_run.build(make_cfg("CoOp", *pairs, before, output="stopped"))
    tiny_run.stop_in_the_third_epoch(stopped)
    resumed = tiny_run.trained(make_cfg("CoOp", *pairs, after, output="stopped"))
    assert resumed.start_epoch == 2
    assert torch.equal(resumed.model.trained_state()["ctx"], whole.model.trained_state()["ctx"])


def test_every_epoch_augments_anew(make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_run.build(make_cfg("CoOp", *AUGMENTED, "OPTIM.MAX_EPOCH", 3, "DATALOADER.TRAIN_X.BATCH_SIZE", 20))
    epochs: list[torch.Tensor] = []
    step = type(trainer).forward_backward

    def watched(self: object, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        epochs.append(batch["img"][batch["index"].argsort()])
        return step(trainer, batch)

    monkeypatch.setattr(type(trainer), "forward_backward", watched)
    trainer.train()
    assert len(epochs) == 3
    assert not any(torch.equal(image, other) for image, other in zip(epochs[0], epochs[1], strict=True))
    assert not any(torch.equal(image, other) for image, other in zip(epochs[1], epochs[2], strict=True))


@pytest.mark.parametrize("name", ["CoOp", "PromptSRC", "LinearProbe"])
def test_no_method_mirrors_images_whose_sides_are_classes_and_the_record_says_so(
    name: str, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = ["random_flip", "normalize"]
    monkeypatch.setattr(tiny_run, "NAMES", ["left spot", "right spot"])
    trainer = tiny_run.trained(make_cfg(name, "INPUT.TRANSFORMS", asked))
    assert "random_flip is left out of INPUT.TRANSFORMS: the class 'left spot' names a side" in caplog.text
    assert "DATASET.CHANGES_LABELS '[]' uses it all the same" in caplog.text
    assert trainer.train_images_are_fixed
    assert "Flip" not in repr(trainer.train_loader_x.dataset.transform)
    assert json.loads(Path(trainer.output_dir, "results.json").read_text())["transforms"] == {
        "used": ["normalize"],
        "left_out": {"random_flip": "the class 'left spot' names a side"},
    }
    assert list(trainer.cfg.INPUT.TRANSFORMS) == asked
    forced = tiny_run.build(make_cfg(name, "INPUT.TRANSFORMS", asked, "DATASET.CHANGES_LABELS", [], output="forced"))
    assert "Flip" in repr(forced.train_loader_x.dataset.transform)


def test_what_is_left_out_leaves_the_rest(make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_run, "NAMES", ["left spot", "right spot"])
    trainer = tiny_run.build(make_cfg("CoOp", *AUGMENTED))
    steps = repr(trainer.train_loader_x.dataset.transform).replace("_", "").lower()  # classes, or functions of ours
    assert "flip" not in steps
    assert all(word in steps for word in ("randomresizedcrop", "colorjitter", "gaussiannoise", "normalize"))


@pytest.mark.dassl
@pytest.mark.skipif(not REAL, reason="XCOOP_REAL_DASSL names no checkout of Dassl")
def test_all_this_holds_on_the_real_dassl() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([REAL, *filter(None, sys.path)]), "XCOOP_REAL_DASSL": ""}
    script = "import pytest, sys, xcoop, dassl; assert 'xcoop' not in dassl.__version__"
    script += "; sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
