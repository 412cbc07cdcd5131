"""Drawing many cases with every core."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

# Starting a process costs about a second: fewer jobs than this are done at home.
_JOBS_WORTH_A_POOL = 400


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
        # Not every system tells which cores a process may use.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(32, cores) if len(jobs) >= _JOBS_WORTH_A_POOL else 1
    with tqdm(total=len(jobs), desc=label, unit="image", disable=None if progress else True) as bar:
        if workers > 1:
            # Spawned, not forked: a fork after torch has started its threads may hang.
            pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
            chunk = max(1, min(32, len(jobs) // (4 * workers)))
            try:
                return list(_counted(pool.map(function, jobs, chunksize=chunk), bar))
            except BrokenProcessPool:
                # For example a script without `if __name__ == "__main__"`: spawned processes cannot import it.
                log.warning("worker processes could not be kept alive; %s goes on in one process", label)
                bar.reset(total=len(jobs))
            finally:
                pool.shutdown(cancel_futures=True)
        return list(_counted(map(function, jobs), bar))


def _counted(results: Iterable[Result], bar: tqdm) -> Iterator[Result]:
    for result in results:
        bar.update()
        yield result
