"""Errors that several packages raise and a caller may want to tell apart."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset whose files contradict its layout; the message names the file and what would be right."""
