"""The configuration: defaults, merging, the hash of a run's settings, and the registries of plug-ins."""
