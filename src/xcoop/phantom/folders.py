"""Folders that are whole or absent, and drawing many cases with every core."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

# Starting a process costs about a second: fewer jobs than this are done at home.
_JOBS_WORTH_A_POOL = 400


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary sibling folder, and moves it into place once it is full.

    A process that dies half-way leaves no `path`: at most a hidden `.name.*.tmp` folder beside it.

    Args:
        path: the final folder; it must not exist, or be empty. Its parents are made if missing.

    Yields:
        The temporary folder, on the same file system as `path`.

    Raises:
        FileExistsError: `path` exists and is not an empty folder.
    """
    path = Path(path)
    _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        _move_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def draw_cases(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    progress: bool = True,
    workers: int | None = None,
    label: str = "drawing",
) -> list[Result]:
    """Calls `function` once for every job, in several processes if there are many.

    The results don't depend on the number of workers as long as every job carries its own seed.

    Args:
        function: a function of a module (processes are spawned, so it must be importable).
        jobs: what to do; each must be picklable.
        progress: shows a bar if standard error is a terminal.
        workers: number of processes; None: one for each core, and none at all for small sets.
        label: stands before the bar.

    Returns:
        The results, in the order of `jobs`.
    """
    if workers is None:
        workers = _cores() if len(jobs) >= _JOBS_WORTH_A_POOL else 1
    with tqdm(total=len(jobs), desc=label, unit="image", disable=None if progress else True) as bar:
        if workers > 1:
            try:
                return _in_processes(function, jobs, workers, bar)
            except BrokenProcessPool:
                # For example a script without `if __name__ == "__main__"`: spawned processes cannot import it.
                log.warning("worker processes could not be kept alive; %s goes on in one process", label)
                bar.reset(total=len(jobs))
        return _at_home(function, jobs, bar)


def _at_home(function: Callable[[Job], Result], jobs: Sequence[Job], bar: tqdm) -> list[Result]:
    results = []
    for job in jobs:
        results.append(function(job))
        bar.update()
    return results


def _in_processes(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, bar: tqdm) -> list[Result]:
    # Spawned, not forked: a fork after torch has started its threads may hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    results = []
    try:
        for result in pool.map(function, jobs, chunksize=max(1, min(32, len(jobs) // (4 * workers)))):
            results.append(result)
            bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _cores() -> int:
    """The cores this process may use (at most 32)."""
    if hasattr(os, "sched_getaffinity"):
        return min(32, len(os.sched_getaffinity(0)))
    return min(32, os.cpu_count() or 1)


def _refuse_existing(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already; remove it, or name another folder")


def _move_folder(temporary: Path, path: Path) -> None:
    """Renames a finished folder to `path`, which may have come into being meanwhile."""
    _refuse_existing(path)
    temporary.chmod(0o755)  # mkdtemp makes it private
    if path.exists():
        path.rmdir()
    os.rename(temporary, path)
