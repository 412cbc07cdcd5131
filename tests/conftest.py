"""What all tests share: no GPU, one thread, a cache of their own, and a small CLIP with random weights."""

from __future__ import annotations

import os

# Before torch is imported. The tests marked `gpu` are run with XCOOP_TEST_GPU=1.
if not os.environ.get("XCOOP_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# One thread: on models this small, threads wait for one another, and for other processes on the cores.
os.environ["OMP_NUM_THREADS"] = str(min(2, int(os.environ.get("OMP_NUM_THREADS", "1"))))

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_clip import tiny_backbone as make_tiny_backbone
from helpers_clip import tiny_clip_state
from safetensors.torch import save_file
from torch import Tensor

from xcoop.backbones.openai import ClipBackbone


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from or written to the cache of whoever runs the tests."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XCOOP_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_state() -> dict[str, Tensor]:
    """A small ViT CLIP's state dict (32 px, 4 x 4 patches, W 64, D 48). Shared: do not change it."""
    return tiny_clip_state(seed=0)


@pytest.fixture
def tiny_backbone() -> ClipBackbone:
    """A fresh, frozen backbone with the weights of `tiny_state`."""
    return make_tiny_backbone(seed=0)


@pytest.fixture(scope="session")
def tiny_weights_file(tiny_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_state` as a file: MODEL.BACKBONE.PATH, with the name "ViT-B/16"."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tiny_state.items()}, path)
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, on a machine without network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"
