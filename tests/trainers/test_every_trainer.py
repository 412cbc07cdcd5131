"""What every trainer must do, whoever wrote it: a new file in `trainers/` is tested by being there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from dassl.engine import TRAINER_REGISTRY
from tiny_run import ConfigMaker

from xcoop.config.plugins import trainer_names, trains
from xcoop.results.record import read_run

TRAINERS = trainer_names()
LEARNING = [name for name in TRAINERS if trains(name)]


@pytest.mark.parametrize("name", LEARNING)
def test_a_training_leaves_a_small_checkpoint_that_gives_the_same_logits(name: str, make_cfg: ConfigMaker) -> None:
    """Of two epochs; of none for methods that are fitted at once."""
    trainer = tiny_run.trained(make_cfg(name))
    epochs = 2 if trainer.optim else 0
    path = Path(trainer.output_dir, "prompt_learner", f"model.pth.tar-{epochs}")
    content = tiny_run.stored(trainer, epochs)
    own = trainer.model.state_tensors()
    assert path.stat().st_size < 1 << 20
    assert content["epoch"] == epochs
    assert content["state_dict"].keys() == own.keys()
    for key, tensor in content["state_dict"].items():
        assert torch.equal(tensor, own[key])

    other = tiny_run.build(make_cfg(name, output="other"))
    assert not torch.equal(tiny_run.logits(other), tiny_run.logits(trainer))
    other.load_model(trainer.output_dir, epoch=epochs)
    assert torch.equal(tiny_run.logits(other), tiny_run.logits(trainer))


@pytest.mark.parametrize("name", LEARNING)
def test_what_is_trained_has_gradients_and_nothing_else_has(name: str, make_cfg: ConfigMaker) -> None:
    trainer = _with_epochs(tiny_run.trained(make_cfg(name, "OPTIM.MAX_EPOCH", 1)))
    grouped = {id(p) for group in trainer.optim.param_groups for p in group["params"]}
    assert {id(p) for p in trainer.model.trained_parameters().values()} == grouped
    for key, parameter in trainer.model.named_parameters():
        if id(parameter) in grouped:
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key
        else:
            assert parameter.grad is None, key
            assert not parameter.requires_grad, key


@pytest.mark.parametrize("name", LEARNING)
def test_training_moves_what_is_trained_and_leaves_the_rest(name: str, make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg(name))
    own = trainer.model.trained_parameters() or trainer.model.state_tensors()
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    started = trainer.model.trained_state()
    trainer.train()
    for key in own:
        assert not torch.equal(trainer.model.trained_state()[key], started[key]), key
    trained = {id(p) for p in trainer.model.state_tensors().values()}
    for key, tensor in trainer.model.state_dict(keep_vars=True).items():
        assert id(tensor) in trained or torch.equal(tensor, before[key]), key


@pytest.mark.parametrize("name", TRAINERS)
def test_logits_of_an_image_do_not_depend_on_the_batch(name: str, make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.build(make_cfg(name))
    if trainer.model.mixes_batches:
        pytest.skip("its images leak into one another")
    images = torch.cat([batch["img"] for batch in trainer.dm.test_loader])
    trainer.set_model_mode("eval")
    with torch.no_grad():
        together = trainer.model(images)
        alone = torch.cat([trainer.model(image[None]) for image in images])
        backwards = trainer.model(images.flip(0)).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(together, backwards, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("augment", [False, True])
def test_resumed_is_uninterrupted_bit_for_bit(
    name: str, augment: bool, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped inside the third epoch of five; with augmentation, every picture depends on the random state, too."""
    tfm = ["random_flip", "random_resized_crop", "normalize"] if augment else ["normalize"]
    pairs = ("OPTIM.MAX_EPOCH", 5, "INPUT.TRANSFORMS", tfm)
    stopped = _with_epochs(tiny_run.build(make_cfg(name, *pairs, output="stopped")))
    step = type(stopped).forward_backward

    def interrupted(self: object, batch: dict[str, object]) -> dict[str, float]:
        if stopped.epoch == 2 and stopped.batch_idx == 1:
            raise KeyboardInterrupt
        return step(stopped, batch)

    monkeypatch.setattr(type(stopped), "forward_backward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    monkeypatch.undo()
    whole = tiny_run.trained(make_cfg(name, *pairs))
    torch.rand(17)  # whatever happens in between
    resumed = tiny_run.trained(make_cfg(name, *pairs, output="stopped"))
    assert resumed.start_epoch == 2
    ours, theirs = tiny_run.stored(resumed, 5), tiny_run.stored(whole, 5)
    _same(ours, theirs, "")
    assert torch.equal(tiny_run.logits(resumed), tiny_run.logits(whole))


@pytest.mark.parametrize("name", LEARNING)
def test_what_was_fitted_is_not_fitted_again(name: str, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before the test: the run goes on from its checkpoint."""
    stopped = tiny_run.build(make_cfg(name))
    if not stopped.model.fitted:
        pytest.skip(f"{name} is not fitted")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(stopped), "test", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    monkeypatch.undo()
    resumed = tiny_run.build(make_cfg(name))
    monkeypatch.setattr(type(resumed.model), "prepare", interrupted)
    resumed.train()
    _same(resumed.model.trained_state(), stopped.model.trained_state(), "")
    assert read_run(Path(resumed.output_dir)) is not None


@pytest.mark.parametrize("name", TRAINERS)
def test_evaluation_alone_gives_the_predictions_of_the_run(name: str, make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.trained(make_cfg(name))
    alone = tiny_run.build(make_cfg(name, output="alone"))
    alone.load_model(trainer.output_dir)
    alone.test()
    tables = [Path(one.output_dir, "predictions.csv").read_text() for one in (trainer, alone)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_says_whether_it_learns_classes(name: str, make_cfg: ConfigMaker) -> None:
    """Before anything is built: a sweep plans no evaluation on other classes for those."""
    cfg = make_cfg(name)
    assert TRAINER_REGISTRY.get(name).learns_classes(cfg) == tiny_run.build(cfg).model.class_specific


@pytest.mark.parametrize("name", TRAINERS)
def test_the_record_of_the_run_is_written_last(name: str, make_cfg: ConfigMaker) -> None:
    trainer = tiny_run.trained(make_cfg(name))
    results = read_run(Path(trainer.output_dir))
    assert results is not None
    assert results["n_test"] == 2 * tiny_run.SPLITS["test"]
    assert results["seconds"].keys() == {"build", "features", "train", "test"}
    assert all(seconds >= 0 for seconds in results["seconds"].values())
    assert results["backbone_sha256"] == trainer.backbone.fingerprint()
    model = trainer.model
    expected = sum(parameter.numel() for parameter in model.trained_parameters().values())
    expected += sum(getattr(model, name).numel() for name in {*model.fitted} - {"keys", "values"})
    assert results["trained_parameters"] == expected
    assert bool(results["trained_parameters"]) is (name != "ZeroshotCLIP")


@pytest.mark.parametrize("name", TRAINERS)
def test_text_features_are_there_for_explanations(name: str, make_cfg: ConfigMaker) -> None:
    model = tiny_run.build(make_cfg(name)).model
    features = model.text_features()
    assert features.shape[-2:] == (len(tiny_run.NAMES), model.backbone.embed_dim)
    assert features.dim() in (2, 3)


@pytest.mark.parametrize("name", TRAINERS)
def test_explanations_call_what_images_are_compared_with_by_its_name(name: str, make_cfg: ConfigMaker) -> None:
    """A prompt where contexts are trained; and said to be learned just where training changes it."""
    trainer = tiny_run.build(make_cfg(name))
    before = trainer.model.text_features().detach().clone()
    trainer.train()
    changed = not torch.equal(trainer.model.text_features(), before)
    noun, learned, about = trainer.model.class_vector
    assert learned == changed
    assert (noun == "prompt") == any("ctx" in key for key in trainer.model.trained_parameters())
    told = "training images back" in about  # XCoOp alone has something to say of its prompts: how far they are trusted
    assert told == (name == "XCoOp")
    assert (noun == "prompt") == (told or not about)


def _with_epochs(trainer: Any) -> Any:
    """The trainer, if it has an optimiser; else the test is skipped."""
    if trainer.optim is None:
        pytest.skip("fitted at once, without epochs")
    return trainer


def _same(ours: object, theirs: object, where: str) -> None:
    """Bit for bit, down to the last number."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            _same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            _same(one, other, f"{where}/{i}")
    else:
        assert ours == theirs, where
