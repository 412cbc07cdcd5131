"""One interface over CLIP-like models; a new one is a new file here, and no trainer knows which it runs on."""

from xcoop.backbones.base import Backbone, ImageFeatures
from xcoop.backbones.registry import backbone_names, load_backbone, register_backbone

__all__ = ["Backbone", "ImageFeatures", "backbone_names", "load_backbone", "register_backbone"]
