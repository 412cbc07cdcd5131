"""How far a download is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

logger = logging.getLogger(__name__)


@contextmanager
def progress(name: str, start: int, total: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal, else a line at each tenth (or at each 100 MB); gives what counts further bytes."""
    if sys.stderr.isatty():
        with tqdm(total=total or None, initial=start, unit="B", unit_scale=True, desc=name) as bar:
            yield bar.update
    else:
        yield _Lines(name, start, total).advance


class _Lines:
    """Logs how far it is."""

    def __init__(self, name: str, start: int, total: int) -> None:
        self._name, self._done, self._total = name, start, total
        self._step = max(total // 10, 1) if total else 100_000_000
        self._next = (start // self._step + 1) * self._step

    def advance(self, count: int) -> None:
        self._done += count
        if self._done < self._next:
            return
        self._next = (self._done // self._step + 1) * self._step
        share = f" ({self._done / self._total:.0%})" if self._total else ""
        logger.info(
            "%s: %s of %s bytes%s", self._name, f"{self._done:,}", f"{self._total:,}" if self._total else "?", share
        )
