"""The version of XCoOp, stated once."""

__version__ = "0.1.0"
