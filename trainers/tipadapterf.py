"""Tip-Adapter-F: Tip-Adapter whose keys are trained (Zhang et al., ECCV 2022, arXiv 2111.03930).

The keys start as Tip-Adapter's and are trained with INIT_ALPHA and INIT_BETA, by AdamW with the release's eps of 1e-4;
then both are searched on the validation split, if there is one.

Differences from the released code (gaopengcuhk/Tip-Adapter, main.py at d0e2d6f): those of `trainers/tipadapter.py`;
training images are not augmented, so that their features are computed once; the rate falls after each epoch (there,
after each batch: the same up to 256 images). The release keeps the epoch that is best on *test* images, and reports the
better of two figures on them; here the test split selects nothing, and the last epoch is the model.
"""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from xcoop.config.plugins import register_trainer
from xcoop.trainers.tipadapter import CACHE, TipAdapter, TipAdapterModel

DEFAULTS = CfgNode({**CACHE, "PREC": "fp32"})  # fp32, amp, fp16, bf16, auto


class TipAdapterFModel(TipAdapterModel):
    """The keys are parameters; cross entropy."""

    uncaptured = ""
    trains_keys = True

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The keys; there are as many as training images."""
        return [{"params": [self.keys], "lr": lr, "eps": 1e-4, "name": "keys"}]


@register_trainer("TIPADAPTERF", DEFAULTS)
class TipAdapterF(TipAdapter):
    """Trains Tip-Adapter's keys."""

    method = TipAdapterFModel
