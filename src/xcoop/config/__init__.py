"""The configuration: defaults, merging, the hash of a run's settings, and the registries of plug-ins."""

from xcoop.config.plugins import get_cfg

__all__ = ["get_cfg"]
