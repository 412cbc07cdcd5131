"""Random generators: their states, which can stand in a checkpoint, and the seed of each sample's augmentation."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """The states of Python's, numpy's, torch's and every CUDA device's generator."""
    version, internal, gauss = random.getstate()
    of_numpy: Any = np.random.get_state(legacy=False)
    return {
        "python": [version, list(internal), gauss],
        "numpy": {
            "key": torch.from_numpy(of_numpy["state"]["key"].astype(np.int64)),
            "pos": int(of_numpy["state"]["pos"]),
            "has_gauss": int(of_numpy["has_gauss"]),
            "gauss": float(of_numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Puts the generators back into a state of `rng_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    of_numpy = state["numpy"]
    key = of_numpy["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, of_numpy["pos"], of_numpy["has_gauss"], of_numpy["gauss"]))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([device.cpu() for device in state["cuda"]])


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed of everything that is drawn to augment one image once: the only definition of it.

    It is the first 8 bytes, most significant first, of the SHA-256 of the ASCII text "<seed> <epoch> <index>". So the
    draws of a sample depend on nothing else: not on workers, batches, other samples, or where a run was resumed.

    Args:
        seed: SEED of the run.
        epoch: from 0.
        index: of the image in the list of training images, from 0; an epoch that goes through the list again counts on.

    Returns:
        In [0, 2**64). Several views of one image are drawn one after the other from this one seed.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch} {index}".encode()).digest()[:8], "big")


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Inside, Python's, numpy's and torch's CPU generators start at `seed`; afterwards they are as they were before.

    Args:
        seed: in [0, 2**64).
    """
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPUs, too
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
