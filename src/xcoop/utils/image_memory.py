"""Images that are read in every epoch: decoded once, and kept as 8-bit RGB where a process and its workers find them.

What is kept stays: an epoch sees each image once, so that to put out the one used longest ago would put out the very
one that comes next. When there is no room, the rest is decoded each time; a later run begins with an empty memory then.
Each image is known by path, size and time of change, so a file that is changed is read anew.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from PIL import Image

from xcoop.utils import process_cache

logger = logging.getLogger(__name__)

ROWS = 1 << 18  # images that a memory can have, whatever their size
_FIELDS = 5  # of a row: 1 + where the pixels begin (0: nowhere), height, width; size and time of change of the file
_USED, _FULL = 0, 1  # in the row before the first: bytes in use, whether something found no room

Reader = Callable[[str], Image.Image]
Prepare = Callable[[Image.Image], Image.Image]

_way: ContextVar[Callable[[str, Reader], Image.Image] | None] = ContextVar("way", default=None)


def kept(path: str, read: Reader) -> Image.Image:
    """What `read` gives of a path; inside `ImageMemory.in_use` from memory, if it is there."""
    way = _way.get()
    return read(path) if way is None else way(path, read)


class ImageMemory:
    """Decoded images of this process and of the workers that are forked from it.

    A worker that is spawned instead has a memory of its own, which keeps nothing.

    Args:
        capacity: bytes of pixels, of all processes together. They are taken as they are needed.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._rows: dict[tuple[str, str], int] = {}
        self._table: Any = None  # (1 + ROWS, _FIELDS) int64
        self._pixels: Any = None  # (capacity,) uint8

    def __reduce__(self) -> tuple[type[ImageMemory], tuple[int]]:
        return ImageMemory, (0,)

    @property
    def used(self) -> int:
        """Bytes of pixels that are kept."""
        return 0 if self._table is None else int(self._table[0, _USED])

    @property
    def full(self) -> bool:
        """Whether an image found no room."""
        return self._table is not None and bool(self._table[0, _FULL])

    def enrol(self, paths: Iterable[str], form: str) -> None:
        """Says which images are to be kept; to be called before workers start.

        Args:
            paths: their files.
            form: what is done with them before they are kept, in words: see `in_use`.
        """
        if self._table is None and self.capacity:
            try:
                self._lock = multiprocessing.Lock()
                # Memory that forked processes share, and not in /dev/shm, which containers keep small.
                table, pixels = mmap.mmap(-1, 8 * _FIELDS * (1 + ROWS)), mmap.mmap(-1, self.capacity)
            except OSError as error:
                logger.info("images are decoded each time, since no memory for them is to be had: %s", error)
                self.capacity = 0
            else:
                self._table = np.frombuffer(table, np.int64).reshape(1 + ROWS, _FIELDS)
                self._pixels = np.frombuffer(pixels, np.uint8)
        if self._table is None:
            return
        for path in paths:
            if len(self._rows) == ROWS:
                self._table[0, _FULL] = 1
                break
            self._rows.setdefault((path, form), 1 + len(self._rows))

    @contextmanager
    def in_use(self, form: str, prepare: Prepare) -> Iterator[None]:
        """Inside, `kept` keeps the images that were enrolled, and finds those that are kept.

        Args:
            form: as they were enrolled.
            prepare: what is done with an image before it is kept. Done to its own result, it must change nothing.
        """
        token = _way.set(lambda path, read: self._image(path, form, prepare, read))
        try:
            yield
        finally:
            _way.reset(token)

    def _image(self, path: str, form: str, prepare: Prepare, read: Reader) -> Image.Image:
        row = self._rows.get((path, form))
        try:
            status = os.stat(path)
        except OSError:
            row = None
        if row is None:  # or no file: the reader says so
            return read(path)
        stamp = [status.st_size, status.st_mtime_ns]
        with self._lock:
            start, height, width, *known = self._table[row].tolist()
        if start and known == stamp:
            pixels = self._pixels[start - 1 : start - 1 + 3 * height * width]
            return Image.fromarray(pixels.reshape(height, width, 3))  # a copy
        image = prepare(read(path))
        if image.mode == "RGB":  # nothing else comes back from an array of 8-bit values as it was
            self._keep(row, np.asarray(image), stamp)
        return image

    def _keep(self, row: int, array: np.ndarray, stamp: list[int]) -> None:
        height, width, _ = array.shape
        with self._lock:
            start = self.used
            if start + array.size > self.capacity:
                self._table[0, _FULL] = 1
                return
            self._table[0, _USED] = start + array.size
        self._pixels[start : start + array.size] = array.reshape(-1)
        with self._lock:
            self._table[row] = (1 + start, height, width, *stamp)


def image_memory(megabytes: int) -> ImageMemory:
    """A memory of so many MiB; among runs that share, that of the run before, unless it had no room left.

    Args:
        megabytes: 0 keeps nothing.
    """
    shared, capacity = process_cache.current(), megabytes << 20
    if shared is None:
        return ImageMemory(capacity)
    if shared.images is None or shared.images.full or shared.images.capacity != capacity:
        shared.images = ImageMemory(capacity)
    memory: ImageMemory = shared.images
    return memory
