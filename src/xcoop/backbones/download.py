"""OpenAI's weights: downloaded once, checked, kept where OpenAI's own loader keeps them."""

from __future__ import annotations

from pathlib import Path


def fetch_openai(name: str) -> Path:
    """The local file with OpenAI's weights of that name."""
    raise NotImplementedError(name)
