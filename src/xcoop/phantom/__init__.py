"""Phantoms: drawn medical images whose concepts, and where they lie, are known.

Nothing measured on a phantom is a clinical result.
"""

VERSION = 1
"""Raised whenever equal seeds give other images."""
