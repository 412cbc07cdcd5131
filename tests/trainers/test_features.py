"""Cached image features: the same numbers as without, and never those of other images, weights or preprocessing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from PIL import Image
from safetensors.torch import save
from tiny_run import ConfigMaker
from torch import nn

from xcoop.backbones.base import tensors_sha256
from xcoop.training import feature_cache as features
from xcoop.training.feature_cache import FeatureLoader


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of an image tower got."""
    from xcoop.backbones.openai import ClipBackbone

    calls: list[int] = []
    encode = ClipBackbone.encode_image

    def counting(self: Any, images: torch.Tensor, patches: bool = False) -> Any:
        calls.append(len(images))
        return encode(self, images, patches)

    monkeypatch.setattr(ClipBackbone, "encode_image", counting)
    return calls


@pytest.mark.parametrize(
    "name", ["CoOp", "CoCoOp", "XCoOp", "ZeroshotCLIP", "TipAdapter", "TipAdapterF", "LinearProbe", "LPPlusPlus"]
)
@pytest.mark.parametrize("selection", ["last_step", "best_val"])
def test_cached_or_not_the_numbers_are_the_same(
    name: str, selection: str, make_cfg: ConfigMaker, tmp_path: Path
) -> None:
    """The order of the batches included; FEATURES is no part of a run's hash."""
    pairs = ("FEATURES.DIR", str(tmp_path / "cache"), "OPTIM.MAX_EPOCH", 3, "TEST.FINAL_MODEL", selection)
    plain = tiny_run.trained(make_cfg(name, *pairs, "FEATURES.CACHE", False, output="plain"))
    assert not isinstance(plain.test_loader, FeatureLoader)
    assert not (tmp_path / "cache").exists()
    cached = tiny_run.trained(make_cfg(name, *pairs))
    assert isinstance(cached.test_loader, FeatureLoader)
    for key, tensor in plain.model.trained_state().items():
        torch.testing.assert_close(cached.model.trained_state()[key], tensor, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat(cached._probabilities), torch.cat(plain._probabilities), atol=1e-5, rtol=0)


def test_each_image_is_encoded_once_for_all_epochs_seeds_and_trainers(
    make_cfg: ConfigMaker, tmp_path: Path, encoded: list[int]
) -> None:
    pairs = ("FEATURES.DIR", str(tmp_path / "cache"), "TEST.FINAL_MODEL", "best_val")
    tiny_run.trained(make_cfg("CoOp", *pairs))
    assert sum(encoded) == 2 * sum(tiny_run.SPLITS.values())
    encoded.clear()
    tiny_run.trained(make_cfg("CoOp", *pairs, "SEED", 2, output="seed2"))
    tiny_run.trained(make_cfg("CoCoOp", *pairs, output="other"))
    assert encoded == []


def test_augmented_training_images_are_encoded_anew_and_test_images_are_not(
    make_cfg: ConfigMaker, tmp_path: Path, encoded: list[int]
) -> None:
    pairs = ("FEATURES.DIR", str(tmp_path / "cache"), "INPUT.TRANSFORMS", ["random_flip", "normalize"])
    trainer = tiny_run.trained(make_cfg("CoOp", *pairs))
    assert not isinstance(trainer.train_loader_x, FeatureLoader)
    assert sum(encoded) == 2 * (2 * 8) + 2 * tiny_run.SPLITS["test"]  # two epochs of two whole batches


def test_a_tower_that_is_trained_is_never_cached(make_cfg: ConfigMaker, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    trainer = tiny_run.trained(
        make_cfg("XCoOpPublished", "TRAINER.XCOOPPUBLISHED.TUNE_NORMS", True, "FEATURES.DIR", str(cache))
    )
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not isinstance(trainer.test_loader, FeatureLoader)


def test_the_file_depends_on_images_weights_preprocessing_and_kind(
    make_cfg: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_run.draw(tmp_path / "pictures")
    trainer = tiny_run.build(make_cfg("CoOp", "DATASET.ROOT", str(data)))
    store, loader = trainer.store, trainer.test_loader
    seen = {store.path(loader)}
    assert store.path(loader) in seen

    def changed() -> bool:
        path = store.path(loader)
        new = path not in seen
        seen.add(path)
        return new

    store.patches = True
    assert changed()
    with torch.no_grad():
        next(store.backbone.parameters()).add_(1e-3)
    assert changed()
    loader.dataset.transform = nn.Identity()
    assert changed()
    picture = Path(loader.dataset.data_source[3].impath)
    status = picture.stat()
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert changed()
    Image.new("RGB", (50, 50)).save(picture)
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed()
    loader.dataset.data_source.reverse()
    assert changed()
    monkeypatch.setattr("xcoop.training.feature_cache.READER", "another decoder")
    assert changed()


@pytest.mark.parametrize("kind", ["flipped", "renamed", "without a hash", "empty", "no tensors", "truncated"])
def test_a_file_that_is_not_what_was_written_for_these_images_is_made_anew(
    kind: str, make_cfg: ConfigMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = tiny_run.build(make_cfg("CoOp", "FEATURES.DIR", str(tmp_path / "cache")))
    path, other = (trainer.store.path(loader) for loader in (trainer.test_loader, trainer.train_loader_x))
    right = trainer.store.features(trainer.test_loader)
    whole = bytearray(path.read_bytes())
    if kind == "flipped":
        whole[-1] ^= 64  # an exponent
    elif kind == "renamed":  # as many images, whole, and others
        wrong = {"pooled": right.pooled.flip(0), "patches": right.patches}
        whole = bytearray(save(wrong, {"name": other.name, "sha256": tensors_sha256(wrong)}))
    elif kind == "without a hash":
        whole = bytearray(save({"pooled": right.pooled.flip(0), "patches": right.patches}))
    else:
        whole = {"empty": bytearray(), "no tensors": bytearray(b"none at all"), "truncated": whole[:-100]}[kind]
    path.write_bytes(whole)
    again = trainer.store.features(trainer.test_loader)
    assert torch.equal(again.pooled, right.pooled)
    assert f"{path} cannot be used" in caplog.text
    caplog.clear()
    assert torch.equal(trainer.store.features(trainer.test_loader).pooled, right.pooled)
    assert not caplog.text


def test_a_folder_that_cannot_be_written_costs_no_run(
    make_cfg: ConfigMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    tiny_run.trained(make_cfg("CoOp", "FEATURES.DIR", str(tmp_path / "file" / "cache")))
    assert "not kept for the next run" in caplog.text


def test_features_that_would_fill_the_memory_are_computed_batch_by_batch(
    make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(features, "MAX_BYTES", 1000)
    trainer = tiny_run.trained(make_cfg("CoOp"))
    assert not isinstance(trainer.test_loader, FeatureLoader)
    assert "batch by batch" in caplog.text


def test_batches_are_those_of_the_image_loader(make_cfg: ConfigMaker) -> None:
    """Same order, same size, and a short last batch left out of training only."""
    trainer = tiny_run.build(make_cfg("CoOp"))
    for loader in (trainer.train_loader_x, trainer.test_loader):
        cached = trainer.store.loader(loader)
        torch.manual_seed(3)
        indices = list(loader.batch_sampler)
        torch.manual_seed(3)
        batches = list(cached)
        assert len(cached) == len(loader) == len(batches)
        for index, batch in zip(indices, batches, strict=True):
            items = [loader.dataset[i] for i in index]
            assert batch["impath"] == [item["impath"] for item in items]
            assert batch["label"].tolist() == [item["label"] for item in items]
            assert batch["index"].tolist() == index
            with torch.no_grad():
                pooled = trainer.backbone.encode_image(torch.stack([item["img"] for item in items])).pooled
            torch.testing.assert_close(batch["features"].pooled, pooled, atol=1e-5, rtol=0)


def test_finding_features_leaves_the_random_generators_where_computing_them_does(
    make_cfg: ConfigMaker, tmp_path: Path
) -> None:
    store = tiny_run.build(make_cfg("CoOp", "FEATURES.DIR", str(tmp_path / "cache")))
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        store.store.features(store.test_loader)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("patches", [False, True])
def test_features_are_what_the_tower_makes_of_each_batch(patches: bool, make_cfg: ConfigMaker) -> None:
    """Bit for bit, in whatever precision it computes."""
    trainer = tiny_run.build(make_cfg("CoOp"))
    trainer.store.patches = patches
    images = torch.stack([item["img"] for item in trainer.test_loader.dataset]).split(trainer.store.batch_size)
    for backbone in (trainer.backbone, trainer.backbone.half()):
        with torch.no_grad():
            parts = [backbone.encode_image(batch, patches=patches) for batch in images]
        found = trainer.store._compute(trainer.test_loader)
        assert len(images[-1]) != len(images[0])
        assert found.pooled.dtype == found.patches.dtype == torch.float32
        assert torch.equal(found.pooled, torch.cat([part.pooled for part in parts]).float())
        assert torch.equal(found.patches, torch.cat([part.patches for part in parts]).float())


def test_features_are_gathered_on_the_device_where_there_is_room(
    make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiny_run.build(make_cfg("CoOp")).store
    assert store._place(1) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8000, 16000))  # bytes free, and of the whole
    store.device = torch.device("cuda")
    assert [store._place(numbers).type for numbers in (999, 1000)] == ["cuda", "cpu"]
