"""The small CLIP that ships with this package, trained on drawn images; `xcoop.phantom` makes both."""

from __future__ import annotations

from xcoop.backbones.base import Backbone
from xcoop.backbones.build import build_clip
from xcoop.backbones.openai import TEXT, ClipBackbone
from xcoop.backbones.registry import register_backbone
from xcoop.backbones.weights import read_state_dict
from xcoop.utils.files import sha256_file


@register_backbone("phantom", text=TEXT)
def load_phantom(name: str, path: str) -> Backbone:
    """The shipped weights, or those of a local file."""
    # Imported here: the phantom stands above the backbones, and only the form of its weights file is needed.
    from xcoop.backbones.phantom_weights import (
        FULL,
        SHIPPED,
        load_state_dict,
        pretrained_path,
        read_metadata,
        untrained_rows,
    )

    if path:
        return ClipBackbone(name, build_clip(read_state_dict(path), path))
    shipped = pretrained_path()
    state = load_state_dict(shipped)
    if (found := sha256_file(shipped)) != SHIPPED:
        raise ValueError(
            f"{shipped} is not the file that comes with xcoop (its SHA-256 is {found[:12]}..., not {SHIPPED[:12]}...): "
            "install it anew; or name weights of your own with MODEL.BACKBONE.PATH"
        )
    vocab, width = state[FULL].shape
    # Rows that were never trained are drawn anew, so neither zero nor constant: only the draw tells them apart.
    trained = (state[FULL] != untrained_rows(vocab, width, int(read_metadata(shipped)["seed"]))).any(dim=1)
    return ClipBackbone(name, build_clip(state, str(shipped)), trained.nonzero().flatten().tolist())
