"""Random seeds, and what a run ran on."""

from __future__ import annotations

import random


def set_random_seed(seed: int) -> None:
    """Seeds Python, numpy, torch and every CUDA device."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def collect_env_info() -> str:
    """The versions of torch, CUDA, Python, the system and Pillow, one a line."""
    import PIL
    from torch.utils.collect_env import get_pretty_env_info

    return f"{get_pretty_env_info()}\n        Pillow ({PIL.__version__})"
