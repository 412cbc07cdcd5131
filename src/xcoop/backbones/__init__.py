"""One interface over CLIP-like models; a new one is a new file here, and no trainer knows which it runs on."""

from xcoop.backbones.base import (
    Backbone,
    ImageFeatures,
    LabelledFeatures,
    TextLimits,
    Wanted,
    backbone_names,
    backbone_of,
    check_input,
    fetch_weights,
    load_backbone,
    register_backbone,
    require_backbone,
    text_limits,
)

__all__ = [
    "Backbone",
    "ImageFeatures",
    "LabelledFeatures",
    "TextLimits",
    "Wanted",
    "backbone_names",
    "backbone_of",
    "check_input",
    "fetch_weights",
    "load_backbone",
    "register_backbone",
    "require_backbone",
    "text_limits",
]
