"""The small CLIP that ships with this package, trained on drawn images; `xcoop.phantom` makes both."""

from __future__ import annotations

from xcoop.backbones.base import Backbone
from xcoop.backbones.build import build_clip
from xcoop.backbones.openai import TEXT, ClipBackbone
from xcoop.backbones.registry import register_backbone
from xcoop.backbones.weights import read_state_dict


@register_backbone("phantom", text=TEXT)
def load_phantom(name: str, path: str) -> Backbone:
    """The shipped weights, or those of a local file."""
    # Imported here: the phantom stands above the backbones, and only the form of its weights file is needed.
    from xcoop.phantom.weights import load_state_dict, pretrained_path

    state = read_state_dict(path) if path else load_state_dict(pretrained_path())
    return ClipBackbone(name, build_clip(state, path or str(pretrained_path())))
