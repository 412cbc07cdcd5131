"""Mends for the real Dassl on current PyTorch (to be filled in)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def mending(module: ModuleType) -> Iterator[None]:
    """Around the execution of one of Dassl's modules."""
    yield


def mend_loaded() -> None:
    """Mends what is imported already."""
