"""Methods that are fitted: what they are shown, what they must never see, and that their results are kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from dassl.utils import read_image
from tiny_run import ConfigMaker, Usual

from xcoop.backbones import LabelledFeatures
from xcoop.config.plugins import trainer_names, trains

LEARNING = [name for name in trainer_names() if trains(name)]
FITTED = ["TipAdapter", "TipAdapterF", "LinearProbe", "LPPlusPlus", "PCBM"]


@pytest.fixture
def planted(pictures: Path, tmp_path: Path) -> Path:
    """A copy of the pictures, for a test to change."""
    return Path(shutil.copytree(pictures, tmp_path / "planted"))


def swap_labels(folder: Path) -> None:
    """Each image of one class becomes one of the other."""
    for path in sorted(folder.glob("*.png")):
        path.rename(folder / f"x{path.name}")
    for path in sorted(folder.glob("x*.png")):
        path.rename(folder / f"{1 - int(path.name[1])}{path.name[2:]}")


def state(trainer: Any) -> dict[str, torch.Tensor]:
    return trainer.model.trained_state()


@pytest.mark.parametrize(
    ("name", "selection"),
    [*((name, "last_step") for name in LEARNING), ("CoOp", "best_val"), ("TipAdapterF", "best_val")],
)
def test_what_is_in_the_test_split_changes_nothing(
    name: str, selection: str, make_cfg: ConfigMaker, usual: Usual, planted: Path
) -> None:
    swap_labels(planted / "test")
    pairs = ("TEST.FINAL_MODEL", selection)
    first = usual(name).trainer if selection == "last_step" else tiny_run.trained(make_cfg(name, *pairs))
    other = tiny_run.trained(make_cfg(name, *pairs, "DATASET.ROOT", str(planted), output="planted"))
    assert state(first).keys() == state(other).keys()
    # Where in memory a tensor lies may change how its sums are rounded; a label that leaked would change far more.
    torch.testing.assert_close(state(other), state(first), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FITTED)
def test_what_is_in_the_validation_split_does(name: str, make_cfg: ConfigMaker, usual: Usual, planted: Path) -> None:
    swap_labels(planted / "val")
    first = usual(name).trainer
    other = tiny_run.trained(make_cfg(name, "DATASET.ROOT", str(planted), output="planted"))
    assert any(not torch.equal(tensor, state(other)[key]) for key, tensor in state(first).items())


@pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF"])
@pytest.mark.parametrize("why", ["no split", "not wanted"])
def test_without_validation_the_configured_values_hold(
    name: str, why: str, make_cfg: ConfigMaker, planted: Path
) -> None:
    node = f"TRAINER.{name.upper()}"
    pairs = (f"{node}.INIT_ALPHA", 2.5, f"{node}.INIT_BETA", 3.5, f"{node}.SEARCH_HP", why == "no split")
    if why == "no split":
        shutil.rmtree(planted / "val")
    trainer = tiny_run.trained(make_cfg(name, *pairs, "DATASET.ROOT", str(planted)))
    assert (trainer.val_loader is None) == (why == "no split")
    assert float(trainer.model.alpha) == 2.5
    assert float(trainer.model.beta) == 3.5


@pytest.mark.parametrize("transforms", [["normalize"], ["random_flip", "random_resized_crop", "normalize"]])
@pytest.mark.parametrize("cache", [True, False])
def test_it_sees_each_training_image_once_and_not_augmented(
    transforms: list[str], cache: bool, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 images in batches of 8, of which the training would leave out the last."""
    trainer = tiny_run.build(make_cfg("TipAdapter", "INPUT.TRANSFORMS", transforms, "FEATURES.CACHE", cache))
    seen: list[LabelledFeatures] = []
    monkeypatch.setattr(trainer.model, "prepare", lambda *splits: seen.extend(splits))
    monkeypatch.setattr(trainer, "test", lambda *_: 0.0)
    trainer.train()
    for split, got in zip(("train_x", "val"), seen, strict=True):
        items = getattr(trainer.dm.dataset, split)
        images = torch.stack([trainer.dm.test_loader.dataset.transform(read_image(item.impath)) for item in items])
        want = trainer.backbone.encode_image(images).pooled
        torch.testing.assert_close(got.features.pooled, want, atol=1e-5, rtol=0)
        assert got.labels.tolist() == [item.label for item in items]


@pytest.mark.parametrize("selection", ["last_step", "best_val"])
def test_what_is_tested_is_what_the_checkpoint_holds(selection: str, make_cfg: ConfigMaker) -> None:
    """Tip-Adapter-F searches alpha and beta after its last epoch."""
    trainer = tiny_run.trained(make_cfg("TipAdapterF", "TEST.FINAL_MODEL", selection))
    name = "model-best.pth.tar" if selection == "best_val" else "model.pth.tar-2"
    content = torch.load(Path(trainer.output_dir, "prompt_learner", name), weights_only=True)
    for key, tensor in state(trainer).items():
        assert torch.equal(content["state_dict"][key], tensor), key
    assert float(trainer.model.alpha) != pytest.approx(1.17)
    assert 1 <= content["epoch"] <= 2


@pytest.mark.parametrize("name", FITTED)
def test_what_was_fitted_to_classes_is_refused_for_others(
    name: str, make_cfg: ConfigMaker, usual: Usual, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = usual(name).trainer
    monkeypatch.setattr(tiny_run, "NAMES", tiny_run.NAMES[::-1])
    other = tiny_run.build(make_cfg(name, output="other"))
    with pytest.raises(ValueError, match=r"of the classes \['dark_spot', 'bright spot'\]"):
        other.load_model(trained.output_dir)


def test_an_adapter_transfers_to_other_classes(
    make_cfg: ConfigMaker, usual: Usual, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = usual("CLIPAdapter").trainer
    monkeypatch.setattr(tiny_run, "NAMES", tiny_run.NAMES[::-1])
    other = tiny_run.build(make_cfg("CLIPAdapter", output="other"))
    other.load_model(trained.output_dir)
    torch.testing.assert_close(tiny_run.logits(other), tiny_run.logits(trained).flip(1))


@pytest.mark.parametrize(("key", "shape"), [("keys", (20, 3)), ("values", (20, 3)), ("alpha", (1,))])
def test_a_cache_of_another_shape_is_refused(key: str, shape: tuple[int, ...], make_cfg: ConfigMaker) -> None:
    """Any number of images is welcome, but of this width and these classes."""
    trainer = tiny_run.trained(make_cfg("TipAdapter"))
    before = state(trainer)
    more = before | {"keys": torch.ones(7, before["keys"].shape[1]), "values": torch.ones(7, 2)}
    trainer.model.load_trained_state(more)
    assert trainer.model.keys.shape[0] == 7
    with pytest.raises(ValueError, match=f"here: '{key}' has shape"):
        trainer.model.load_trained_state(before | {key: torch.ones(shape)}, "here")
