"""The small CLIP that ships with this package, trained on drawn images; `xcoop.phantom` makes both."""

from __future__ import annotations

from pathlib import Path

from xcoop.backbones.base import Backbone
from xcoop.backbones.build import build_clip
from xcoop.backbones.openai import ClipBackbone
from xcoop.backbones.registry import register_backbone
from xcoop.backbones.weights import read_state_dict

SHIPPED = Path(__file__).resolve().parents[1] / "phantom" / "pretrained" / "phantom.safetensors"


@register_backbone("phantom")
def load_phantom(name: str, path: str) -> Backbone:
    """The shipped weights, or those of a local file."""
    path = path or str(SHIPPED)
    return ClipBackbone(name, build_clip(read_state_dict(path), path))
