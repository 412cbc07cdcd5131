"""Where a model looked: visual methods, one a file."""

from xcoop.explain.visual.finer import finer_maps
from xcoop.explain.visual.registry import DEFAULTS, default_method, explain_maps, explainer, explainers

__all__ = ["DEFAULTS", "default_method", "explain_maps", "explainer", "explainers", "finer_maps"]
