"""Images that are read again are decoded once: the same images, in no more memory than was said, for all workers."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
import torch
from PIL import Image
from tiny_run import ConfigMaker

from xcoop.training import trainer as training
from xcoop.utils.image_memory import ImageMemory, image_memory
from xcoop.utils.images import ImageError
from xcoop.utils.process_cache import Shared, sharing

CROPPED = ["random_resized_crop", "random_flip", "colorjitter", "normalize"]
FLIPPED = ["random_flip", "normalize"]
MB = 1 << 20


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the image files that this process opens from now on."""
    names: list[str] = []
    read, open_image = Path.read_bytes, Image.open

    def read_bytes(path: Path) -> bytes:
        names.append(path.name)
        return read(path)

    def opened(file: Any, *args: Any, **options: Any) -> Image.Image:
        if isinstance(file, str):  # Dassl opens by name
            names.append(Path(file).name)
        return open_image(file, *args, **options)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(Image, "open", opened)
    return names


@pytest.fixture
def own_pictures(tmp_path: Path, pictures: Path) -> Path:
    """The drawn images, to be changed by a test."""
    return Path(shutil.copytree(pictures, tmp_path / "pictures"))


def flat(batches: Iterator[Any]) -> list[torch.Tensor]:
    """All tensors of images of some batches or items."""
    keys = ("img", "img0")
    found = [batch[key] for batch in batches for key in keys if key in batch]
    return [tensor for views in found for tensor in (views if isinstance(views, list) else [views])]


def redrawn(folder: Path) -> None:
    """Puts other kinds of files in the places of some."""
    rng, names = np.random.default_rng(3), sorted(folder.glob("*.png"))
    colours = Image.fromarray(rng.integers(0, 256, (61, 90, 3), dtype=np.uint8))
    grey = Image.fromarray(rng.integers(0, 4000, (40, 33), dtype=np.uint16))
    layers = Image.fromarray(rng.integers(0, 256, (50, 35, 4), dtype=np.uint8))
    colours.save(names[0], "JPEG", quality=80)
    grey.save(names[1])
    layers.save(names[2])
    colours.quantize(9).save(names[3], transparency=3)
    colours.convert("CMYK").save(names[4], "JPEG")
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(names[5])
    colours.save(names[6], "WEBP", quality=70)


@pytest.mark.parametrize("transforms", [["normalize"], FLIPPED, CROPPED])
@pytest.mark.parametrize("more", [(), ("DATALOADER.RETURN_IMG0", True, "DATALOADER.K_TRANSFORMS", 2)])
def test_an_image_from_memory_is_the_image(
    transforms: list[str], more: tuple[Any, ...], own_pictures: Path, make_cfg: ConfigMaker, decoded: list[str]
) -> None:
    redrawn(own_pictures / "train")
    cfg = make_cfg("PromptSRC", "DATASET.ROOT", str(own_pictures), "INPUT.TRANSFORMS", transforms, *more)
    trainer = tiny_run.build(cfg)
    for dataset in (trainer.train_loader_x.dataset, trainer.test_loader.dataset):
        as_read = flat(dataset[i] for i in range(len(dataset)))
        memory = ImageMemory(MB)
        dataset.keep_in(memory)
        flat(dataset[i] for i in range(len(dataset)))
        decoded.clear()
        from_memory = flat(dataset[i] for i in range(len(dataset)))
        assert not decoded
        assert all(torch.equal(a, b) for a, b in zip(from_memory, as_read, strict=True))
        assert 0 < memory.used < MB
        assert not memory.full


def test_what_begins_with_a_resize_is_kept_small(own_pictures: Path, make_cfg: ConfigMaker) -> None:
    for path in (own_pictures / "train").glob("*.png"):
        Image.new("RGB", (300, 200)).save(path)
    used = []
    for transforms in (["normalize"], FLIPPED, CROPPED):
        cfg = make_cfg("PromptSRC", "DATASET.ROOT", str(own_pictures), "INPUT.TRANSFORMS", transforms)
        dataset, memory = tiny_run.build(cfg).train_loader_x.dataset, ImageMemory(8 * MB)
        dataset.keep_in(memory)
        flat(dataset[i] for i in range(len(dataset)))
        used.append(memory.used)
    assert used == [20 * 3 * 32 * 32, 20 * 3 * 32 * 32, 20 * 3 * 200 * 300]


@pytest.mark.parametrize("name", ["CoOp", "PromptSRC"])  # an image tower that is frozen, and one that is not
def test_every_epoch_after_the_first_decodes_nothing(
    name: str, make_cfg: ConfigMaker, tmp_path: Path, decoded: list[str]
) -> None:
    pairs = ("INPUT.TRANSFORMS", CROPPED, "OPTIM.MAX_EPOCH", 3, "DATALOADER.TRAIN_X.BATCH_SIZE", 20)
    pairs += ("FEATURES.DIR", str(tmp_path / "features"))
    run = tiny_run.trained(make_cfg(name, *pairs, "TEST.FINAL_MODEL", "best_val"))
    splits = (run.dm.dataset.train_x, run.dm.dataset.val, run.dm.dataset.test)
    files = sorted(Path(item.impath).name for split in splits for item in split)
    assert sorted(name for name in decoded if name.endswith(".png")) == files
    plain = tiny_run.trained(
        make_cfg(name, *pairs, "TEST.FINAL_MODEL", "best_val", "FEATURES.IMAGES_MB", 0, output="0")
    )
    assert torch.equal(torch.cat(plain._probabilities), torch.cat(run._probabilities))
    assert plain.images.used == 0


def test_a_file_that_is_changed_is_read_anew(own_pictures: Path, make_cfg: ConfigMaker) -> None:
    cfg = make_cfg("PromptSRC", "DATASET.ROOT", str(own_pictures))
    dataset, memory = tiny_run.build(cfg).test_loader.dataset, ImageMemory(MB)
    dataset.keep_in(memory)
    path = Path(dataset.data_source[0].impath)
    before = dataset[0]["img"]
    Image.new("RGB", (40, 32), "red").save(path)
    after = dataset[0]["img"]
    assert not torch.equal(after, before)
    assert torch.equal(dataset[0]["img"], after)
    path.unlink()
    with pytest.raises((FileNotFoundError, ImageError), match=path.name):
        dataset[0]


def test_workers_find_what_other_workers_decoded_and_keep_no_more_than_was_said(
    own_pictures: Path, make_cfg: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "with_workers_that_exist", lambda cfg: cfg)
    pairs = ("DATASET.ROOT", str(own_pictures), "DATALOADER.NUM_WORKERS", 2, "DATALOADER.TEST.BATCH_SIZE", 2)
    loader, size = tiny_run.build(make_cfg("PromptSRC", *pairs)).test_loader, 3 * 32 * 32
    memory = ImageMemory(5 * size)
    loader.dataset.keep_in(memory)
    first = torch.cat(flat(loader))
    assert (memory.used, memory.full) == (5 * size, True)  # of all workers together
    for item in loader.dataset.data_source:  # what a worker decodes from now on is black
        status = os.stat(item.impath)
        Image.new("RGB", (40, 32)).save(item.impath)
        with open(item.impath, "ab") as file:
            file.write(bytes(status.st_size - os.stat(item.impath).st_size))
        os.utime(item.impath, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = torch.cat(flat(loader))
    same = [torch.equal(one, other) for one, other in zip(first, second, strict=True)]
    assert sum(same) == 5
    assert memory.used == 5 * size


def test_a_worker_that_does_not_inherit_the_memory_keeps_nothing(make_cfg: ConfigMaker) -> None:
    dataset, memory = tiny_run.build(make_cfg("PromptSRC")).test_loader.dataset, ImageMemory(MB)
    dataset.keep_in(memory)
    image = dataset[0]["img"]
    spawned = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(spawned[0]["img"], image)
    assert torch.equal(spawned[0]["img"], image)
    assert spawned._memory.used == spawned._memory.capacity == 0 < memory.used


def test_runs_that_share_decode_once_together(make_cfg: ConfigMaker, decoded: list[str]) -> None:
    pairs = ("INPUT.TRANSFORMS", CROPPED)
    alone = tiny_run.trained(make_cfg("PromptSRC", *pairs, output="alone"))
    with sharing(Shared()):
        first = tiny_run.trained(make_cfg("PromptSRC", *pairs))
        decoded.clear()
        second = tiny_run.trained(make_cfg("PromptSRC", *pairs, output="second"))
    assert not [name for name in decoded if name.endswith(".png")]
    assert second.images is first.images is not alone.images
    assert torch.equal(torch.cat(second._probabilities), torch.cat(alone._probabilities))


def test_a_run_that_finds_no_room_begins_anew(make_cfg: ConfigMaker) -> None:
    with sharing(Shared()):
        memory = image_memory(1)
        assert image_memory(1) is memory
        dataset = tiny_run.build(make_cfg("PromptSRC")).test_loader.dataset
        memory.capacity = 100
        dataset.keep_in(memory)
        flat(dataset[i] for i in range(len(dataset)))
        assert memory.full
        assert image_memory(1) is not memory
        assert image_memory(1) is not image_memory(2)
