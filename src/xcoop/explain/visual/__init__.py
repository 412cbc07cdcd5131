"""Where a model looked: visual methods, one a file."""

from xcoop.explain.visual.registry import DEFAULTS, Methods, explain_maps, explainer, explainers, methods

__all__ = ["DEFAULTS", "Methods", "explain_maps", "explainer", "explainers", "methods"]
